"""`drkit ls`: what a snapshot holds."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from drkit.cli.output import entry_keys
from drkit.cli.params import LOST, Snap
from drkit.cli.session import Session
from drkit.model import show_path

EXAMPLES = """
drkit ls
drkit ls latest skills/report --long
drkit ls 3f9a --json | jq '.entries[] | select(.size > 1e6) | .path'
"""
KEYS = {
    "snapshot": "its id",
    "entries": "{path, type, size, mode, uid, gid, mtime_ns} and the other keys of the manifest (docs/format.md)",
    "lost": LOST,
}


def command(
    ctx: typer.Context,
    snap: Snap = "latest",
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Only this path of the source and what is below it.")
    ] = "",
    long: Annotated[
        bool, typer.Option("--long", "-l", help="Show mode, owner, size and modification time (UTC) too.")
    ] = False,
) -> int:
    """List the paths in a snapshot."""
    from drkit.query import ls

    session: Session = ctx.obj
    console = session.console
    repository = session.open(cached=True)
    ref = repository.resolve(snap)
    lost: list[str] = []
    entries = ls.ls(repository, repository.load(ref), lost, os.fsencode(path))
    if console.json:
        shown = [entry_keys(raw, entry) for raw, entry in entries]
        console.result({"snapshot": ref.id, "entries": shown, "lost": lost})
    for raw, entry in entries:
        line = show_path(raw)
        if long:
            arrow = f" -> {show_path(entry.raw_target)}" if entry.type == "l" else ""
            owner = f"{entry.uid:>5} {entry.gid:>5}"
            line = f"{ls.file_mode(entry)} {owner} {entry.size:>12,} {ls.modified(entry)} {line}{arrow}"
        console.line(line)
    return console.lost(lost)
