"""The copy verb: a plan of what a second store lacks, then packs → index → snapshots, each verified where it went.

Objects are copied as they are: the same names, the same bytes. So what is there need not be sent again, whoever put
it there, and a copy that was killed goes on where it was. Nothing is ever deleted, and what is damaged here is not
copied.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from time import monotonic

from drkit.copy.hints import copy_roots, give_newest
from drkit.copy.report import CopyReport
from drkit.errors import (
    IntegrityError,
    LockedError,
    ObjectNotFound,
    RepositoryNotFound,
    StoreCorrupt,
    StoreError,
    UsageError,
)
from drkit.format import settings
from drkit.format import snapshot as snapshot_format
from drkit.format.indexfile import IndexedPack
from drkit.format.limits import INDEX_LIVE
from drkit.model import Finding, PackId, Snapshot
from drkit.progress import Progress
from drkit.repo import Repository, SnapshotRef, opening
from drkit.repo.index import LoadedIndex, load_index, stored_packs, write_index
from drkit.repo.lock import BackupLock, condemned_packs
from drkit.repo.names import pack_name, put_hashed
from drkit.repo.newest import Find
from drkit.repo.parity import check_parity, get_whole, put_parity
from drkit.repo.reach import missing_blobs
from drkit.seal import beside
from drkit.seal.keys import delete_slot, read_slots, replaced_slots, slot_id_of, slot_names
from drkit.store.base import Store

WORKERS = 8
"""How many objects are under way at once: each costs an answer's time, and there may be thousands of small ones."""
ROOM = 64 << 20
"""How many bytes of packs are."""
KEYS = "keys/"
OTHERS = (KEYS, "inventory/")
"""What else is copied, each object once: it never changes."""
_ROUNDS = 3
"""So often packs are chosen anew because a prune took some of them away meanwhile."""
_REVOKE = "delete it there with the store's own tools: who has its secret can still read what it opens"
_HEAL = "heal it with 'drkit repair --from URL', then run the copy again"


_EMPTY = (
    "mount what belongs there, or check the URL; if it is lost for good, fill a new place with 'drkit copy --to STORE'"
)


def copy(
    source: Repository,
    target: Store,
    *,
    create: bool = True,
    dry_run: bool = False,
    progress: Progress,
    now: Callable[[], datetime],
) -> CopyReport:
    """Bring `target` up to date; an empty store becomes a repository with the same id if it may be created.

    Each pack is hashed before it goes, and once more as the target gives it back. What is damaged or missing here
    becomes findings, and so do snapshots that need it. UsageError if the target holds another repository, or is the
    same store; RepositoryNotFound if it is empty and must not be; LockedError if a prune works there; StoreError if it
    fails, or a prune takes away what was copied.
    """
    began = monotonic()
    check_parity(source.config)
    target = beside(source.store, target)
    created, mend = _check_target(source, target)
    if created and not create:
        raise RepositoryNotFound(f"there is no repository in {target.url} any more", hint=_EMPTY)
    job = _Job(source, target, created, progress)
    job.plan()
    if not dry_run:
        if created:
            created, mend = _found(source, target)
        for name in mend:  # what an interrupted copy has not written yet
            put_hashed(target, name, settings.encode(source.config))
        job.copy_keys()  # before anything that they seal
        with BackupLock(target, now) as lock:
            lock.refuse_in(source.store)
            job.execute(lock)
    return CopyReport(
        source=source.store.url,
        target=target.url,
        repository=source.config.repository_id,
        created=created,
        dry_run=dry_run,
        snapshots=tuple(ref.id for ref in job.snapshots),
        packs=tuple(pack.id.hex() for pack in job.packs),
        bytes=sum(pack.size for pack in job.packs),
        present=job.present,
        others=len(job.others),
        left_out=tuple(job.left_out),
        findings=tuple(job.findings),
        duration_s=round(monotonic() - began, 3),
    )


def _check_target(source: Repository, target: Store) -> tuple[bool, list[str]]:
    """Refuse a target that is no second copy; return whether it is empty, and which copies of its settings are bad."""
    if target.url == source.store.url:
        raise UsageError(f"{target.url} is the repository itself", hint="name another store with --to")
    source.check_writable()
    try:
        config, findings = opening.read_settings(target)
    except RepositoryNotFound:
        return True, []
    except IntegrityError as error:
        raise IntegrityError(
            str(error), hint=f"run 'drkit repair --repo {target.url} --from {source.store.url}'"
        ) from error
    if config.repository_id != source.config.repository_id:
        raise UsageError(
            f"{target.url} holds another repository ({config.repository_id}, not {source.config.repository_id})",
            hint="name an empty place with --to: a copy never mixes repositories",
        )
    if config.encryption != source.config.encryption:
        raise IntegrityError(
            f"drkit.json in {target.url} does not say what it says here of encryption",
            hint=f"run 'drkit repair --repo {target.url} --from {source.store.url}'",
        )
    return False, [finding.object for finding in findings]


def _found(source: Repository, target: Store) -> tuple[bool, list[str]]:
    """Make an empty target a repository; as `_check_target` if another copy comes first, and makes it the same one."""
    try:
        opening.found(target, source.config, read_slots(source.store))
    except UsageError:
        empty, mend = _check_target(source, target)
        if empty:
            raise
        return False, mend
    return True, []


class _Job:
    """One copy under way. After `plan`, the lists say what is to be done; after `execute`, what was."""

    def __init__(self, source: Repository, target: Store, created: bool, progress: Progress) -> None:
        self.snapshots: list[SnapshotRef] = []
        self.packs: list[IndexedPack] = []
        self.others: list[str] = []
        self.left_out: list[str] = []
        self.findings: list[Finding] = []
        self.present = 0
        self._revoked: frozenset[str] = frozenset()
        self._source = source
        self._target = target
        self._created = created
        self._progress = progress
        self._wanted: frozenset[PackId] = frozenset()
        self._find: Find = lambda _: None
        self._failed: set[PackId] = set()
        self._done: list[IndexedPack] = []
        self._pruned: frozenset[str] = frozenset()
        self._pruning = self._withheld = False

    def plan(self) -> None:
        """Compare listings."""
        self._plan_packs(new=self._created)
        self.present = len(self._wanted) - len(self.packs)
        for prefix in OTHERS:
            have = set() if self._created else {info.name for info in self._target.list(prefix)}
            here = [info.name for info in self._source.store.list(prefix)]
            self.others += [name for name in here if name not in have]
            if prefix == KEYS and (stale := have.difference(here)):
                replaced = replaced_slots(self._source.store, self._source.config, self._source.keys)
                self._revoked = replaced.intersection(filter(None, map(slot_id_of, stale)))

    def _plan_packs(self, *, new: bool) -> None:
        """Choose packs and snapshots. The snapshots come first: the packs that they need are there when listed."""
        store = self._source.store
        condemned = condemned_packs(store)
        # In this order: of a prune whose record was not seen here, either the lock is seen or the record is new later.
        self._pruned = frozenset(condemned)
        self._pruning = next(store.list("locks/prune-"), None) is not None
        refs = self._source.snapshots()
        gone = frozenset[PackId]().union(*condemned.values())
        # Snapshots that have come back after a prune may need what it condemned.
        self._withheld = bool(gone) and not gone.isdisjoint(stored_packs(store))
        loaded = load_index(store, without=gone)
        self.findings = [one for one in self.findings if one.code not in _LOST]
        self.findings += [one for one in loaded.findings if one.code in _LOST]
        self._failed.clear()
        self._wanted = frozenset(loaded.index.packs)
        self._find = loaded.index.find
        there = {} if new else stored_packs(self._target)
        self.packs = [pack for pack in loaded.index.packs.values() if there.get(pack.id) != pack.size]
        names = set() if new else {info.name for info in self._target.list("snapshots/")}
        self.snapshots = [ref for ref in refs if ref.name not in names]

    def _disturbed(self) -> bool:
        """Whether a prune may have taken packs away here since they were chosen."""
        return self._pruning or {info.name for info in self._source.store.list("prunes/")} != self._pruned

    def copy_keys(self) -> None:
        """Copy key slots, and take away those that a rotation has replaced: what they open must not stay open."""
        self._copy_others(lambda name: name.startswith(KEYS))
        for slot_id in self._revoked:
            try:
                delete_slot(self._target, slot_id)
            except StoreError as error:
                name = slot_names(slot_id)[0]
                self.findings.append(Finding("key-kept", name, f"a replaced key slot stays: {error}", _REVOKE))

    def execute(self, lock: BackupLock) -> None:
        """Copy in write order: packs → index → snapshots; `lock` keeps a prune there from taking the packs."""
        target = self._target
        if next(target.list("locks/prune-"), None) is not None:
            raise LockedError(f"a prune is working on {target.url}", hint="wait until it has ended, then copy again")
        condemned = condemned_packs(target)
        before = load_index(target, without=frozenset().union(*condemned.values()))
        self._copy_others(lambda name: not name.startswith(KEYS))
        self._copy_packs(lock)
        for _ in range(_ROUNDS):
            if not self._disturbed():
                break
            self._plan_packs(new=False)
            self._copy_packs(lock)
        self._write_index(before)
        self._copy_snapshots(lock, condemned)
        copy_roots(self._source.store, self._target)
        give_newest(self._source, self._target, self.snapshots, self._find)

    def _copy_others(self, which: Callable[[str], bool]) -> None:
        def one(name: str) -> None:
            with contextlib.suppress(ObjectNotFound):  # taken away since
                put_hashed(self._target, name, self._source.store.get(name))

        with _workers() as pool:
            for _ in pool.map(one, filter(which, self.others)):
                pass  # an error is raised here

    def _copy_packs(self, lock: BackupLock) -> None:
        """Copy packs with a few threads; one that is damaged here, or comes back damaged, becomes a finding."""
        self._progress.start(len(self.packs), sum(pack.size for pack in self.packs), "copying packs")
        done = self._done
        under_way: deque[tuple[IndexedPack, Future[Finding | None]]] = deque()

        def settle(room: int, most: int) -> None:
            while under_way and (len(under_way) > most or sum(pack.size for pack, _ in under_way) > room):
                pack, future = under_way.popleft()
                finding = future.result()
                if finding is None:
                    done.append(pack)
                    self._progress.advance(1, pack.size)
                else:
                    self.findings.append(finding)
                    self._failed.add(pack.id)
                lock.refresh()

        with _workers() as pool:
            for pack in self.packs:
                settle(ROOM - pack.size, WORKERS - 1)
                under_way.append((pack, pool.submit(_copy_pack, self._source, self._target, pack.id)))
            settle(0, 0)
        self.packs = done

    def _write_index(self, loaded: LoadedIndex) -> None:
        """Give what was copied, and what an earlier copy left without it, a place in the target's index."""
        fresh = [*self.packs, *(loaded.index.packs[pack_id] for pack_id in loaded.unindexed)]
        if loaded.stale or len(loaded.objects) >= INDEX_LIVE:
            every = {**loaded.index.packs, **{pack.id: pack for pack in self.packs}}
            write_index(self._target, every.values(), (*loaded.objects, *loaded.damaged, *loaded.superseded))
        elif fresh or loaded.damaged:
            write_index(self._target, fresh, tuple(loaded.damaged))

    def _copy_snapshots(self, lock: BackupLock, condemned: dict[str, frozenset[PackId]]) -> None:
        """Commit the snapshots whose packs are all there, then look whether a prune took some of them away."""
        unhurt = not any(finding.code in _LOST for finding in self.findings)
        complete = unhurt and not self._withheld and not self._disturbed()
        lacks = _nothing if complete else self._lacking()

        def one(ref: SnapshotRef) -> Finding | bool:
            try:
                data = get_whole(self._source.store, self._source.config, ref.name, bytes.fromhex(ref.id))
                snap = snapshot_format.decode(ref.name, data)
                if lacks(snap):
                    raise IntegrityError("packs that it needs are damaged or missing here, or a prune is at work")
            except ObjectNotFound:
                return False  # forgotten since
            except (IntegrityError, StoreCorrupt) as error:
                return Finding("snapshot-left-out", ref.name, str(error), _HEAL)
            put_parity(self._target, self._source.config, bytes.fromhex(ref.id), data)
            put_hashed(self._target, ref.name, data)
            if self._target.get(ref.name) != data:
                raise StoreCorrupt(f"{self._target.url} does not give {ref.name} back as it was put")
            return True

        self._progress.start(len(self.snapshots), None, "copying snapshots")
        copied: list[SnapshotRef] = []
        at_once = WORKERS if complete else 1  # a repository is read by one thread
        with _workers() as pool:
            for begin in range(0, len(self.snapshots), at_once):
                if not lock.held():
                    raise _overtaken(copied, "the lock of the copy was taken away")
                lock.refresh()
                refs = self.snapshots[begin : begin + at_once]
                for ref, result in zip(refs, pool.map(one, refs), strict=True):
                    if isinstance(result, Finding):
                        self.findings.append(result)
                        self.left_out.append(ref.id)
                    elif result:
                        copied.append(ref)
                self._progress.advance(len(refs), 0)
        self.snapshots = copied
        self._look_again(condemned)

    def _lacking(self) -> Callable[[Snapshot], object]:
        """Return what tells whether a snapshot needs packs that did not come to the target."""
        whole = Repository.open(self._target)
        index = load_index(self._target, without=frozenset(self._failed)).index
        return lambda snap: missing_blobs(whole, snap, index)

    def _look_again(self, condemned: dict[str, frozenset[PackId]]) -> None:
        after = condemned_packs(self._target)
        gone = frozenset[PackId]().union(*(packs for name, packs in after.items() if packs != condemned.get(name)))
        if not gone & self._wanted:
            return
        index = load_index(self._target, without=gone).index
        whole = Repository.open(self._target)
        lost = [ref for ref in self.snapshots if missing_blobs(whole, whole.load(ref), index)]
        for ref in lost:
            with contextlib.suppress(ObjectNotFound):
                self._target.delete(ref.name)
        if lost:
            raise _overtaken(lost, "a prune there condemned packs that the snapshots need")


def _nothing(_snap: Snapshot) -> bool:
    return False


@contextlib.contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Lend threads; at the end, also in an error, what is under way is waited for, and what has not begun is left."""
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="drkit-copy")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_LOST = frozenset({"pack-missing", "pack-size", "pack-damaged", "copy-damaged"})


def _copy_pack(source: Repository, target: Store, pack_id: PackId) -> Finding | None:
    """Copy a pack and read it back; return what is wrong with it. Its parity is made anew from what was hashed."""
    name = pack_name(pack_id)
    try:
        data = get_whole(source.store, source.config, name, pack_id)
    except ObjectNotFound:
        return Finding("pack-missing", name, "the pack is missing", _HEAL)
    except StoreCorrupt as error:
        return Finding("pack-damaged", name, str(error), _HEAL)
    put_parity(target, source.config, pack_id, data)
    put_hashed(target, name, data)
    for again in (True, False):
        with contextlib.suppress(StoreCorrupt):
            if hashlib.sha256(target.get(name)).digest() == pack_id:
                return None
        if again:
            target.put(name, data, overwrite=True)
    message = f"{target.url} does not give it back as it was put"
    return Finding("copy-damaged", name, message, "check that store with 'drkit doctor --store URL'")


def _overtaken(refs: Iterable[SnapshotRef], why: str) -> StoreError:
    some = ", ".join(ref.id[:12] for ref in refs) or "no snapshot"
    return StoreError(f"{why} ({some})", hint="run the copy again: what it stored is reused")
