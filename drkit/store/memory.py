"""A store in memory, for tests and trials: it lives as long as the process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from drkit.errors import EndsBefore, ObjectExists, ObjectNotFound
from drkit.store.base import ObjectInfo
from drkit.store.checks import check_name, check_prefix, check_range


class MemoryStore:
    """A dict as a store. `clock` gives the stamps, in seconds."""

    def __init__(self, name: str = "memory", *, clock: Callable[[], float] = time.time) -> None:
        self._name = name
        self._clock = clock
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """`memory:`, or whatever name was given."""
        return f"{self._name}:"

    @property
    def directory(self) -> None:
        """Nowhere in the file system."""
        return

    def prepare(self) -> None:
        """Nothing has to be made before the first put."""

    def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
        """Store a copy of `data`."""
        check_name(name)
        with self._lock:
            if name in self._objects and not overwrite:
                raise ObjectExists(f"{name} is already in {self.url}")
            self._objects[name] = (bytes(data), self._clock())

    def get(self, name: str) -> bytes:
        """Return the whole object."""
        return self._object(name)[0]

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return the bytes of [offset, offset+length). StoreCorrupt if the object ends before that."""
        check_range(offset, length)
        data = self._object(name)[0]
        if offset + length > len(data):
            message = f"{name} in {self.url} has {len(data)} bytes, not the {length} asked for at {offset}"
            raise EndsBefore(message, data=data[offset:])
        return data[offset : offset + length]

    def stat(self, name: str) -> ObjectInfo:
        """Return size and stamp."""
        data, modified = self._object(name)
        return ObjectInfo(name, len(data), modified)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield what is there at the time of the call, in order of names."""
        check_prefix(prefix)
        with self._lock:
            found = [
                ObjectInfo(name, len(data), modified)
                for name, (data, modified) in self._objects.items()
                if name.startswith(prefix) and name > after
            ]
        found.sort(key=lambda info: info.name)
        return iter(found)

    def delete(self, name: str) -> None:
        """Remove the object."""
        check_name(name)
        with self._lock:
            if self._objects.pop(name, None) is None:
                raise ObjectNotFound(f"{self.url} has no object {name}")

    def clean_leftovers(self) -> int:
        """Return 0: a put into memory leaves nothing behind."""
        return 0

    def close(self) -> None:
        """Keep everything: the objects live as long as the store."""

    def _object(self, name: str) -> tuple[bytes, float]:
        check_name(name)
        with self._lock:
            try:
                return self._objects[name]
            except KeyError:
                raise ObjectNotFound(f"{self.url} has no object {name}") from None
