"""`drkit restore`: bring back a whole snapshot, or some of its paths."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.output import Console, count, duration, size
from drkit.cli.params import Snap
from drkit.cli.session import Session

if TYPE_CHECKING:
    from drkit.restore import RestoreReport

EXAMPLES = """
drkit restore --target /tmp/back
drkit restore 3f9a --target ~/plugins --delete
drkit restore latest --target /tmp/back --include 'skills/**' --dry-run
"""
KEYS = {
    "snapshot": "its id",
    "files": "how many files were restored",
    "dirs": "how many directories",
    "links": "how many symbolic links",
    "others": "how many FIFOs and devices",
    "bytes": "sum of the files' sizes",
    "tree_sha256": "tree hash of what was read back",
    "lost": "{path, reason, until}: with until, all from path to before it; if there are any, the exit code is 3",
    "duration_s": "seconds",
    "method": "how it took its place: 'exchange', 'rename', 'files', or nothing for a dry run",
    "notes": "what could not be set here, for instance owners",
}


def command(
    ctx: typer.Context,
    snap: Snap = "latest",
    *,
    target: Annotated[
        str, typer.Option("--target", metavar="DIR", help="Put the source's content directly into this directory.")
    ],
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="GLOB", help="Restore only what matches; repeatable.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Replace what DIR holds.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be restored; write nothing.")] = False,
) -> int:
    """Restore a snapshot into a directory.

    The tree is written beside DIR, made durable, read back and compared with the snapshot, and takes its place only
    then. DIR must be new or empty, unless --delete is given. What is damaged is left out and listed: exit code 3.
    """
    from drkit.cli import recording
    from drkit.restore import restore_tree

    session: Session = ctx.obj
    repository = session.open()
    ref = repository.resolve(snap)
    with session.progress() as progress:
        report = restore_tree(
            repository,
            ref,
            os.fsencode(target),
            include=tuple(include or ()),
            delete=delete,
            dry_run=dry_run,
            progress=progress,
        )
    recording.restore(session, repository, report, part=bool(include))
    return show(session.console, report)


def show(console: Console, report: RestoreReport) -> int:
    """Print the report of a restore; return the exit code."""
    console.result(report)
    for note in report.notes:
        console.note(f"note: {note}")
    done = "restored" if report.method else "would restore"
    console.note(
        f"{done} {count(report.files, 'file')}, {size(report.bytes)}, from snapshot {report.snapshot[:12]} "
        f"in {duration(report.duration_s)}"
    )
    if report.method:
        console.note(f"read back and compared: tree hash {report.tree_sha256}")
    return console.lost([f"lost: {lost.path}: {lost.reason}" for lost in report.lost])
