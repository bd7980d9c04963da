"""`drkit key add`: another passphrase or key file."""

from __future__ import annotations

from typing import Annotated

import typer

from drkit.cli.session import Session
from drkit.cli.slots import changing, keys_of, text_of
from drkit.clock import utc_now

EXAMPLES = """
drkit key add --label "Ann's passphrase"
drkit key add --key-file ~/.config/drkit/key --label laptop
"""
KEYS = {
    "id": "of the new slot",
    "kind": "passphrase or keyfile",
    "created": "RFC 3339 UTC time",
    "host": "this machine",
    "label": "as given",
    "twice": "whether both copies are stored",
}


def command(
    ctx: typer.Context,
    *,
    key_file: Annotated[
        str, typer.Option("--key-file", metavar="FILE", help="Make this key file, in place of a passphrase.")
    ] = "",
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="What 'drkit key list' shows of it.")] = "",
) -> None:
    """Let another secret open the repository: a new passphrase, or a key file that is made here.

    The new passphrase is what DRKIT_NEW_PASSWORD, DRKIT_NEW_PASSWORD_FILE or DRKIT_NEW_PASSWORD_COMMAND gives, or what
    is typed twice. To change a passphrase, add the new one, then remove the old one.
    """
    from msgspec import structs

    from drkit.cli.secrets import chosen
    from drkit.seal.keys import add_slot

    session: Session = ctx.obj
    with changing(session) as (store, config, opened):
        slot = add_slot(store, config, opened.ring, chosen(key_file), now=utc_now, label=label)
    session.console.result(keys_of(structs.replace(slot, twice=True)))
    session.console.line(text_of(slot))
