"""`drkit guard recover`: put back what was interrupted."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from drkit.cli import guarding
from drkit.cli.output import count, path_text
from drkit.cli.session import Session
from drkit.errors import PartialError

EXAMPLES = """
drkit guard recover --source ~/plugins
"""
KEYS = {
    "recovered": "what was interrupted: `{kind, done, plugins, snapshot, rejected_snapshot, left}`, where `done` is "
    "'put back' or 'finished', and `left` are paths that somebody changed since: they were left alone"
}


def command(
    ctx: typer.Context,
    *,
    source: Annotated[str, typer.Option("--source", metavar="DIR", help="The directory that was worked on.")],
) -> int:
    """End what still runs of an interrupted command on a source, and put back what it and edits left undone.

    Every other drkit command on the source does that first; there is nothing that must be recovered by hand.
    """
    session: Session = ctx.obj
    found = guarding.recover_first(session, os.fsencode(source))
    rows: list[dict[str, Any]] = [
        {
            "kind": one.kind,
            "done": one.done,
            "plugins": list(map(path_text, one.plugins)),
            "snapshot": one.snapshot,
            "rejected_snapshot": one.rejected or None,
            "left": list(map(path_text, one.paths)),
        }
        for one in found
    ]
    session.console.result({"recovered": rows})
    session.console.note(f"recovered {count(len(found), 'interrupted change')}" if found else "nothing was interrupted")
    return PartialError.code if any(one.paths for one in found) else 0
