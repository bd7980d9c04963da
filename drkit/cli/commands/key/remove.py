"""`drkit key remove`: a passphrase or key file that is to open the repository no more."""

from __future__ import annotations

from typing import Annotated

import typer

from drkit.cli.session import Session
from drkit.cli.slots import changing, text_of
from drkit.errors import UsageError

EXAMPLES = """
drkit key remove 3f2a9c01
"""
KEYS = {"removed": "id of the slot", "left": "how many are left"}


def command(
    ctx: typer.Context,
    *,
    slot: Annotated[str, typer.Argument(metavar="SLOT", help="The beginning of a slot's id; see 'drkit key list'.")],
) -> None:
    """Remove a key slot. The last one stays.

    Whoever has an older copy of the slot and its secret still has the keys that are in it: if a secret has leaked, run
    'drkit key rotate' as well. Copies of the repository have slots of their own: remove it with --repo there, too.
    """
    from drkit.seal.keys import damaged_slots, delete_slot, read_slots

    session: Session = ctx.obj
    with changing(session) as (store, _, _):
        slots = read_slots(store)
        texts = {one.id: text_of(one) for one in slots} | {one: f"{one[:12]}  damaged" for one in damaged_slots(store)}
        chosen = [one for one in texts if slot and one.startswith(slot.lower())]
        if len(chosen) != 1:
            what = "is the beginning of several slots' ids" if chosen else "is no slot"
            raise UsageError(f"{slot!r} {what}", hint="see 'drkit key list'")
        left = [one for one in slots if one.id != chosen[0]]
        if not left:
            raise UsageError("this is the last key slot: without it nothing can be read", hint="add another one first")
        delete_slot(store, chosen[0])
    session.console.result({"removed": chosen[0], "left": len(left)})
    session.console.line(f"removed: {texts[chosen[0]]}")
    session.console.note("if its secret has leaked, run 'drkit key rotate' as well")
