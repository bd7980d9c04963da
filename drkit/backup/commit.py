"""The end of a backup: index objects for new packs, the snapshot, and a look at what a prune did meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from drkit.errors import IntegrityError, ObjectNotFound, StoreError
from drkit.format import snapshot as snapshot_format
from drkit.format.limits import INDEX_LIVE
from drkit.model import PackId
from drkit.repo import Repository
from drkit.repo.index import LoadedIndex, load_index, write_index
from drkit.repo.lock import BackupLock, condemned_packs
from drkit.repo.packer import Packer
from drkit.repo.reach import missing_blobs
from drkit.store.base import Store


class IndexWriter:
    """Gives every new pack a place in an index object. `load` is the index as the backup found it."""

    def __init__(self, store: Store, load: Callable[[], LoadedIndex]) -> None:
        self.bytes_added = 0
        self._store = store
        self._load = load
        self._indexed = 0

    def waiting(self, packer: Packer) -> int:
        """Return how many durable packs no index object names yet."""
        return len(packer.new_packs) - self._indexed

    def write(self, packer: Packer) -> None:
        """Store an index object for the packs that have none; merge the live ones if they have become many.

        Packs that the backup found without one are included. Damaged index objects are superseded: the packs that
        they named count as those that have none. All are, where some name packs that are gone: their blobs have been
        stored again, or no source has them.
        """
        loaded = self._load()
        packs = packer.new_packs[self._indexed :]
        self._indexed = len(packer.new_packs)
        packs += [loaded.index.packs[pack_id] for pack_id in loaded.unindexed]
        damaged, stale = tuple(loaded.damaged), loaded.stale
        loaded.unindexed, loaded.damaged, loaded.stale = [], [], False
        if not (packs or damaged or stale):
            return
        live = tuple(loaded.objects)
        if stale or len(live) >= INDEX_LIVE:
            # Nobody reads any more what the live ones superseded: it must not come back to life.
            old = (*live, *damaged, *loaded.superseded)
            loaded.objects, size = write_index(self._store, loaded.index.packs.values(), old)
            loaded.superseded = [*old]
        else:
            written, size = write_index(self._store, packs, damaged)
            loaded.objects += written
        self.bytes_added += size


def commit(repo: Repository, lock: BackupLock, name: str, data: bytes, condemned: dict[str, frozenset[PackId]]) -> None:
    """Put the snapshot, then look whether a prune has meanwhile condemned what it stands on.

    `condemned` is what the prune records said when the backup began. Both sides write first and read second, so one
    of them sees the other. StoreError if the snapshot could not be kept.
    """
    _check_lock(lock)
    try:
        repo.store.put(name, data)
        after = condemned_packs(repo.store)
        _check_lock(lock)
        if after != condemned and not _is_whole(repo, name, data, frozenset().union(*after.values())):
            raise _overtaken("a prune condemned packs that the snapshot needs")
    except BaseException:
        with contextlib.suppress(ObjectNotFound):
            repo.store.delete(name)
        raise


def _check_lock(lock: BackupLock) -> None:
    if not lock.held():
        raise _overtaken("the backup's lock was taken away")


def _is_whole(repo: Repository, name: str, data: bytes, condemned: frozenset[PackId]) -> bool:
    index = load_index(repo.store, without=condemned).index
    try:
        return not missing_blobs(repo, snapshot_format.decode(name, data), index)
    except IntegrityError:
        return False  # packs are deleted already


def _overtaken(why: str) -> StoreError:
    return StoreError(f"{why}; the snapshot was not kept", hint="run the backup again: what it stored is reused")
