"""`drkit key list`: what opens the repository."""

from __future__ import annotations

import typer

from drkit.cli.session import Session
from drkit.cli.slots import SLOT_KEYS, encrypted, keys_of, text_of

EXAMPLES = """
drkit key list
"""
KEYS = {
    "repository": "its id",
    "slots": f"{SLOT_KEYS}, oldest first; `twice`: whether both copies are intact",
    "damaged": "ids of slots of which no copy is intact; if there are any, the exit code is 3",
}


def command(ctx: typer.Context) -> int:
    """List the key slots: their ids, kinds, and when and where they were made.

    No key is needed for that.
    """
    from drkit.seal.keys import damaged_slots, no_slots, read_slots

    session: Session = ctx.obj
    store, config = encrypted(session, writing=False)
    slots = read_slots(store, both=True)
    if not slots:
        raise no_slots(store)
    damaged = damaged_slots(store)
    found = list(map(keys_of, slots))
    session.console.result({"repository": config.repository_id, "slots": found, "damaged": damaged})
    for slot in slots:
        session.console.line(text_of(slot))
        if not slot.twice:
            session.console.note(f"one of the two copies of {slot.id[:12]} is missing or damaged: run 'drkit repair'")
    return session.console.lost([f"both copies of {slot_id[:12]} are damaged: {_BACK}" for slot_id in damaged])


_BACK = "its secret opens nothing; 'drkit repair --from URL' brings it back from a copy, 'drkit key remove' gives it up"
