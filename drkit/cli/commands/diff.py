"""`drkit diff`: what changed between two snapshots."""

from __future__ import annotations

import typer

from drkit.cli.output import path_text
from drkit.cli.params import Snap
from drkit.cli.session import Session
from drkit.model import show_path

EXAMPLES = """
drkit diff 3f9a latest
drkit diff 3f9a latest --json | jq -r '.modified[]'
"""
KEYS = {
    "old": "id of the first snapshot",
    "new": "id of the second",
    "added": "paths",
    "removed": "paths",
    "modified": "paths",
}


def command(ctx: typer.Context, old: Snap, new: Snap) -> None:
    """List what changed from one snapshot to another.

    Lines begin with + for added, - for removed and M for modified. Files, links and special files are compared by
    type, mode, content, link target and device number; directories, times and owners do not count.
    """
    from drkit.query.diff import diff

    session: Session = ctx.obj
    console = session.console
    repository = session.open(cached=True)
    before, after = repository.resolve(old), repository.resolve(new)
    found = diff(repository, repository.load(before), repository.load(after))
    marked = {"+": found.added, "-": found.removed, "M": found.modified}
    names = dict(zip(marked, ("added", "removed", "modified"), strict=True))
    lists = {names[mark]: [path_text(raw) for raw in paths] for mark, paths in marked.items()}
    console.result({"old": before.id, "new": after.id, **lists})
    for mark, paths in marked.items():
        for raw in paths:
            console.line(f"{mark} {show_path(raw)}")
    console.note(f"{len(found.added):,} added, {len(found.removed):,} removed, {len(found.modified):,} modified")
