"""The prune verb: gives back the space of what no snapshot needs, beside readers and backups (docs/retention.md).

Order: lock → look → record → look again, spare what is needed now → repacked packs → index → wait for backups that
began before the record → look once more → old index → old packs. Killed anywhere, the next prune goes on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from time import monotonic

import msgspec
from msgspec import Struct

from drkit.errors import FormatError, IntegrityError, ObjectNotFound, StoreCorrupt, UsageError
from drkit.format.indexfile import shorten
from drkit.format.snapshot import parse_name
from drkit.inventory.merge import merge_objects
from drkit.model import PackId
from drkit.progress import Progress
from drkit.repo import Repository
from drkit.repo.index import read_pack_table, stored_packs, write_index
from drkit.repo.lock import FoundLock, PruneLock, condemned_packs, find_locks, put_record, remove_dead
from drkit.repo.names import index_name, pack_id_of, pack_name
from drkit.repo.newest import survey, write_newest
from drkit.repo.parity import parity_id_of, parity_name
from drkit.repo.roots import write_roots
from drkit.retention.mark import Live
from drkit.retention.plan import Layout, Limits, PackOf, Planner
from drkit.retention.policy import DAY_S
from drkit.retention.repack import Written, repack

RECORDS_KEPT_S = 30 * DAY_S
_STEP_S = 0.5
_INDEX_OBJECTS = 8
"""So many index objects are merged, even if nothing else is to be done."""


class PruneOptions(Struct, frozen=True):
    """What to give back. `min_age_s`: packs that are in the store for less stay. `wait_s`: for backups at work."""

    limits: Limits = Limits()
    min_age_s: float = 0.0
    wait_s: float = 0.0
    dry_run: bool = False


class PruneReport(Struct, frozen=True):
    """What was, or is going to be, done. Bytes of packs; `unused` is what of them no snapshot needs.

    `deferred` packs are deleted by the next prune: a backup that began before this one was still at work.
    """

    dry_run: bool
    packs_before: int
    packs_deleted: int
    packs_repacked: int
    packs_written: int
    bytes_before: int
    bytes_after: int
    bytes_to_read: int
    bytes_to_write: int
    bytes_freed: int
    unused_before: int
    deferred: int = 0
    duration_s: float = 0.0


def prune(
    repo: Repository,
    options: PruneOptions = PruneOptions(),  # noqa: B008 - frozen
    *,
    progress: Progress,
    now: Callable[[], datetime],
    sleep: Callable[[float], None],
    told: Callable[[PruneReport], object] | None = None,
) -> PruneReport:
    """Give back space; `told` hears the plan with its price before anything is written.

    LockedError if another prune works there. IntegrityError if anything that a snapshot needs is lost or unreadable:
    nothing was deleted then. StoreError if the store fails, refuses to delete, or the lock was taken away.
    """
    began = monotonic()
    repo.check_writable()
    if options.dry_run:
        job = _Job(repo, options, progress, None, sleep)
        report = job.plan()
        if told is not None:
            told(report)
    else:
        with PruneLock(repo.store, now) as lock:
            job = _Job(repo, options, progress, lock, sleep)
            planned = job.plan()
            if told is not None:
                told(planned)
            report = job.execute(planned)
    return msgspec.structs.replace(report, duration_s=round(monotonic() - began, 3))


class _Job:
    """One prune under way."""

    def __init__(
        self,
        repo: Repository,
        options: PruneOptions,
        progress: Progress,
        lock: PruneLock | None,
        sleep: Callable[[float], None],
    ) -> None:
        self._repo = repo
        self._store = repo.store
        self._options = options
        self._progress = progress
        self._lock = lock
        self._sleep = sleep
        self._record = f"prunes/{os.urandom(16).hex()}"
        self._live = Live(repo)

    def plan(self) -> PruneReport:
        """Look at everything; snapshots first, so that the packs that they need are there when those are listed."""
        self._progress.start(None, None, "looking for what is needed")
        names = self._snapshots()
        self._condemned = condemned_packs(self._store)
        loaded = self._loaded = self._repo.load_index(fresh=True)
        infos = {pack: info for info in self._store.list("packs/") if (pack := pack_id_of(info.name))}
        packs = {
            pack_id: PackOf(pack, infos[pack_id].modified)
            for pack_id, pack in loaded.index.packs.items()
            if pack_id in infos
        }
        if packs and not names:
            raise UsageError(
                "the repository has packs but no snapshot",
                hint="back up first: then what it does not use is given back",
            )
        self._live.add(names)
        locks = self._backups()
        self._must = frozenset().union(*self._condemned.values()) & packs.keys()
        newest = max((pack.stamp for pack in packs.values()), default=0.0)
        young = frozenset(pack for pack, known in packs.items() if newest - known.stamp < self._options.min_age_s)
        spared = frozenset(young | _younger(packs, locks)) - self._must
        planner = self._planner = Planner(packs, self._live, self._must, spared, young)
        if planner.missing():
            raise IntegrityError(
                f"{planner.missing()} blobs that snapshots need are in no pack; nothing was deleted",
                hint="run 'drkit verify --all' for what is lost; mend it, or forget its snapshots, then prune",
            )
        others = sum(
            info.size
            for prefix in ("index/", "snapshots/", "inventory/", "parity/")
            for info in self._store.list(prefix)
        )
        self._gone = planner.choose(self._options.limits, others)
        return self._report(planner.layout(self._gone), dry_run=self._options.dry_run)

    def _report(self, layout: Layout, *, dry_run: bool) -> PruneReport:
        planner = self._planner
        read, written = planner.price(layout)
        sizes = {pack: known.pack.size for pack, known in planner.packs.items()}
        before, freed = sum(sizes.values()), sum(sizes[pack] for pack in layout.gone)
        sources = set(layout.moved.values())
        return PruneReport(
            dry_run=dry_run,
            packs_before=len(sizes),
            packs_deleted=len(layout.gone),
            packs_repacked=len(sources),
            packs_written=0,
            bytes_before=before,
            bytes_after=before - freed + written,
            bytes_to_read=read,
            bytes_to_write=written,
            bytes_freed=freed - written,
            unused_before=before - round(sum(use.live for use in planner.use.values())),
        )

    def execute(self, planned: PruneReport) -> PruneReport:
        """Do what was planned, less what turns out to be needed."""
        planner, report = self._planner, planned
        layout = planner.layout(self._gone)
        if layout.gone or layout.nodes:
            self._check_deletes()
            self._check_tables()
            began = self._condemn()
            self._look_again()
            layout = planner.layout(self._gone)
            self._progress.start(None, planner.price(layout)[0], "writing anew what is needed")
            condemned = frozenset().union(self._gone, *self._condemned.values())
            done = repack(self._repo, planner, layout, condemned=condemned, progress=self._progress, tick=self._tick)
            self._write_index(done)
            self._write_roots(done)
            self._write_newest(done)
            stays = self._deferred(began, layout)
            self._delete(self._gone - stays)
            report = self._done(planned, layout, done, stays)
        elif self._index_is_worn():
            self._write_index(None)
            self._delete(frozenset())
        self._expire()
        self._drop_parity()
        merge_objects(self._store)
        return report

    def _done(self, planned: PruneReport, layout: Layout, done: Written, stays: frozenset[PackId]) -> PruneReport:
        sizes = {pack: known.pack.size for pack, known in self._planner.packs.items()}
        freed = sum(sizes[pack] for pack in layout.gone - stays)
        written = sum(pack.size for pack in done.packs)
        return msgspec.structs.replace(
            planned,
            packs_deleted=len(layout.gone - stays),
            packs_repacked=len(set(layout.moved.values())),
            packs_written=len(done.packs),
            bytes_after=planned.bytes_before - freed + written,
            bytes_to_read=done.bytes_read,
            bytes_to_write=written,
            bytes_freed=freed - written,
            deferred=len(stays),
        )

    # Looking

    def _snapshots(self) -> list[str]:
        """Return the names of all snapshots. IntegrityError for anything else among them: it may be one, renamed."""
        names = [info.name for info in self._store.list("snapshots/")]
        for name in names:
            try:
                parse_name(name)
            except FormatError as error:
                raise IntegrityError(
                    f"{error}: what it needs is not known; nothing was deleted", hint="move it out, then prune"
                ) from error
        return names

    def _backups(self) -> list[FoundLock]:
        """Return the locks of backups at work; those of the dead are removed, unless this is a dry run."""
        if self._lock is None:
            return find_locks(self._store, 0.0, self._store.list("locks/backup-"))[0]
        now = self._lock.now()
        return remove_dead(self._store, now, self._store.list("locks/backup-"), own=self._lock.name)

    def _condemn(self) -> float:
        """Put the record. From here on new backups treat its packs as absent; return its stamp."""
        put_record(self._store, self._record, self._gone)
        # Written first, read second: who takes this prune for dead has seen the record, or this sees its lock gone.
        self._now()
        return self._store.stat(self._record).modified

    def _look_again(self) -> None:
        """Spare what backups that began before the record need, or have just written."""
        locks = self._backups()
        fresh = self._live.add(self._snapshots())
        own = self._gone - self._must
        spared = _younger(self._planner.packs, locks) & own
        if fresh:
            spared |= self._planner.holding(fresh, own)
        self._planner.there |= stored_packs(self._store).keys()
        if spared:
            self._gone -= spared
            put_record(self._store, self._record, self._gone)

    def _deferred(self, began: float, layout: Layout) -> frozenset[PackId]:
        """Return the packs that must stay for now, because a backup that does not know of the record may need them."""
        waited = 0.0
        while any(lock.stamp <= began for lock in self._backups()):
            if waited >= self._options.wait_s:
                return self._gone
            self._sleep(_STEP_S)
            waited += _STEP_S
        # Locks first, snapshots second: a backup whose lock is gone has put its snapshot, or never will.
        fresh = self._live.add(self._snapshots()) - layout.moved.keys()
        return self._planner.holding(fresh, self._gone) if fresh else frozenset()

    # Writing

    def _write_index(self, done: Written | None) -> None:
        """Store one index of all packs that stay, the new ones first: of two places of a node theirs is better."""
        loaded = self._loaded
        packs = [*(done.packs if done else ()), *(done.stays if done else loaded.index).packs.values()]
        packs = list({pack.id: pack for pack in packs}.values())
        old = (*loaded.objects, *loaded.damaged, *loaded.superseded)
        self._written, _ = write_index(self._store, packs, old)

    def _index_is_worn(self) -> bool:
        loaded = self._loaded
        worn = loaded.unindexed or loaded.damaged or loaded.stale or loaded.superseded
        return bool(worn) or len(loaded.objects) >= _INDEX_OBJECTS

    def _write_roots(self, done: Written) -> None:
        """Say where the children of roots lie of which the snapshots say otherwise."""
        found = {node_id: done.find(node_id) for node_id in self._live.roots}
        said = self._live.roots
        write_roots(self._store, {one: place for one, place in found.items() if place and said[one] != {place}})

    def _write_newest(self, done: Written) -> None:
        """Say anew what the newest snapshot needs, for readers far away. Nobody misses it where it cannot be read."""
        with contextlib.suppress(IntegrityError):
            if self._store.directory is None and (ref := self._repo.latest()):
                write_newest(self._store, *survey(self._repo, self._repo.load(ref)), done.find)

    # Deleting

    def _check_deletes(self) -> None:
        """Raise StoreError if the store lets nobody delete, before anything is written in vain."""
        with contextlib.suppress(ObjectNotFound):
            self._store.delete(self._record)

    def _check_tables(self) -> None:
        """Compare what the index says of packs with what they say themselves, where it depends on that what is lost.

        An index object is believed by whoever only reads. Somebody who may only add could add a false one.
        """
        for pack_id in self._planner.relied_on(self._gone):
            known = self._planner.packs[pack_id].pack
            try:
                right = shorten(read_pack_table(self._store, pack_id, known.size)) == known.table
            except (FormatError, StoreCorrupt):
                right = False
            if not right:
                raise IntegrityError(
                    f"the index does not say what {pack_name(pack_id)} says itself; nothing was deleted",
                    hint="see 'drkit verify --all'; if the packs are sound, move the objects below index/ out of the "
                    "repository: the index is made anew from the packs",
                )

    def _delete(self, packs: frozenset[PackId]) -> None:
        self._progress.start(None, None, "deleting")
        self._now()
        loaded = self._loaded
        for index_id in (*loaded.objects, *loaded.damaged, *loaded.superseded):
            if index_id not in self._written:
                self._remove(index_name(index_id))
        self._now()
        for pack_id in sorted(packs):
            self._tick()
            self._remove(pack_name(pack_id))
            if self._repo.config.parity is not None:
                self._remove(parity_name(pack_id))

    def _remove(self, name: str) -> None:
        with contextlib.suppress(ObjectNotFound):  # a prune before this one came so far
            self._store.delete(name)

    def _expire(self) -> None:
        """Remove records that are old and have done their work."""
        now = self._now()
        stored = stored_packs(self._store).keys()
        for info in list(self._store.list("prunes/")):
            old = now - info.modified > RECORDS_KEPT_S
            if old and not stored & self._condemned.get(info.name, stored):
                self._remove(info.name)

    def _drop_parity(self) -> None:
        """Remove the parity of what is gone, or never came, but not that of what a backup at work is going to store."""
        if self._repo.config.parity is None:
            return
        found = list(self._store.list("parity/"))
        oldest = min((lock.stamp for lock in self._backups()), default=float("inf"))
        there = {*stored_packs(self._store), *(bytes.fromhex(parse_name(name)[1]) for name in self._snapshots())}
        for info in found:
            object_id = parity_id_of(info.name)
            if object_id and object_id not in there and info.modified < oldest:
                self._tick()
                self._remove(info.name)

    def _tick(self) -> None:
        if self._lock is not None:
            self._lock.refresh()

    def _now(self) -> float:
        assert self._lock is not None
        return self._lock.now()


def _younger(packs: Mapping[PackId, PackOf], locks: Sequence[FoundLock]) -> set[PackId]:
    """Return the packs that backups at work may have written: none is older than the oldest of their locks."""
    oldest = min((lock.stamp for lock in locks), default=float("inf"))
    return {pack for pack, known in packs.items() if known.stamp >= oldest}
