"""`drkit find`: which snapshots hold a path."""

from __future__ import annotations

from typing import Annotated

import typer

from drkit.cli.output import entry_keys, size
from drkit.cli.params import LOST, SNAP_HELP
from drkit.cli.session import Session
from drkit.errors import IntegrityError
from drkit.model import show_path

EXAMPLES = """
drkit find SKILL.md
drkit find 'skills/*/README.md' --snapshot latest
drkit find '*.db' --json | jq '.matches[] | {path, snapshots}'
"""
KEYS = {
    "matches": "{path, type, size, snapshots} and the other keys of the manifest; `snapshots` are ids, oldest first",
    "lost": LOST,
}


def command(
    ctx: typer.Context,
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="A glob: of a name, or of a whole path if it has a '/'.")
    ],
    snapshot: Annotated[str, typer.Option("--snapshot", metavar="SNAP", help=f"{SNAP_HELP} [default: all]")] = "",
) -> int:
    """Find a path in all snapshots, one line for each version.

    Versions differ in type, mode, content or link target. The line shows from which snapshot to which it was there.
    '*' and '?' stop at '/', '**' crosses it; a path that matches a directory finds everything below it too.
    """
    from drkit.query.find import find
    from drkit.query.ls import modified

    session: Session = ctx.obj
    repository = session.open(cached=True)
    lost: list[str] = []
    loaded = []
    for ref in [repository.resolve(snapshot)] if snapshot else repository.snapshots():
        try:
            loaded.append((ref, repository.load(ref)))
        except IntegrityError as error:
            lost.append(f"{error}; {error.hint}")
    matches = find(repository, loaded, pattern, lost)
    session.console.result(
        {
            "matches": [{**entry_keys(match.path, match.entry), "snapshots": match.snapshots} for match in matches],
            "lost": lost,
        }
    )
    if matches:
        session.console.table(
            ("FIRST", "LAST", "SNAPSHOTS", "MODIFIED (UTC)", "SIZE", "PATH"),
            [
                (
                    match.snapshots[0][:12],
                    match.snapshots[-1][:12],
                    f"{len(match.snapshots):,}",
                    modified(match.entry),
                    size(match.entry.size) if match.entry.type == "f" else match.entry.type,
                    show_path(match.path),
                )
                for match in matches
            ],
            right=(2, 4),
        )
    return session.console.lost(lost)
