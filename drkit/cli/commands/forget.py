"""`drkit forget`: remove snapshots that a policy does not keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from drkit.cli.commands import prune as prune_command
from drkit.cli.output import count, moment, path_text
from drkit.cli.session import Session
from drkit.errors import UsageError
from drkit.model import show_path
from drkit.timespan import parse_span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drkit.repo import Repository
    from drkit.retention import ForgetReport, Policy
    from drkit.retention.policy import Kept

EXAMPLES = """
drkit forget --dry-run
drkit forget --keep-daily 14 --keep-weekly 8 --keep-tag release
drkit forget --keep-within 30d --prune
"""
KEYS = {
    "dry_run": "whether nothing was removed",
    "removed": "{id, time, host, source, tags}, oldest first",
    "kept": "{id, time, host, source, tags, reasons}, oldest first",
    "lost": "what is wrong with the snapshots that are damaged; they stay",
    "prune": "with --prune the keys of 'drkit prune', else null",
}

_Last = Annotated[int | None, typer.Option("--keep-last", metavar="N", help="Keep the last N.")]
_Hourly = Annotated[int | None, typer.Option("--keep-hourly", metavar="N", help="Keep the last of each of N hours.")]
_Daily = Annotated[int | None, typer.Option("--keep-daily", metavar="N", help="Keep the last of each of N days.")]
_Weekly = Annotated[int | None, typer.Option("--keep-weekly", metavar="N", help="Keep the last of each of N weeks.")]
_Monthly = Annotated[int | None, typer.Option("--keep-monthly", metavar="N", help="Keep the last of each of N months.")]
_Yearly = Annotated[int | None, typer.Option("--keep-yearly", metavar="N", help="Keep the last of each of N years.")]


def command(
    ctx: typer.Context,
    *,
    keep_last: _Last = None,
    keep_hourly: _Hourly = None,
    keep_daily: _Daily = None,
    keep_weekly: _Weekly = None,
    keep_monthly: _Monthly = None,
    keep_yearly: _Yearly = None,
    keep_within: Annotated[
        str, typer.Option("--keep-within", metavar="D", help="Keep all of the time D before the newest.")
    ] = "",
    keep_tag: Annotated[
        list[str] | None, typer.Option("--keep-tag", metavar="T", help="Keep all with this tag.")
    ] = None,
    min_age: Annotated[
        str,
        typer.Option("--min-age", metavar="D", help="Keep what was stored in the last D, and count it for nothing."),
    ] = "",
    prune: Annotated[bool, typer.Option("--prune", help="Give back the space, too, as 'drkit prune' does.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed.")] = False,
) -> int:
    """Remove snapshots that no rule keeps.

    The rules hold for each host and source by itself, and any of them keeps a snapshot. Without any, those of
    [retention] in the configuration hold, or else: the last 3, all of two days, and one for each of 48 hours, 30 days,
    26 weeks, 36 months and 20 years.

    Always kept are the newest snapshot of each source, the last verified one, the last that proves a plugin, and what
    an unfinished or recent guarded run needs. Ages are those that the store tells, before its newest snapshot.
    """
    from drkit.cli import recording
    from drkit.retention import Policy, forget

    session: Session = ctx.obj
    given = Policy(
        *(keep_last or 0, keep_hourly or 0, keep_daily or 0, keep_weekly or 0, keep_monthly or 0, keep_yearly or 0),
        within_s=parse_span(keep_within) if keep_within else 0.0,
        tags=tuple(keep_tag or ()),
    )
    numbers = (keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly)
    named = bool(keep_within or keep_tag) or any(number is not None for number in numbers)
    policy = _policy(session, given if named else None, min_age)
    repository = session.open()
    report = forget(
        repository,
        policy,
        inventory=session.inventory(),
        needed=_journaled(repository),
        dry_run=dry_run,
        told=lambda plan: _show(session, plan),
    )
    if not dry_run:
        recording.forgotten(session, repository, report)
    pruned = None
    if prune:
        if dry_run and report.removed:
            session.console.note("what 'prune' would give back shows when they are gone: 'drkit prune --dry-run'")
        else:
            options = prune_command.make_options(session, "5%", "", min_age, "1m", dry_run=dry_run)
            pruned = prune_command.run(session, repository, options)
    session.console.result(
        {
            "dry_run": dry_run,
            "removed": [_keys(one) for one in report.removed],
            "kept": [{**_keys(one), "reasons": one.reasons} for one in report.kept],
            "lost": report.damaged,
            "prune": pruned,
        }
    )
    return session.console.lost(report.damaged)


def _policy(session: Session, given: Policy | None, min_age: str) -> Policy:
    from msgspec import structs

    from drkit.retention import DEFAULT, Policy

    config = session.config.retention
    policy = given
    if policy is None:
        policy = Policy(
            *(config.keep_last, config.keep_hourly, config.keep_daily, config.keep_weekly),
            *(config.keep_monthly, config.keep_yearly),
            within_s=parse_span(config.keep_within) if config.keep_within else 0.0,
            tags=config.keep_tags,
        )
        if policy.keeps_nothing:
            policy = DEFAULT
    if policy.keeps_nothing:
        raise UsageError("a policy that keeps nothing", hint="give at least one --keep-… that is not 0")
    age = min_age or config.min_age
    return structs.replace(policy, min_age_s=parse_span(age)) if age else policy


def _journaled(repository: Repository) -> dict[str, str]:
    """Return the snapshots that interrupted or running guarded commands of this user and machine stand on."""
    from drkit.cli.guarding import any_journal
    from drkit.guard.journal import Journal

    if not any_journal():
        return {}
    found = {}
    sources = {repository.load(ref).raw_source for ref in repository.snapshots()}
    for source in sources:
        for journal, _ in Journal.opened(source):
            record = journal.read()
            journal.close()
            if record is not None:
                found[record.snapshot] = "unfinished guarded run"
    return found


def _show(session: Session, plan: ForgetReport) -> None:
    console = session.console
    rows: Sequence[tuple[str, Kept]] = sorted(
        [("remove", one) for one in plan.removed] + [("keep", one) for one in plan.kept],
        key=lambda row: row[1].ref.name,
    )
    if rows:
        console.table(
            ("", "ID", "TIME (UTC)", "HOST", "SOURCE", "WHY"),
            [
                (
                    what,
                    one.ref.id[:12],
                    moment(one.ref.time)[:19].replace("T", " "),
                    one.snapshot.host,
                    show_path(one.snapshot.raw_source),
                    ", ".join(one.reasons),
                )
                for what, one in rows
            ],
        )
    verb = "would be removed" if plan.dry_run else "to remove"
    console.note(f"{count(len(plan.removed), 'snapshot')} {verb}, {len(plan.kept)} kept")


def _keys(one: Kept) -> dict[str, Any]:
    return {
        "id": one.ref.id,
        "time": moment(one.ref.time),
        "host": one.snapshot.host,
        "source": path_text(one.snapshot.raw_source),
        "tags": one.snapshot.tags,
    }
