"""`drkit enhance run`: improve the plugins of a source, each edit proved restorable before it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import structs

from drkit.cli import Console, Session, count, duration, path_text
from drkit.clock import utc_now
from drkit.errors import UsageError
from enhance.commands import options, plan
from enhance.model import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from drkit.inventory import EnhancementRecord
    from enhance.commands.narrator import Narrator
    from enhance.pace import Limit
    from enhance.pipeline import RunJob, RunReport
    from enhance.pipeline.job import Calls
    from enhance.settings import Settings

EXAMPLES = """
drkit enhance run ~/plugins --dry-run
drkit enhance run ~/plugins --profile marketplace
drkit enhance run ~/plugins --generator vertex --model gemini-2.5-flash --finish-by 07:30
drkit enhance run ~/plugins --only-failed --json
"""
KEYS = {
    "run": "its id; empty for a dry run",
    "plugins": "how many plugins were selected",
    "statuses": "status → how many plugins ended with it; they add up to `plugins`",
    "model_calls": "how many calls were made",
    "files_changed": "paths that differ between the two snapshots and hold what the run wrote",
    "changed_by_others": "paths that differ and that the run did not write; then the exit code is 3",
    "thin": "plugins with less material than the profile asks for",
    "snapshot_before": "id of the snapshot before",
    "snapshot_after": "id of the snapshot after",
    "duration_s": "seconds",
    "cost_usd": "what the calls cost, where prices are configured",
    "absent": "paths that the run wrote and that are not in the second snapshot; then the exit code is 20",
    "stopped": "what stopped the calls, empty if nothing did; then the exit code is 32",
    "interrupted": "whether the run was ended from outside",
    "reasons": "plugin → why it has its status",
    "warnings": "what could not be read for the second snapshot",
    "exit_code": "the exit code",
    "preview": "of a dry run what 'drkit enhance plan' tells, else null",
}


def command(
    ctx: typer.Context,
    source: options.Source,
    *,
    generator: options.Generator = "",
    profile: options.Profile = "",
    limit: options.Limit = None,
    plugin: options.Plugins = None,
    category: options.Categories = None,
    only_failed: options.OnlyFailed = False,
    model: options.Model = "",
    finish_by: Annotated[
        str, typer.Option("--finish-by", metavar="TIME", help="Begin no call after this: 07:30, 2h, or an ISO time.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done; make no call and write nothing.")
    ] = False,
    plan_out: Annotated[
        str, typer.Option("--plan-out", metavar="FILE", help="Write what would be changed to FILE, not to SOURCE.")
    ] = "",
    apply: Annotated[
        str, typer.Option("--apply", metavar="FILE", help="Apply what --plan-out wrote to FILE, without calls.")
    ] = "",
    lock_timeout: options.LockTimeout = "60s",
) -> int:
    """Improve plugins: mend, have a generator write what is missing, apply, report.

    Every edit goes through the guard: the plugin is proved restorable before it is made. A snapshot is taken before
    and after, and every path that differs between the two is in the report. The exit code is 3 if something is left
    to look at (failed, parked or thin plugins, changes by others), 20 if the report and the disk disagree, 31 if FILE
    of --apply is stale, 32 if a quota or a refusal stopped the calls.
    """
    from enhance.commands import shared

    if sum(map(bool, (dry_run, plan_out, apply))) > 1:
        raise UsageError("give one of --dry-run, --plan-out and --apply")
    session: Session = ctx.obj
    settings = shared.settings_of(session)
    wanted = options.Wanted(
        *(source, generator, model, profile, limit, tuple(plugin or ()), tuple(category or ()), only_failed),
        lock_timeout,
    )
    until = shared.parse_finish_by(finish_by, utc_now())
    job = options.job_of(session, settings, wanted)
    most = shared.limit_of(settings, job.generator.name, job.generator.model)
    if dry_run:
        return _dry_run(session.console, job, most)
    if job.generator.remote and not _limits_anything(most):
        session.console.warn(f"no limit is configured for {most.model}: see docs/pacing.md")
    report = _run(session.console, job, settings, most, until, plan_out=plan_out, apply=apply)
    session.console.result({**report.plain(), "preview": None})
    show(session.console, report, job.records.statuses(report.run))
    return report.exit_code


def _limits_anything(most: Limit) -> bool:
    caps = most.caps
    return any(one is not None for one in (caps.requests_per_minute, caps.tokens_per_minute, caps.requests_per_day))


def _run(
    console: Console,
    job: RunJob,
    settings: Settings,
    most: Limit,
    until: datetime | None,
    *,
    plan_out: str,
    apply: str,
) -> RunReport:
    from enhance import pipeline
    from enhance.commands.narrator import Narrator
    from enhance.commands.shared import plain_limit

    planned: dict[bytes, int] = {}
    if job.generator.remote and not apply:
        # A plan, an answer, sometimes a repair: what most plugins take of what they may take.
        for one in pipeline.look(job).plugins:
            planned[one.path] = max(one.calls[0], one.calls[1] - 1) if one.calls[0] else 0
    selection = job.selection
    recorded: dict[str, Any] = {
        "plugins": list(map(path_text, selection.plugins)),
        "categories": list(selection.categories),
        "only_failed": selection.only_failed,
        "limit": selection.limit,
        "finish_by": until.isoformat() if until else None,
        "applied": apply,
        "quota": plain_limit(most),
        "pace": structs.asdict(settings.pace),
        "planned": {path_text(path): calls for path, calls in planned.items() if calls},
    }
    send = job.flush
    with Narrator(console, planned) as narrator:

        def flush() -> None:
            # An object for each plugin that was passed over would cost a store more than it tells.
            if narrator.last is not Status.SKIPPED:
                send()

        calls = _calls(job, settings, most, until, narrator) if job.generator.remote else None
        job = structs.replace(job, options=recorded, notify=narrator.step, calls=calls, flush=flush)
        job = structs.replace(job, price=lambda usage: most.cost(usage) / 1e9)
        try:
            if plan_out:
                return pipeline.plan_out(job, plan_out)
            return pipeline.apply_file(job, apply) if apply else pipeline.run(job)
        finally:
            send()


def _calls(
    job: RunJob, settings: Settings, most: Limit, until: datetime | None, narrator: Narrator
) -> Callable[[str], Calls]:
    from enhance.commands.narrator import Told
    from enhance.commands.shared import make_pacer
    from enhance.pace import Forecast

    def calls(run: str) -> Calls:
        pacer = make_pacer(job.site.inventory, settings, most, run, finish_by=until)
        narrator.forecast = Forecast(pacer, sum(narrator.planned.values()))
        return Told(pacer, narrator)

    return calls


def _dry_run(console: Console, job: RunJob, most: Limit) -> int:
    from enhance.pipeline import RunReport, look

    preview = look(job)
    keys = plan.preview_keys(preview, most)
    thin = tuple(one.path for one in preview.plugins if one.thin)
    nothing = RunReport("", len(preview.plugins), {}, 0, (), (), thin, "", "", 0.0)
    console.result({**nothing.plain(), "exit_code": 0, "preview": keys})
    plan.show(console, preview, keys)
    return 0


def show(console: Console, report: RunReport, rows: list[EnhancementRecord]) -> None:
    """Print a report for people. Why plugins were skipped is in 'drkit enhance report'."""
    for row in rows:
        if row.status in {Status.FAILED, Status.PARKED}:
            console.line(f"{row.status} {path_text(row.plugin_path) or '.'}: {row.reason}")
    for path in report.changed_by_others:
        console.warn(f"changed by somebody else during the run: {path_text(path)}")
    for path in report.absent:
        console.warn(f"written by the run, but not on the disk: {path_text(path)}")
    for warning in report.warnings:
        console.warn(warning)
    counts = ", ".join(f"{number} {status}" for status, number in report.statuses.items()) or "none"
    cost = f" for {report.cost_usd:.4f} dollars" if report.cost_usd else ""
    console.note(
        f"run {report.run}: {count(report.plugins, 'plugin')} ({counts}), "
        f"{count(len(report.files_changed), 'file')} changed, {count(report.model_calls, 'call')}{cost}, "
        f"in {duration(report.duration_s)}"
    )
    if report.thin:
        console.note(f"{count(len(report.thin), 'plugin')} with less material than the profile asks for")
    if report.stopped:
        console.warn(f"the calls were stopped: {report.stopped}")
    if report.files_changed:
        console.note(f"  what changed   drkit diff {report.snapshot_before[:12]} {report.snapshot_after[:12]}")
        console.note(f"  take it back   drkit enhance rollback {report.run}")
