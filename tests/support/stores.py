"""A store of each kind, by name: those that servers serve, and each wrapper around memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from drkit.seal.cipher import KeyRing
from drkit.seal.store import SealedStore
from drkit.store import MemoryStore, ObjectInfo, Store, open_store
from drkit.store.cache import CachedStore
from drkit.store.mirror import Mirror
from drkit.store.wrap import AppendOnly, Retrying, Throttled, Wrapped
from tests.support.servers import KINDS, Servers


class Below(Wrapped):
    """A folder of a store as a store."""

    def __init__(self, inner: Store, folder: str) -> None:
        super().__init__(inner)
        self._folder = folder

    def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
        self.inner.put(self._folder + name, data, overwrite=overwrite)

    def get(self, name: str) -> bytes:
        return self.inner.get(self._folder + name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self.inner.get_range(self._folder + name, offset, length)

    def stat(self, name: str) -> ObjectInfo:
        return self._own(self.inner.stat(self._folder + name))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        return map(self._own, self.inner.list(self._folder + prefix, after=self._folder + after))

    def delete(self, name: str) -> None:
        self.inner.delete(self._folder + name)

    def _own(self, info: ObjectInfo) -> ObjectInfo:
        return ObjectInfo(info.name.removeprefix(self._folder), info.size, info.modified)


def sealed(inner: Store) -> SealedStore:
    """Return a store around `inner` with new keys."""
    return SealedStore(inner, KeyRing(os.urandom(64), {1: os.urandom(32)}, 1), "5ea1" * 8)


def _cached(path: Path) -> Store:
    return CachedStore(MemoryStore(), os.fsencode(path))


WRAPPED: dict[str, Callable[[Path], Store]] = {
    "retrying": lambda _: Retrying(MemoryStore()),
    "throttled": lambda _: Throttled(MemoryStore(), 1e9, sleep=lambda _: None),
    "append-only": lambda _: Below(AppendOnly(MemoryStore()), "locks/"),  # elsewhere it refuses what stores must allow
    "mirror": lambda _: Mirror([MemoryStore(), MemoryStore()]),
    "cached": _cached,
    "sealed": lambda _: sealed(MemoryStore()),
    "sealed-cached": lambda path: sealed(_cached(path)),
}
SERVED = KINDS


def new_store(kind: str, path: Path, servers: Callable[[], Servers]) -> Store:
    """Return a new empty store; `path` is for what it keeps on disk, `servers` is called if it needs one."""
    return open_store(servers().url(kind)) if kind in SERVED else WRAPPED[kind](path)
