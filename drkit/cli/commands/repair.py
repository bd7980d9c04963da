"""`drkit repair`: heal a repository from its copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.output import Console, count, duration, finding_text
from drkit.cli.session import Session
from drkit.clock import utc_now
from drkit.errors import IntegrityError

if TYPE_CHECKING:
    from drkit.repair import RepairReport

EXAMPLES = """
drkit repair
drkit repair --from offsite
drkit repair --repo offsite --from s3://bucket/plugins
drkit repair --from turso: --from /mnt/usb/backups --dry-run
"""
KEYS = {
    "store": "the store that was repaired",
    "sources": "the copies that it was healed from",
    "dry_run": "whether nothing was written",
    "ok": "whether nothing is lost; if something is, the exit code is 20",
    "healed": "{object, problem, source}: what was damaged or missing, and where it came from",
    "quarantined": "where the bad objects were set aside, in the same store",
    "rescued": "how many blobs were stored anew because no copy has their pack",
    "index_rebuilt": "whether the index was written anew",
    "packs_read": "how many packs were read and hashed",
    "bytes_read": "sum of the sizes of those that were whole",
    "lost": "{code, object, message, repair}: paths of snapshots that nothing gives back",
    "duration_s": "seconds",
}


def command(
    ctx: typer.Context,
    *,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="STORE",
            help="A good copy: a name in drkit.toml, or a URL; repeatable [default: every store in drkit.toml].",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read everything, and say what would be done.")] = False,
) -> int:
    """Find what is damaged or missing, and heal it from a good copy.

    Every pack is read. A bad object is set aside under quarantine/ in the same store, never deleted. What no copy has
    whole is saved blob by blob as far as it can be read, and the index is written anew. What is lost then is listed,
    path by path, and everything else stays restorable; the next backup stores what the source still has. A store that
    lost everything comes back as well.

    Without --from, the stores that drkit.toml names are the copies; one that cannot be opened is told and left out.
    """
    from drkit.cli import copies, recording
    from drkit.repair import repair
    from drkit.repo import Repository

    session: Session = ctx.obj
    store = session.store()
    sources = [session.store(url) for url in source] if source else copies.good(session, store)
    with session.progress() as progress:
        report = repair(store, sources, dry_run=dry_run, progress=progress, now=utc_now, keys=session.keys)
    if not dry_run:
        repository = Repository.open(store, keys=session.keys)
        recording.repaired(session, repository, report)
        recording.flush(session, repository)
    session.console.result(report)
    _show(session.console, report)
    return 0 if report.ok else IntegrityError.code


def _show(console: Console, report: RepairReport) -> None:
    would = "would be " if report.dry_run else ""
    for healed in report.healed:
        console.line(f"{would}healed: {healed.object} ({healed.problem}), from {healed.source}")
    for finding in report.lost:
        console.line(f"lost: {finding_text(finding)}")
        console.line(f"  repair: {finding.repair}")
    for name in report.quarantined:
        console.note(f"set aside: {name}")
    index = f", index {would}written anew" if report.index_rebuilt else ""
    console.note(
        f"{count(report.packs_read, 'pack')} read; {count(len(report.healed), 'object')} {would}healed, "
        f"{count(report.rescued, 'blob')} {would}stored anew{index}; {len(report.lost)} lost, "
        f"{duration(report.duration_s)}"
    )
