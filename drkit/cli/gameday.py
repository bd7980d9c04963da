"""The game day of `drkit drill`: what the command line has that a game day loses, and how it is brought back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING

from drkit.cli.output import count
from drkit.cli.session import Session
from drkit.errors import DrkitError, IntegrityError

if TYPE_CHECKING:
    from drkit.drill import DrillOptions, GameDayReport
    from drkit.inventory import Inventory
    from drkit.inventory.records import DrillRow, SnapshotRecord, VerificationRecord
    from drkit.model import Finding
    from drkit.repo import Repository
    from drkit.store.base import Store


def inventory_of(session: Session) -> Inventory | None:
    """Return the inventory; None with a warning if it cannot be had, which keeps nobody from drilling."""
    try:
        return session.inventory()
    except DrkitError as error:
        session.console.warn(f"nothing is recorded, and the sample is a random one: {error}")
        return None


def run(session: Session, others: Sequence[str], options: DrillOptions) -> GameDayReport:
    """Hold a game day on the repository, with the other stores that are named, and record it."""
    from drkit.cli import recording
    from drkit.clock import utc_now
    from drkit.drill import game_day

    repository = session.open()
    ref = repository.resolve("latest")
    inventory = inventory_of(session)
    rebuild = None
    # A copy has the rows of the day when it was copied: they are the repository's own to keep.
    home = session.address(session.config.repo) if session.config.repo else repository.store.url
    if inventory is not None and home == repository.store.url:
        recording.flush(session, repository)  # so that the copy has what the inventory has
        rebuild = partial(_rebuild, inventory, repository.store.url)
    with session.progress() as progress:
        report = game_day(
            repository,
            ref,
            options=options,
            progress=progress,
            rebuild=rebuild,
            heal=_heal,
            others=[session.store(name) for name in others],
            now=utc_now,
            random=SystemRandom(),
        )
    if inventory is not None:
        recording.game_day(session, repository, report)
    return report


def _heal(lost: Store, left: Store) -> str:
    """Bring a store back as 'drkit repair' does; IntegrityError if it does not all come back."""
    from drkit.clock import utc_now
    from drkit.progress import NullProgress
    from drkit.repair import repair

    report = repair(lost, [left], progress=NullProgress(), now=utc_now)
    if not report.ok:
        raise IntegrityError(f"{len(report.lost)} paths are lost, the first is {report.lost[0].object}")
    return f"'drkit repair' brought {count(len(report.healed), 'object')} back"


def _rebuild(inventory: Inventory, url: str, store: Store, path: bytes) -> str:
    """Rebuild an inventory from a store as if ours were gone.

    IntegrityError if rows of ours that tell of the repository at `url` do not come back.
    """
    from drkit.cli import recording
    from drkit.clock import utc_now
    from drkit.inventory import Inventory
    from drkit.repo import Repository

    repository = Repository.open(store)
    findings: list[Finding] = []
    with Inventory.open(path, now=utc_now) as new:
        recording.rebuild(new, repository, warn=findings.append)
        back = _rows_of(new, repository)
    waiting = inventory.outbox_pending("stored")
    missing = {
        (owner, row)
        for owner, row in _rows_of(inventory, repository, url) - back
        if not any(one.inventory == owner and one.first <= row <= one.last for one in waiting)
    }
    if missing or findings:
        said = [finding.message for finding in findings[:1]]
        raise IntegrityError("; ".join([f"{len(missing)} rows of the inventory did not come back", *said]))
    return f"{count(len(back), 'row')} of snapshots, verifications and drills came back from the store"


def _rows_of(inventory: Inventory, repository: Repository, url: str = "") -> set[tuple[str, int]]:
    """Return the keys of the rows that tell of snapshots, verifications and drills of a repository.

    With a `url` only of those in that store: what was recorded in another one may have been left there.
    """
    rows: list[SnapshotRecord | VerificationRecord | DrillRow] = [
        *inventory.snapshots(),
        *inventory.verifications(),
        *inventory.drills(),
    ]
    repo_id = repository.config.repository_id
    return {(row.inventory, row.id) for row in rows if row.repository == repo_id and url in {"", row.store}}
