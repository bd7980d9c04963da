"""`drkit verify`: prove that what is stored can be restored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.output import count, duration, finding_text, size
from drkit.cli.params import SNAP_HELP, LevelName
from drkit.cli.session import Session
from drkit.errors import IntegrityError, StoreCorrupt, UsageError
from drkit.model import Level

if TYPE_CHECKING:
    from drkit.repo import Repository, SnapshotRef
    from drkit.verify import VerifyReport

EXAMPLES = """
drkit verify
drkit verify --all --level packs --subset 1/7
drkit verify 3f9a --level restore
drkit verify --all --store offsite
"""
KEYS = {
    "level": "the level that was asked for",
    "ok": "whether there are no findings; if there are, the exit code is 20",
    "snapshots": "ids of the snapshots that were verified",
    "packs_read": "how many packs were read",
    "bytes_read": "how many bytes were read from the store",
    "findings": "{code, object, message, repair}",
    "duration_s": "seconds",
}


def command(
    ctx: typer.Context,
    snap: Annotated[str, typer.Argument(metavar="SNAP", help=f"{SNAP_HELP} [default: latest]")] = "",
    *,
    every: Annotated[bool, typer.Option("--all", help="Verify every snapshot, and every pack.")] = False,
    level: Annotated[
        LevelName, typer.Option("--level", help="How thoroughly; each level includes those before it.")
    ] = "content",
    subset: Annotated[
        str,
        typer.Option(
            "--subset", metavar="N/M|P%", help="Read only the N-th of M parts of the packs, or P per cent of them."
        ),
    ] = "",
    store: Annotated[
        str, typer.Option("--store", metavar="STORE", help="Verify this copy: a name in drkit.toml, or a URL.")
    ] = "",
) -> int:
    """Prove that what is stored can be restored.

    Nothing is changed or repaired. Levels: 'exists', every pack that is needed is there; 'packs', their bytes hash to
    their names; 'content', every frame is decoded, every blob and every file hashed again; 'restore', everything is
    restored to scratch and read back. A snapshot that is not the one that the inventory recorded when it was made is
    a finding too: a repository that somebody rewrote has no fault of its own.
    """
    from drkit.cli import recording

    session: Session = ctx.obj
    if snap and every:
        raise UsageError("give a snapshot or --all, not both")
    session.repo = store or session.repo
    try:
        repository = session.open()
    except (IntegrityError, StoreCorrupt):
        recording.unreadable(session, level)
        raise
    refs = repository.snapshots() if every else [repository.resolve(snap or "latest")]
    report = run(session, repository, refs, Level[level.upper()], every_pack=every, subset=subset)
    recording.flush(session, repository)
    session.console.result(report)
    show(session, report)
    return 0 if report.ok else IntegrityError.code


def run(
    session: Session,
    repository: Repository,
    refs: Sequence[SnapshotRef],
    level: Level,
    *,
    every_pack: bool = False,
    subset: str = "",
) -> VerifyReport:
    """Verify with progress, and record it; returns what `drkit.verify` found."""
    from drkit.cli import recording
    from drkit.verify import verify

    with session.progress() as progress:
        report = verify(
            repository,
            refs,
            level=level,
            every_pack=every_pack,
            subset=subset or None,
            witness=recording.witness(session, repository),
            progress=progress,
        )
    recording.verification(session, repository, report, subset=subset)
    return report


def show(session: Session, report: VerifyReport) -> None:
    """Print a report: findings, then what was done."""
    console = session.console
    session.told.update(report.findings)
    for finding in report.findings:
        console.line(f"{finding.code}: {finding_text(finding)}")
        console.line(f"  repair: {finding.repair}")
    console.note(
        f"{'verified' if report.ok else 'NOT verified'} at level {report.level}: "
        f"{count(len(report.snapshots), 'snapshot')}, {count(report.packs_read, 'pack')} read, "
        f"{size(report.bytes_read)}; {count(len(report.findings), 'finding')}, {duration(report.duration_s)}"
    )
