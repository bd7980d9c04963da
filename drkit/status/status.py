"""The status verb. Everything comes from the inventory: no repository is opened, so it is as fast with many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from drkit.config import CopiesConfig
from drkit.inventory import Inventory, queries
from drkit.inventory.records import DrillRow, PluginRecord, SnapshotRecord, VerificationRecord
from drkit.inventory.standing import LEVELS, standing
from drkit.status.report import Group, LastDrill, SourceStatus, StatusReport, StoreStatus, Verified

LOOK_BACK = 500
"""How many of the newest snapshots, verifications and drills are looked at."""
_DEPTH = 2
"""How many components of a plugin's directory name its group."""


def status(
    inventory: Inventory,
    *,
    now: datetime,
    rpo_s: float,
    ends: Sequence[str] = ("stored",),
    stores: Mapping[str, str] = MappingProxyType({}),
    copies: CopiesConfig | None = None,
) -> StatusReport:
    """Sum up what the inventory knows. `rpo_s` is how old the newest verified snapshot of a source may be.

    `ends` are the ends of the outbox to count for: "stored", the repository, and "pushed", Turso. `stores` are those
    that are to have every snapshot, name → URL, and `copies` says how far one may lag.
    """
    newest = inventory.newest_by_source()
    past = _Past(
        now,
        [row for row in inventory.snapshots(limit=LOOK_BACK) if "rejected" not in row.tags],
        [row for row in inventory.verifications(limit=LOOK_BACK) if row.ok and row.plugin is None],
        inventory.drills(limit=LOOK_BACK),
    )
    sources = tuple(_source(inventory, past, row, rpo_s) for row in newest)
    places = tuple(_stores(inventory, past, newest, stores, copies or CopiesConfig()))
    return StatusReport(
        ok=bool(sources)
        and all(source.rpo_met and source.rto_met is not False for source in sources)
        and all(store.lag_met and not store.failed for store in places),
        at=now.isoformat(timespec="seconds"),
        inventory=inventory.id,
        sources=sources,
        stores=places,
        pending={end: len(inventory.outbox_pending(end)) for end in ends},
    )


class _Past:
    """What the inventory knows of the recent past, newest first."""

    def __init__(
        self,
        now: datetime,
        snapshots: Sequence[SnapshotRecord],
        verifications: Sequence[VerificationRecord],
        drills: Sequence[DrillRow],
    ) -> None:
        self.now = now
        self.snapshots = snapshots
        self.drills = drills
        self._proofs: dict[str, tuple[str, str]] = {}
        """Snapshot → level and time of its best proof anywhere: of the highest level, and of those the newest."""
        proofs = [(row.snapshot, row.level, row.at) for row in verifications]
        proofs += [(drill.snapshot, "restore", drill.at) for drill in drills if drill.passed and drill.plugin is None]
        for snapshot, level, at in proofs:
            known = self._proofs.get(snapshot)
            if known is None or (_rank(level), at) > (_rank(known[0]), known[1]):
                self._proofs[snapshot] = (level, at)

    def age(self, at: str) -> float:
        """Return how many seconds ago a recorded time was."""
        return round((self.now - datetime.fromisoformat(at)).total_seconds(), 3)

    def verified(self, newest: SnapshotRecord) -> Verified | None:
        """Return the newest snapshot of the same source that was proved at any level."""
        key = (newest.repository, newest.host, newest.source)
        for row in self.snapshots:
            if (row.repository, row.host, row.source) == key and row.snapshot in self._proofs:
                level, at = self._proofs[row.snapshot]
                return Verified(row.snapshot, level, at, self.age(at), self.age(row.time))
        return None

    def drill(self, newest: SnapshotRecord, *, full: bool) -> LastDrill | None:
        """Return the newest drill of the repository, of everything or of any plugin; one that failed comes first.

        Of each plugin only the newest drill counts: one that failed does so until it passes again.
        """
        last: dict[bytes | None, DrillRow] = {}
        for row in self.drills:
            if row.repository == newest.repository and (row.plugin is None) == full:
                last.setdefault(row.plugin, row)
        for row in sorted(last.values(), key=lambda row: row.passed):
            age = self.age(row.at)
            return LastDrill(row.plugin, row.by, row.at, age, row.total_s, row.rto_s, row.passed, row.reason)
        return None


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else -1


def _source(inventory: Inventory, past: _Past, row: SnapshotRecord, rpo_target_s: float) -> SourceStatus:
    verified = past.verified(row)
    rpo_s = verified.snapshot_age_s if verified else None
    drills = past.drill(row, full=True), past.drill(row, full=False)
    passed = [drill.passed for drill in drills if drill is not None]
    return SourceStatus(
        repository=row.repository,
        store=row.store,
        host=row.host,
        source=row.source,
        snapshot=row.snapshot,
        time=row.time,
        age_s=past.age(row.time),
        files=row.files,
        plugins=row.plugins,
        bytes=row.bytes,
        verified=verified,
        rpo_s=rpo_s,
        rpo_target_s=rpo_target_s,
        rpo_met=rpo_s is not None and rpo_s <= rpo_target_s,
        full_drill=drills[0],
        plugin_drill=drills[1],
        rto_met=all(passed) if passed else None,
        groups=_groups(inventory, past, row, queries.recent_plugins(inventory.engine, row)),
    )


def _stores(
    inventory: Inventory,
    past: _Past,
    newest: Sequence[SnapshotRecord],
    stores: Mapping[str, str],
    copies: CopiesConfig,
) -> Iterator[StoreStatus]:
    """Tell of each store, for the repositories that are known to be in one of them."""
    made = {(row.repository, row.store) for row in newest}
    for repository in dict.fromkeys(row.repository for row in newest):
        found = {name: standing(inventory.engine, repository, url) for name, url in stores.items()}
        if not any(known.snapshot or (repository, known.url) in made for known in found.values()):
            continue
        for name, known in found.items():
            lag_s = past.age(known.since) if known.since else 0.0
            yield StoreStatus(
                name=name,
                url=known.url,
                repository=repository,
                snapshot=known.snapshot,
                lag=known.behind,
                lag_s=lag_s,
                lag_met=not copies.too_far(known.behind, lag_s),
                proved={level: past.age(at) for level, at in known.proved.items()},
                failed=known.failed,
            )


def _groups(
    inventory: Inventory, past: _Past, row: SnapshotRecord, plugins: Sequence[PluginRecord]
) -> tuple[Group, ...]:
    """Sum up the plugins of each group; those without proof come first, then those with the oldest."""
    proved = queries.drilled(inventory.engine, row.repository, row.store)
    everything = inventory.last_proof(row.repository, row.store, None)
    whole = everything.at if everything else ""
    groups: dict[bytes, list[str]] = {}
    for plugin in plugins:
        directory = b"/".join(plugin.path.split(b"/")[:-1][:_DEPTH])
        groups.setdefault(directory, []).append(max(proved.get(plugin.path, ""), whole))
    found = [
        Group(path, len(times), sum(map(bool, times)), past.age(min(times)) if all(times) else None)
        for path, times in groups.items()
    ]
    return tuple(sorted(found, key=lambda group: (group.age_s is not None, -(group.age_s or 0), group.path)))
