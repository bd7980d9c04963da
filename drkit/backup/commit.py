"""The end of a backup: index objects for new packs, the snapshot, and a look at what a prune did meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable

from drkit.errors import IntegrityError, ObjectNotFound, StoreError
from drkit.format import snapshot as snapshot_format
from drkit.format.limits import INDEX_LIVE
from drkit.model import Kind, PackId
from drkit.repo import Repository
from drkit.repo.index import Index, LoadedIndex, load_index, write_index
from drkit.repo.lock import BackupLock, condemned_packs
from drkit.repo.packer import Packer
from drkit.repo.parity import put_parity
from drkit.repo.reach import missing_blobs, node_hints
from drkit.store.base import Store
from drkit.store.parallel import soon

_TAKEN = "the backup's lock was taken away"
_TIMES = 5
"""So many prunes that begin at this moment are kept up with."""


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
    of them sees the other; and a prune deletes nothing while a backup that began before its record holds its lock. So
    what it has condemned can still be read, and is stored again. StoreError if the snapshot could not be kept.
    """
    if not lock.held(lately=True):
        raise _overtaken(_TAKEN)
    put_parity(repo.store, repo.config, hashlib.sha256(data).digest(), data)
    try:
        repo.store.put(name, data)
        seen = condemned
        for _ in range(_TIMES):
            held = soon(repo.store, lock.held)
            after = condemned_packs(repo.store)
            if not held():
                raise _overtaken(_TAKEN)
            if after == seen or _is_whole(repo, name, data, frozenset().union(*after.values())):
                return
            seen = after
        raise _overtaken("prunes condemn packs as fast as they are stored")
    except BaseException:
        with contextlib.suppress(ObjectNotFound):
            repo.store.delete(name)
        raise


def _is_whole(repo: Repository, name: str, data: bytes, condemned: frozenset[PackId]) -> bool:
    """Whether the snapshot needs nothing that is condemned; if it does, that is stored again."""
    index = load_index(repo.store, without=condemned).index
    try:
        missing = missing_blobs(repo, snapshot_format.decode(name, data), index)
        if missing:
            _store_again(repo, missing, index, condemned)
    except IntegrityError as error:
        raise _overtaken("a prune condemned packs that the snapshot needs, and has deleted some") from error
    return not missing


def _store_again(repo: Repository, missing: dict[str, Kind], index: Index, condemned: frozenset[PackId]) -> None:
    reader = repo.reader()
    with Packer(repo.store, lambda: index, repo.config, level=None, condemned=condemned) as packer:
        for blob, kind in missing.items():
            plain = reader.blob(blob, None)
            if kind == Kind.DATA:
                packer.add_next(bytes.fromhex(blob), plain)
            else:
                packer.add_node(kind, bytes.fromhex(blob), plain, node_hints(kind, plain, index))
        packer.finish()
        write_index(repo.store, packer.new_packs)


def _overtaken(why: str) -> StoreError:
    return StoreError(f"{why}; the snapshot was not kept", hint="run the backup again: what it stored is reused")
