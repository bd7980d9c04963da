"""`drkit prune`: give back the space of what no snapshot needs."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.output import count, duration, size
from drkit.cli.session import Session
from drkit.clock import utc_now
from drkit.errors import UsageError
from drkit.timespan import parse_span

if TYPE_CHECKING:
    from drkit.repo import Repository
    from drkit.retention import PruneOptions, PruneReport

EXAMPLES = """
drkit prune --dry-run
drkit prune --max-unused 10% --max-repack 2GiB
"""
KEYS = {
    "dry_run": "whether nothing was done",
    "packs_before": "how many packs there were",
    "packs_deleted": "how many of them were deleted",
    "packs_repacked": "how many of those were partly needed, and written anew",
    "packs_written": "how many packs were written",
    "bytes_before": "the size of all packs before",
    "bytes_after": "and after",
    "bytes_to_read": "how many bytes of packs were read to write them anew; with --dry-run about how many would be",
    "bytes_to_write": "how many were written",
    "bytes_freed": "how much smaller the repository is",
    "unused_before": "how much of the packs no snapshot needed",
    "deferred": "how many packs the next prune deletes: a backup was at work that may have needed them",
    "duration_s": "seconds",
}

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?([KMGT]?)(?:i?B)?", re.IGNORECASE)


def command(
    ctx: typer.Context,
    *,
    max_unused: Annotated[
        str, typer.Option("--max-unused", metavar="P%|SIZE", help="How much of the repository may stay unused.")
    ] = "5%",
    max_repack: Annotated[
        str, typer.Option("--max-repack", metavar="SIZE", help="Write at most so much anew [default: no limit].")
    ] = "",
    min_age: Annotated[
        str, typer.Option("--min-age", metavar="D", help="Delete no pack that was stored in the last D.")
    ] = "",
    wait: Annotated[
        str, typer.Option("--wait", metavar="D", help="How long to wait for backups at work before deleting.")
    ] = "1m",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and what it costs.")] = False,
) -> None:
    """Give back the space of what no snapshot needs.

    Packs of which nothing is needed are deleted. Others are written anew without what is not, the emptiest first,
    until at most --max-unused of the sum of object sizes is unused; small ones are joined. The price is shown first.
    Backups and restores go on meanwhile. Killed at any point, nothing is lost, and the next prune goes on.
    """
    session: Session = ctx.obj
    repository = session.open()
    report = run(session, repository, make_options(session, max_unused, max_repack, min_age, wait, dry_run=dry_run))
    session.console.result(report)


def make_options(
    session: Session, max_unused: str, max_repack: str, min_age: str, wait: str, *, dry_run: bool
) -> PruneOptions:
    """Return the options as the verb takes them. UsageError for what is no size or span."""
    from drkit.retention import Limits, PruneOptions

    share, unused = 0.0, None
    if max_unused.endswith("%"):
        share = _number(max_unused[:-1], max_unused) / 100
    elif max_unused == "unlimited":
        share = float("inf")
    else:
        unused = parse_size(max_unused)
    repack = parse_size(max_repack) if max_repack else None
    age = min_age or session.config.retention.min_age
    return PruneOptions(
        limits=Limits(share, unused, repack),
        min_age_s=parse_span(age) if age else 0.0,
        wait_s=0.0 if wait == "0" else parse_span(wait),
        dry_run=dry_run,
    )


def run(session: Session, repository: Repository, options: PruneOptions) -> PruneReport:
    """Prune, show the price before and what came of it after, and record it."""
    from drkit.cli import recording
    from drkit.retention import prune

    with session.progress() as progress:
        report = prune(
            repository,
            options,
            progress=progress,
            now=utc_now,
            sleep=time.sleep,
            told=lambda planned: show_plan(session, planned),
        )
    if not report.dry_run:
        recording.pruned(session, repository, report)
        show(session, report)
    return report


def show_plan(session: Session, planned: PruneReport) -> None:
    """Print what is going to be done, and what it costs."""
    session.console.note(
        f"{count(planned.packs_before, 'pack')}, {size(planned.bytes_before)}, of which {size(planned.unused_before)} "
        f"are not needed; to delete: {count(planned.packs_deleted, 'pack')}, of which {planned.packs_repacked} are "
        f"partly needed: to read about {size(planned.bytes_to_read)}, to write {size(planned.bytes_to_write)}"
    )


def show(session: Session, report: PruneReport) -> None:
    """Print what was done."""
    console = session.console
    freed = f"{size(report.bytes_freed)} given back" if report.bytes_freed >= 0 else "nothing given back yet"
    console.note(
        f"{freed}: {count(report.packs_deleted, 'pack')} deleted, {report.packs_written} written, "
        f"{size(report.bytes_after)} left; {duration(report.duration_s)}"
    )
    if report.deferred:
        rest = count(report.deferred, "pack")
        console.note(f"{rest} more are deleted by the next prune: a backup that may need them is at work")


def parse_size(text: str) -> int:
    """Return the bytes that `text` means: a number, and K, M, G or T for powers of 1024. UsageError if it is none."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is no size", hint="write a number and a unit, for instance 500M or 2GiB")
    return int(float(match[1]) * 1024 ** _UNITS[match[2].upper()])


def _number(text: str, whole: str) -> float:
    if not re.fullmatch(r"\d{1,3}(\.\d{1,6})?", text) or float(text) > 100:
        raise UsageError(f"{whole!r} is no share", hint="write a number from 0 to 100 and %, or a size")
    return float(text)
