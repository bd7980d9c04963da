"""The proof before a permit: that a plugin, as the snapshot has it, can be brought back."""

from __future__ import annotations

import os
import tempfile
from datetime import datetime

from drkit.errors import (
    GuardRefused,
    IntegrityError,
    ObjectNotFound,
    RestoreMismatch,
    StoreCorrupt,
    StoreError,
    UsageError,
)
from drkit.guard.elsewhere import check_stores, prove_elsewhere
from drkit.guard.site import Policy, Site
from drkit.guard.snapshot import find_snapshot
from drkit.model import Level, PluginRow, show_path
from drkit.progress import NullProgress
from drkit.repo import SnapshotRef
from drkit.restore import RestoreReport, restore_plugin
from drkit.restore.dirs import OPEN_DIR, remove

_SHOWN = 5


def prove(site: Site, policy: Policy, ref: SnapshotRef, row: PluginRow) -> None:
    """Prove what the policy asks for, in every store that it asks for, and record it.

    GuardRefused if it cannot be proved, with the reason.
    """
    check_stores(site, policy)

    def lately(there: Site) -> bool:
        return _proved_lately(there, policy, row)

    def proved(there: Site) -> None:
        _prove_in(there, policy, ref, row)

    if not lately(site):
        proved(site)
    prove_elsewhere(site, policy, ref, proved, lately)


def _prove_in(site: Site, policy: Policy, ref: SnapshotRef, row: PluginRow) -> None:
    try:
        if policy.level >= Level.RESTORE:
            _restore(site, ref, row)
        else:
            _verify(site, policy.level, ref)
    except (IntegrityError, RestoreMismatch, ObjectNotFound, StoreCorrupt) as error:
        what = show_path(row.raw_path) or "everything"
        raise GuardRefused(
            f"{what} could not be brought back from the snapshot just taken: {error}",
            hint="run 'drkit verify --all --level content' for what is damaged",
        ) from error


def _proved_lately(site: Site, policy: Policy, row: PluginRow) -> bool:
    """Whether the same content of the plugin was brought back from this store within the policy's time."""
    if policy.max_age_s is None:
        return False
    proof = site.inventory.last_proof(site.repo.config.repository_id, site.repo.store.url, row.raw_path)
    if proof is None or (site.now() - datetime.fromisoformat(proof.at)).total_seconds() > policy.max_age_s:
        return False
    try:
        proved = site.repo.load(find_snapshot(site, proof.snapshot))
        known = site.repo.plugin(proved, os.fsdecode(row.raw_path) or ".")
    except (GuardRefused, UsageError, IntegrityError, StoreError):
        return False  # forgotten or damaged since
    return (known.raw_path, known.tree_sha256) == (row.raw_path, row.tree_sha256)


def bring_back(site: Site, ref: SnapshotRef, row: PluginRow) -> RestoreReport:
    """Restore a plugin to scratch, durably, read it back, and remove it. RestoreMismatch if it is not whole."""
    # Named like a stage, so that no walk ever takes it for a part of a source.
    name = b".drkit-" + site.random(8).hex().encode()
    parent = os.open(tempfile.gettempdirb(), OPEN_DIR)
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
        try:
            target = os.path.join(tempfile.gettempdirb(), name, b"tree")
            report = restore_plugin(site.repo, ref, row, target=target, random=site.random)
        finally:
            remove(parent, name)
    finally:
        os.close(parent)
    if report.lost:
        raise RestoreMismatch("; ".join(f"{lost.path}: {lost.reason}" for lost in report.lost[:_SHOWN]))
    if report.tree_sha256 != row.tree_sha256:
        raise RestoreMismatch("what was restored has another tree hash")
    return report


def _restore(site: Site, ref: SnapshotRef, row: PluginRow) -> None:
    """Bring the plugin back, and record that."""
    report = bring_back(site, ref, row)
    site.inventory.record_restore(
        repo_id=site.repo.config.repository_id,
        store_url=site.repo.store.url,
        snapshot_id=ref.id,
        plugin=row.raw_path,
        whole=True,
        lost=0,
        files=report.files,
        bytes_restored=report.bytes,
        duration_s=report.duration_s,
    )


def _verify(site: Site, level: Level, ref: SnapshotRef) -> None:
    """Verify the whole snapshot at a level below a restore."""
    from drkit.verify import verify

    report = verify(site.repo, [ref], level=level, progress=NullProgress())
    site.inventory.record_verification(
        repo_id=site.repo.config.repository_id,
        store_url=site.repo.store.url,
        snapshot_id=ref.id,
        plugin=None,
        level=report.level,
        ok=report.ok,
        findings=len(report.findings),
        packs_read=report.packs_read,
        bytes_read=report.bytes_read,
        duration_s=report.duration_s,
    )
    if not report.ok:
        shown = "; ".join(f"{finding.object}: {finding.message}" for finding in report.findings[:_SHOWN])
        raise IntegrityError(shown)
