"""`drkit copy`: bring a second store up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import structs

from drkit.cli.output import Console, count, duration, size
from drkit.cli.params import LevelName
from drkit.cli.session import Session
from drkit.clock import utc_now
from drkit.errors import IntegrityError, PartialError
from drkit.model import Level

if TYPE_CHECKING:
    from drkit.copy import CopyReport

EXAMPLES = """
drkit copy --to s3://bucket/plugins
drkit copy --to turso: --verify content
drkit copy --to /mnt/usb/backups --dry-run
"""
KEYS = {
    "source": "the store that was copied from",
    "target": "the store that was brought up to date",
    "repository": "id of the repository",
    "created": "whether the target was empty, and has become a repository",
    "dry_run": "whether nothing was written",
    "snapshots": "ids of the snapshots that were copied",
    "packs": "ids of the packs that were copied, each read back from the target and hashed",
    "bytes": "sum of their sizes",
    "present": "how many packs the target had already",
    "others": "how many other objects were copied: key slots, rows of inventories",
    "left_out": "ids of snapshots that were not copied because something that they need is damaged or missing",
    "findings": "{code, object, message, repair}; if there are any, the exit code is 3",
    "duration_s": "seconds",
    "verify": "result of 'drkit verify' of the copied snapshots at the target, null for a dry run",
}


def command(
    ctx: typer.Context,
    *,
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The store to bring up to date.")],
    verify: Annotated[
        LevelName, typer.Option("--verify", help="How thoroughly to verify the copied snapshots; see 'drkit verify'.")
    ] = "exists",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be copied, and write nothing.")] = False,
) -> int:
    """Bring a second store up to date.

    An empty store becomes a copy of the repository; one that holds another repository is refused. What is there
    already is not sent again, also after an interruption. Every pack is hashed before it goes and again as the target
    gives it back; then the snapshots are verified there to the level of --verify, and that is recorded for this store.
    Nothing is deleted at the target. What is damaged here is not copied, and the exit code is 3.
    """
    from drkit.cli import recording
    from drkit.cli.commands import verify as prove
    from drkit.copy import copy
    from drkit.repo import Repository

    session: Session = ctx.obj
    repository = session.open()
    target = session.store(to)
    with session.progress() as progress:
        report = copy(repository, target, dry_run=dry_run, progress=progress, now=utc_now)
    proof = None
    if not dry_run:
        recording.copied(session, report)
        there = Repository.open(target)
        refs = [ref for ref in there.snapshots() if ref.id in report.snapshots] or there.snapshots()[-1:]
        if refs:
            proof = prove.run(session, there, refs, Level[verify.upper()])
        recording.flush(session, repository)
    session.console.result({**structs.asdict(report), "verify": proof})
    _show(session.console, report)
    session.told.update(report.findings)
    if proof is not None:
        prove.show(session, proof)
        if not proof.ok:
            return IntegrityError.code
    return PartialError.code if report.findings else 0


def _show(console: Console, report: CopyReport) -> None:
    if not console.json:
        for finding in report.findings:
            console.finding(finding)
    did = "would copy" if report.dry_run else "copied"
    console.note(
        f"{did} {count(len(report.snapshots), 'snapshot')} in {count(len(report.packs), 'pack')}, "
        f"{size(report.bytes)}, to {report.target}; {count(report.present, 'pack')} there already, "
        f"{duration(report.duration_s)}"
    )
