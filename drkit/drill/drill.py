"""The drill: restore for real, against the clock, and compare."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from random import Random

from msgspec import Struct

from drkit.drill.disk import evict
from drkit.drill.report import Drill, DrillReport
from drkit.drill.restorer import RESTORERS, Restored
from drkit.errors import DrkitError, UsageError
from drkit.model import PluginRow, Snapshot
from drkit.progress import Progress
from drkit.repo.repository import Repository, SnapshotRef
from drkit.restore.scratch import scratch

PLUGIN_RTO_S = 300.0
FULL_RTO_S = 1_800.0
RPO_S = 86_400.0

Order = Callable[[Sequence[bytes], int], Sequence[bytes]]
"""Of these plugins (paths), those that were drilled least recently, at most so many; what history the caller has."""
Witness = Callable[[SnapshotRef, Snapshot], str | None]
"""What speaks against a snapshot: that it is not as it was recorded when it was made. None if nothing does."""


class DrillOptions(Struct, frozen=True):
    """How to drill. Without an `rto_s` it is 5 minutes for a plugin, and 30 for everything.

    `cold` drops what the system remembers of the repository's files before each drill. `scratch` is where to restore
    to, None for the system's temporary directory.
    """

    by: str = "drkit"
    rto_s: float | None = None
    rpo_s: float = RPO_S
    cold: bool = False
    scratch: bytes | None = None


def choose(
    repo: Repository, snap: Snapshot, count: int, *, order: Order | None = None, random: Random
) -> list[PluginRow]:
    """Return `count` plugins of a snapshot to drill, or all if there are fewer.

    The least recently drilled come first as `order` knows them; without it, and among those never drilled, it is a
    random choice. UsageError if the snapshot has no plugins.
    """
    rows = {row.raw_path: row for row in repo.plugins(snap)}
    if not rows:
        raise UsageError("this snapshot has no plugins to take a sample of", hint="restore everything with --full")
    paths = list(rows)
    random.shuffle(paths)
    return [rows[path] for path in (order(paths, count) if order else paths)[:count]]


def drill(
    repo: Repository,
    ref: SnapshotRef,
    targets: Sequence[PluginRow | None],
    *,
    options: DrillOptions,
    now: Callable[[], datetime],
    progress: Progress,
    witness: Witness | None = None,
) -> DrillReport:
    """Restore each of `targets` (a plugin, or None for everything) to scratch, time it, and compare tree hashes.

    What goes wrong with one drill fails that drill and not the others. UsageError if this cannot be done here at all.
    """
    snap = repo.load(ref)
    began = time.monotonic()
    if options.cold and repo.store.directory is None:
        raise UsageError(f"what is cached of {repo.store.url} cannot be dropped", hint="leave out --cold")
    against = witness(ref, snap) if witness else None
    age_s = max(0.0, (now() - _moment(ref)).total_seconds())
    drills = tuple(_one(repo, ref, snap, row, options, age_s, against or "", progress) for row in targets)
    return DrillReport(ref.id, drills, round(time.monotonic() - began, 3))


def _one(
    repo: Repository,
    ref: SnapshotRef,
    snap: Snapshot,
    row: PluginRow | None,
    options: DrillOptions,
    age_s: float,
    against: str,
    progress: Progress,
) -> Drill:
    rto_s = options.rto_s or (FULL_RTO_S if row is None else PLUGIN_RTO_S)
    found: Restored | None = None
    began = time.monotonic()
    with scratch(options.scratch) as directory:
        if options.cold and repo.store.directory is not None:
            evict(repo.store.directory)
            began = time.monotonic()
        try:
            found = RESTORERS[options.by](
                repo.store, ref.id, row, os.path.join(directory, b"tree"), rto_s=rto_s, progress=progress
            )
            failures = _failures(found, snap.tree_sha256 if row is None else row.tree_sha256, rto_s)
        except UsageError:
            raise
        except (DrkitError, OSError) as error:
            failures = [str(error)]
        total_s = found.total_s if found else round(time.monotonic() - began, 4)
    if age_s > options.rpo_s:
        failures.append(f"the newest snapshot is {age_s:.0f} s old, over the RPO of {options.rpo_s:.0f} s")
    if against:
        failures.append(against)
    return Drill(
        plugin=None if row is None else row.raw_path,
        store=repo.store.url,
        by=options.by,
        first_byte_s=found.first_byte_s if found else 0.0,
        restore_s=found.restore_s if found else 0.0,
        verify_s=found.verify_s if found else 0.0,
        total_s=total_s,
        rto_s=rto_s,
        age_s=round(age_s, 3),
        rpo_s=options.rpo_s,
        files=found.files if found else 0,
        bytes=found.bytes if found else 0,
        passed=not failures,
        reason="; ".join(failures),
        snapshot=ref.id,
    )


def unreachable(store: str, error: DrkitError, options: DrillOptions) -> Drill:
    """Return the drill of a store that could not be opened: it failed."""
    rto_s = options.rto_s or FULL_RTO_S
    return Drill(None, store, options.by, 0.0, 0.0, 0.0, 0.0, rto_s, 0.0, options.rpo_s, 0, 0, False, str(error))


def _failures(found: Restored, tree_sha256: str, rto_s: float) -> list[str]:
    failures = []
    if found.lost:
        failures.append(f"{len(found.lost)} paths are lost, the first is {found.lost[0]}")
    elif found.tree_sha256 != tree_sha256:
        failures.append(f"the restored tree hashes to {found.tree_sha256}, but {tree_sha256} was backed up")
    if found.total_s > rto_s:
        failures.append(f"it took {found.total_s:.1f} s, over the RTO of {rto_s:.1f} s")
    return failures


def _moment(ref: SnapshotRef) -> datetime:
    return datetime.strptime(ref.time, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
