"""`drkit restore-plugin`: bring back one plugin."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from drkit.cli.commands.restore import KEYS, show
from drkit.cli.params import SNAP_HELP
from drkit.cli.session import Session
from drkit.errors import UsageError

__all__ = ["EXAMPLES", "KEYS", "command"]

EXAMPLES = """
drkit restore-plugin report-writer --target /tmp/report-writer
drkit restore-plugin plugins/report-writer --snapshot 3f9a --in-place
drkit restore-plugin report-writer --in-place --source ~/plugins
"""


def command(
    ctx: typer.Context,
    plugin: Annotated[str, typer.Argument(metavar="PLUGIN", help="The plugin's path, or its name.")],
    *,
    snapshot: Annotated[str, typer.Option("--snapshot", metavar="SNAP", help=SNAP_HELP)] = "latest",
    target: Annotated[
        str, typer.Option("--target", metavar="DIR", help="Put the plugin's content directly into this directory.")
    ] = "",
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the live plugin.")] = False,
    source: Annotated[
        str,
        typer.Option(
            "--source", metavar="DIR", help="With --in-place: the source, if it is not where it was backed up."
        ),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be restored; write nothing.")] = False,
) -> int:
    """Restore one plugin, into a directory or in place.

    In place, the live plugin is replaced as a whole, in one step where the system can, and stays as it is if anything
    of the plugin is lost. With --target, DIR must be new or empty.
    """
    from drkit.cli import guarding, recording
    from drkit.restore import restore_plugin

    if bool(target) == in_place:
        raise UsageError("give either --target DIR or --in-place")
    if source and not in_place:
        raise UsageError("--source says where --in-place restores to", hint="give --in-place with it")
    session: Session = ctx.obj
    repository = session.open()
    ref = repository.resolve(snapshot)
    snap = repository.load(ref)
    row = repository.plugin(snap, plugin)
    if in_place and not dry_run:
        guarding.recover_first(session, os.fsencode(source) or snap.raw_source, repository)
    with session.progress() as progress:
        report = restore_plugin(
            repository,
            ref,
            row,
            target=os.fsencode(target) if target else None,
            in_place_source=os.fsencode(source) if source else None,
            dry_run=dry_run,
            progress=progress,
        )
    recording.restore(session, repository, report, plugin=row.raw_path)
    return show(session.console, report)
