"""`drkit enhance report`: what a run did, plugin by plugin, or which runs there were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from drkit.cli import Session, duration, path_text
from enhance.commands import options

if TYPE_CHECKING:
    from drkit.inventory import EnhancementRecord, RunRecord

EXAMPLES = """
drkit enhance report
drkit enhance report 20261122T2200 --json
drkit enhance report --all
"""
KEYS = {
    "runs": "{run, started, ended, source, generator, model, profile, snapshot_before, snapshot_after, exit_code, "
    "report}; one of them without --all; `report` is what 'drkit enhance run' told, null if it was killed",
    "plugins": "{path, name, status, reason, seconds, snapshot, model}; of the one run, empty with --all",
}


def command(
    ctx: typer.Context,
    run: options.RunName = "latest",
    *,
    every: Annotated[bool, typer.Option("--all", help="List all runs instead, newest first.")] = False,
) -> None:
    """Show what became of each plugin in a run, or list the runs.

    A plugin that was rolled back since is shown so.
    """
    from drkit.inventory import Enhancements

    session: Session = ctx.obj
    console = session.console
    records = Enhancements(session.inventory())
    runs = records.runs() if every else [records.run(run)]
    rows = [] if every else records.statuses(runs[0].run)
    console.result({"runs": [_run(one) for one in runs], "plugins": [_plugin(row) for row in rows]})
    if every:
        header = ("RUN", "GENERATOR", "MODEL", "EXIT", "SOURCE")
        table = [(one.run, one.generator, one.model, _exit(one), path_text(one.source)) for one in runs]
        console.table(header, table)
        return
    shown = [(row.status, path_text(row.plugin_path) or ".", _took(row), row.reason) for row in rows]
    console.table(("STATUS", "PLUGIN", "TIME", "REASON"), shown)
    for one in runs:
        console.note(f"run {one.run} on {path_text(one.source)}: {_exit(one)}")
        console.note(f"  drkit enhance rollback {one.run}")


def _exit(record: RunRecord) -> str:
    return "not ended" if record.exit_code is None else f"exit {record.exit_code}"


def _took(row: EnhancementRecord) -> str:
    return "" if row.processing_time_seconds is None else duration(row.processing_time_seconds)


def _run(record: RunRecord) -> dict[str, Any]:
    return {
        "run": record.run,
        "started": record.started,
        "ended": record.ended,
        "source": path_text(record.source),
        "generator": record.generator,
        "model": record.model,
        "profile": record.profile,
        "snapshot_before": record.snapshot_before,
        "snapshot_after": record.snapshot_after,
        "exit_code": record.exit_code,
        "report": record.report,
    }


def _plugin(row: EnhancementRecord) -> dict[str, Any]:
    return {
        "path": path_text(row.plugin_path),
        "name": row.plugin_name,
        "status": row.status,
        "reason": row.reason,
        "seconds": row.processing_time_seconds,
        "snapshot": row.snapshot,
        "model": row.model,
    }
