"""Recording a snapshot in the inventory."""

from __future__ import annotations

from drkit.backup.report import BackupReport, Committed
from drkit.inventory import Inventory
from drkit.model import PackId
from drkit.repo import Repository, SnapshotRef


def record_snapshot(
    inventory: Inventory,
    repository: Repository,
    ref: SnapshotRef,
    *,
    look_for_packs: bool = False,
    plugins: bool = True,
    report: BackupReport | None = None,
    made: Committed | None = None,
) -> None:
    """Record a snapshot: as it was made, with its report, or as it was found in the repository, without.

    `look_for_packs` also records the packs that the store has since the last time; without `plugins` their rows are
    left to the next rebuild. The store is not asked for what `made` tells.
    """
    snap = made.snapshot if made else repository.load(ref)
    store_url, repo_id = repository.store.url, repository.config.repository_id
    packs: list[tuple[PackId, int]] = []
    if look_for_packs:
        from drkit.repo.index import stored_packs

        known = inventory.known_packs(repo_id, store_url)
        stored = made.packs if made else stored_packs(repository.store)
        packs = [(pack, size) for pack, size in stored.items() if pack.hex() not in known]
    inventory.record_backup(
        repo_id=repo_id,
        store_url=store_url,
        snapshot_id=ref.id,
        name=ref.name,
        snapshot=snap,
        plugins=None if not plugins else made.plugins if made else repository.plugins(snap),
        packs=packs,
        bytes_added=report.bytes_added if report else None,
        packs_added=report.packs if report else None,
        files_unchanged=report.files_unchanged if report else None,
        duration_s=report.duration_s if report else None,
        warnings=len(report.warnings) if report else None,
    )
