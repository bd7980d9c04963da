"""Snapshots that the guard takes: always of the whole source, recorded like those of `drkit backup`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import structs

from drkit.backup import BackupReport, backup, record_snapshot
from drkit.errors import GuardRefused
from drkit.guard.site import Site
from drkit.model import Snapshot
from drkit.progress import NullProgress
from drkit.repo import SnapshotRef


def take_snapshot(
    site: Site, *, tags: tuple[str, ...] = (), judge: Callable[[Snapshot], Sequence[str]] | None = None
) -> BackupReport:
    """Take a snapshot of the whole source and record it in the inventory. Errors as of `backup` and the inventory.

    `judge` may add tags when it has seen it; see `backup`.
    Rows are recorded here, not sent: whoever runs the command sends them when it ends.
    """
    return take(site, tags, judge)[0]


def take(
    site: Site,
    tags: tuple[str, ...],
    judge: Callable[[Snapshot], Sequence[str]] | None = None,
    *,
    plugins: bool = True,
) -> tuple[BackupReport, SnapshotRef]:
    """Take a snapshot as `take_snapshot` does; return also where it is.

    Without `plugins` the inventory gets no rows of them: for one of the many of a night, which differ in one plugin.
    """
    report = back_up(site, judge, tags=(*site.options.tags, *tags), dry_run=False)
    ref = find_snapshot(site, report.snapshot)
    record_snapshot(site.inventory, site.repo, ref, look_for_packs=report.packs > 0, plugins=plugins, report=report)
    return report, ref


def back_up(site: Site, judge: Callable[[Snapshot], Sequence[str]] | None = None, **options: Any) -> BackupReport:
    """Back up the whole source with these options in place of the site's; nothing is recorded."""
    return backup(
        site.repo,
        site.source,
        options=structs.replace(site.options, **options),
        progress=NullProgress(),
        now=site.now,
        cache_dir=site.cache_dir,
        in_use=site.in_use,
        judge=judge,
    )


def find_snapshot(site: Site, snapshot: str) -> SnapshotRef:
    """Return the snapshot of exactly this id. GuardRefused if the repository does not have it."""
    for ref in reversed(site.repo.snapshots()):
        if ref.id == snapshot:
            return ref
    raise GuardRefused(
        f"the repository does not have the snapshot {snapshot[:12]}", hint="run 'drkit verify --all' to see what it has"
    )
