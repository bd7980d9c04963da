"""`drkit key list`: what opens the repository."""

from __future__ import annotations

import typer

from drkit.cli.session import Session
from drkit.cli.slots import SLOT_KEYS, encrypted, keys_of, text_of

EXAMPLES = """
drkit key list
"""
KEYS = {"repository": "its id", "slots": f"{SLOT_KEYS}, oldest first; `twice`: whether both copies are intact"}


def command(ctx: typer.Context) -> None:
    """List the key slots: their ids, kinds, and when and where they were made.

    No key is needed for that.
    """
    from drkit.seal.keys import read_slots

    session: Session = ctx.obj
    store, config = encrypted(session, writing=False)
    slots = read_slots(store, both=True)
    session.console.result({"repository": config.repository_id, "slots": list(map(keys_of, slots))})
    for slot in slots:
        session.console.line(text_of(slot))
        if not slot.twice:
            session.console.note(f"one of the two copies of {slot.id[:12]} is missing or damaged: run 'drkit repair'")
