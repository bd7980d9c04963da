"""`drkit enhance rollback`: take back what a run did."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from drkit.cli import Session, count, duration, path_text
from enhance.commands import options

EXAMPLES = """
drkit enhance rollback latest
drkit enhance rollback 20261122T2200 sales/crm-helper
drkit enhance rollback latest --force
"""
KEYS = {
    "run": "id of the run",
    "plugins": "how many plugins were put back",
    "files_changed": "paths that were put back, relative to the source",
    "conflicts": "plugins that somebody changed since, which were left alone; then the exit code is 30",
    "snapshot_before": "id of the snapshot of what was there before the rollback",
    "duration_s": "seconds",
    "exit_code": "the exit code",
}


def command(
    ctx: typer.Context,
    run: options.RunName,
    plugin: Annotated[
        list[str] | None, typer.Argument(metavar="PLUGIN", help="Only these plugins of the run: paths or names.")
    ] = None,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Put back what somebody changed since, too; a snapshot keeps it.")
    ] = False,
    lock_timeout: options.LockTimeout = "60s",
) -> int:
    """Put back exactly the paths that a run changed, through the guard.

    The source and the plugins are those of the run. A plugin that somebody changed since is left alone.
    """
    from drkit.inventory import Enhancements
    from enhance.commands import shared
    from enhance.pipeline import rollback

    session: Session = ctx.obj
    console = session.console
    record = Enhancements(session.inventory()).run(run)
    settings = shared.settings_of(session)
    wanted = options.Wanted(os.fsdecode(record.source), "offline", profile=record.profile, lock_timeout=lock_timeout)
    job = options.job_of(session, settings, wanted)
    report = rollback(job, record.run, tuple(map(os.fsencode, plugin or ())), force=force)
    console.result({**report.plain(), "exit_code": report.exit_code})
    for path in report.conflicts:
        console.warn(f"somebody has changed {path_text(path) or '.'} since the run: it was left alone, see --force")
    console.note(
        f"run {report.run}: {count(report.plugins, 'plugin')} put back, {count(len(report.files_changed), 'file')}, "
        f"in {duration(report.duration_s)}"
    )
    return report.exit_code
