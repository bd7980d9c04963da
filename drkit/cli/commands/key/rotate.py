"""`drkit key rotate`: a new key for what is written from now on."""

from __future__ import annotations

from typing import Annotated

import typer

from drkit.cli.output import count
from drkit.cli.session import Session
from drkit.cli.slots import SLOT_KEYS, changing, keys_of, text_of
from drkit.clock import utc_now

EXAMPLES = """
drkit key rotate
drkit key rotate --key-file ~/.config/drkit/key --drop-others
"""
KEYS = {"slots": f"{SLOT_KEYS}: the new slots", "dropped": f"{SLOT_KEYS}: those that are gone"}


def command(
    ctx: typer.Context,
    *,
    key_file: Annotated[
        list[str] | None, typer.Option("--key-file", metavar="FILE", help="Keep the slot of this key file.")
    ] = None,
    password_file: Annotated[
        list[str] | None, typer.Option("--password-file", metavar="FILE", help="Keep the slot of this passphrase.")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop-others", help="Remove the slots whose secrets are not given.")] = False,
) -> None:
    """Make a new key, with which everything is sealed from now on. What is stored stays as it is, and readable.

    Every slot is written anew, which takes its secret: that which opens the repository, and those of --key-file and
    --password-file. Slots of other secrets can only be dropped. Afterwards 'drkit copy' brings the new slots to each
    copy, and takes the old ones away there.
    """
    from drkit.seal.keys import rotate
    from drkit.seal.secret import read_key_file, read_password_file

    session: Session = ctx.obj
    others = [*map(read_key_file, key_file or ()), *map(read_password_file, password_file or ())]
    with changing(session) as (store, config, _):
        new, dropped = rotate(store, config, session.keys, others, drop=drop, now=utc_now)
    session.console.result({"slots": list(map(keys_of, new)), "dropped": list(map(keys_of, dropped))})
    for what, slots in (("new", new), ("dropped", dropped)):
        for slot in slots:
            session.console.line(f"{what}: {text_of(slot)}")
    session.console.note(
        f"a new key in {count(len(new), 'slot')}; run 'drkit copy' for each copy, and export a new sheet of paper"
    )
