"""What commands tell the inventory when their verb has returned, and how its rows leave the machine.

Recording never changes a command's result: what was backed up is backed up. What could not be recorded or sent is
told, and `drkit inventory rebuild` or the next command catches up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from drkit.cli.session import Session
from drkit.errors import DrkitError
from drkit.model import Finding

if TYPE_CHECKING:
    from drkit.backup import BackupReport, Committed
    from drkit.backup.live import InUse
    from drkit.copy import CopyReport
    from drkit.drill import DrillReport, GameDayReport
    from drkit.inventory import Inventory
    from drkit.inventory.standing import Standing
    from drkit.repair import RepairReport
    from drkit.repo import Repository, SnapshotRef
    from drkit.restore import RestoreReport
    from drkit.retention import ForgetReport, PruneReport
    from drkit.verify import VerifyReport, Witness

PUSH_TIMEOUT_S = 5.0
"""How long a command waits for an answer of Turso before it leaves the rows to the next one."""
_SHIPMENTS = 10


def backup(session: Session, repository: Repository, report: BackupReport, made: Committed, *, last: bool) -> None:
    """Record a backup that was made, and the packs that the store has since the last one.

    The repository is told at once if it is the `last` thing that the command records.
    """
    with _told(session):
        from drkit.backup import record_snapshot

        record_snapshot(
            session.inventory(),
            repository,
            made.ref,
            look_for_packs=report.packs > 0,
            report=report,
            made=made,
        )
    if last:
        flush(session, repository, turso=False)


def in_use(session: Session) -> tuple[InUse, ...]:
    """Open the inventory before a backup and return it as a database that must be dumped, not read."""
    with _told(session):
        from drkit.backup.live import InUse

        return (InUse(session.inventory_path, session.inventory().copy_to),)
    return ()


def witness(session: Session, repository: Repository) -> Witness:
    """Return what tells of snapshots what the inventory recorded when they were made."""

    def told(ref: SnapshotRef) -> tuple[str, str] | None:
        with _told(session):
            recorded = session.inventory().witness(repository.config.repository_id, ref.name)
            return (recorded.snapshot, recorded.tree_sha256) if recorded else None
        return None

    return told


def verification(session: Session, repository: Repository, report: VerifyReport, *, subset: str = "") -> None:
    """Record a verification of every snapshot that it was about; one of a subset counts for none."""
    with _told(session):
        snapshots = () if subset else report.snapshots
        session.inventory().record_verification(
            repo_id=repository.config.repository_id,
            store_url=repository.store.url,
            snapshot_id=snapshots[0] if snapshots else None,
            plugin=None,
            level=f"{report.level} {subset}".strip(),
            ok=report.ok,
            findings=len(report.findings),
            packs_read=report.packs_read,
            bytes_read=report.bytes_read,
            duration_s=report.duration_s,
            others=snapshots[1:],
        )


def unreadable(session: Session, level: str) -> None:
    """Record of a store, of which not even the settings can be read, that a verification found damage."""
    with _told(session):
        from drkit.inventory import queries

        inventory, url = session.inventory(), session.store().url
        for repository in queries.repositories_in(inventory.engine, url):
            inventory.record_verification(
                repo_id=repository,
                store_url=url,
                snapshot_id=None,
                plugin=None,
                level=level,
                ok=False,
                findings=1,
                packs_read=0,
                bytes_read=0,
                duration_s=0.0,
            )


def copied(session: Session, report: CopyReport) -> None:
    """Record which packs came to a store."""
    with _told(session):
        from drkit.copy import record_copy

        record_copy(session.inventory(), report)


def standings(session: Session, repository: Repository, urls: Sequence[str]) -> list[Standing | None]:
    """Return how stores of a repository stand by what is recorded of them; None for each if that cannot be had."""
    with _told(session):
        from drkit.inventory.standing import standing

        engine = session.inventory().engine
        return [standing(engine, repository.config.repository_id, url) for url in urls]
    return [None for _ in urls]


def repaired(session: Session, repository: Repository, report: RepairReport) -> None:
    """Record a repair, which hashed every pack, as a verification; bring back what the repository knows of itself."""
    with _told(session):
        inventory = session.inventory()
        rebuild(inventory, repository, warn=session.console.finding)
        inventory.record(
            "repair",
            {
                "store": report.store,
                "healed": len(report.healed),
                "rescued": report.rescued,
                "quarantined": report.quarantined,
                "lost": [finding.object for finding in report.lost],
            },
            {},
            repo_id=repository.config.repository_id,
        )
        snapshots = [str(ref.id) for ref in repository.snapshots()]
        inventory.record_verification(
            repo_id=repository.config.repository_id,
            store_url=report.store,
            snapshot_id=snapshots[0] if snapshots else None,
            plugin=None,
            level="packs",
            ok=report.ok,
            findings=len(report.lost),
            packs_read=report.packs_read,
            bytes_read=report.bytes_read,
            duration_s=report.duration_s,
            others=snapshots[1:],
        )


def restore(
    session: Session, repository: Repository, report: RestoreReport, *, plugin: bytes | None = None, part: bool = False
) -> None:
    """Record a restore. One that lost nothing is a proof, unless it was of a part (`--include`)."""
    if not report.method:
        return  # a dry run
    with _told(session):
        session.inventory().record_restore(
            repo_id=repository.config.repository_id,
            store_url=repository.store.url,
            snapshot_id=report.snapshot,
            plugin=plugin,
            whole=not (report.lost or part),
            lost=len(report.lost),
            files=report.files,
            bytes_restored=report.bytes,
            duration_s=report.duration_s,
        )
    flush(session, repository)


def drill(session: Session, repository: Repository, report: DrillReport) -> None:
    """Record each drill, passed or not. Its rows are not sent: that is done where the repository's others are."""
    with _told(session):
        from drkit.inventory import DrillRecord

        for done in report.drills:
            session.inventory().record_drill(
                DrillRecord(
                    repository=repository.config.repository_id,
                    store=done.store,
                    snapshot=done.snapshot,
                    plugin=done.plugin,
                    by=done.by,
                    first_byte_s=done.first_byte_s,
                    restore_s=done.restore_s,
                    verify_s=done.verify_s,
                    total_s=done.total_s,
                    rto_s=done.rto_s,
                    rpo_s=done.rpo_s,
                    bytes=done.bytes,
                    files=done.files,
                    passed=done.passed,
                    reason=done.reason,
                )
            )


def game_day(session: Session, repository: Repository, report: GameDayReport) -> None:
    """Record in the audit what a game day lost, and what of it was survived; it proves nothing of the store itself."""
    with _told(session):
        session.inventory().record(
            "game-day",
            {
                "snapshot": report.snapshot,
                "passed": report.passed,
                "survived": [loss.loss for loss in report.losses if loss.survived],
                "not_survived": [loss.loss for loss in report.losses if not loss.survived],
                "store": repository.store.url,
            },
            {},
            repo_id=repository.config.repository_id,
        )
    flush(session, repository)


def forgotten(session: Session, repository: Repository, report: ForgetReport) -> None:
    """Record in the audit which snapshots were removed on purpose."""
    if not report.removed:
        return
    with _told(session):
        detail = {"snapshots": [one.ref.id for one in report.removed], "store": repository.store.url}
        session.inventory().record("forget", detail, {}, repo_id=repository.config.repository_id)
    flush(session, repository)


def pruned(session: Session, repository: Repository, report: PruneReport) -> None:
    """Record in the audit what a prune gave back."""
    with _told(session):
        detail = {
            "packs_deleted": report.packs_deleted,
            "packs_written": report.packs_written,
            "bytes_freed": report.bytes_freed,
            "store": repository.store.url,
        }
        session.inventory().record("prune", detail, {}, repo_id=repository.config.repository_id)
    flush(session, repository)


def flush(session: Session, repository: Repository, *, turso: bool = True) -> bool:
    """Send what was recorded to both ends, or to the repository alone; return whether Turso was asked and took it.

    What does not arrive is told once, and goes with the next command.
    """
    pushed = False
    with _told(session):
        inventory = session.inventory()
        with _told(session):
            from drkit.inventory.objects import store_rows

            store_rows(inventory, repository.store, repository.config.repository_id)
        url, token = session.turso
        if url and turso:
            from drkit.inventory.sync import push
            from drkit.inventory.turso import Turso

            client = Turso(url, token, timeout=PUSH_TIMEOUT_S)
            try:
                push(inventory, client, at_most=_SHIPMENTS)
                pushed = True
            finally:
                client.close()
    return pushed


def rebuild(inventory: Inventory, repository: Repository, *, warn: Callable[[Finding], None]) -> tuple[int, int]:
    """Bring back into an inventory all that a repository knows; return (rows of objects, snapshots found).

    Rows that were recorded come from the repository's `inventory/`; what nobody recorded, or was lost on the way,
    comes from the snapshots themselves.
    """
    from drkit.backup import record_snapshot
    from drkit.inventory.objects import read_objects

    repo_id = repository.config.repository_id
    objects = read_objects(inventory, repository.store, repo_id)
    for finding in objects.findings:
        warn(finding)
    refs = {str(ref.id): ref for ref in repository.snapshots()}
    for record in inventory.without_plugins(repo_id):
        if record.snapshot in refs:
            with _damage_told(record.name, warn):
                inventory.add_plugins(record, repository.plugins(repository.load(refs[record.snapshot])))
    count = 0
    for ref in refs.values():
        if not inventory.has_snapshot(repo_id, ref.id):
            with _damage_told(ref.name, warn):
                record_snapshot(inventory, repository, ref, look_for_packs=count == 0)
                count += 1
    return objects.rows, count


@contextmanager
def _damage_told(name: str, warn: Callable[[Finding], None]) -> Iterator[None]:
    """Turn damage of a snapshot into a finding, so that it does not keep others from being recorded."""
    from drkit.errors import IntegrityError

    try:
        yield
    except IntegrityError as error:
        warn(Finding("snapshot-damaged", name, str(error), error.hint))


@contextmanager
def _told(session: Session) -> Iterator[None]:
    """Turn an error into a warning, one for each text."""
    try:
        yield
    except DrkitError as error:
        finding = Finding("inventory", "inventory", str(error), error.hint)
        if finding not in session.told:
            session.told.add(finding)
            session.console.finding(finding)
