"""Setting bad objects aside: they are copied to `quarantine/`, and only then replaced or taken away."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from drkit.errors import ObjectExists, ObjectNotFound, StoreCorrupt
from drkit.store.base import Store

_PIECE = 1 << 16


class Quarantine:
    """`quarantine/<time of the repair>/<name>` in the same store. Nothing reads it, and nothing deletes it."""

    def __init__(self, store: Store, now: datetime) -> None:
        self.names: list[str] = []
        self._store = store
        self._folder = f"quarantine/{now:%Y%m%dT%H%M%SZ}"

    def replace(self, name: str, data: bytes) -> None:
        """Set an object aside, if it is there, and put good bytes in its place.

        StoreError if the store refuses: then it is where it was.
        """
        self.keep(name)
        self._store.put(name, data, overwrite=True)

    def remove(self, name: str) -> None:
        """Set an object aside and take it away."""
        self.keep(name)
        with suppress(ObjectNotFound):
            self._store.delete(name)

    def keep(self, name: str) -> None:
        """Set an object aside, and leave it where it is."""
        place = f"{self._folder}/{name}"
        if place in self.names:
            return
        try:
            bad = read_anyway(self._store, name)
        except ObjectNotFound:
            return
        with suppress(ObjectExists):  # a second repair within a second
            self._store.put(place, bad)
        self.names.append(place)


def read_anyway(store: Store, name: str) -> bytes:
    """Return what can be read of an object, with zeros for what cannot. ObjectNotFound if it is not there."""
    with suppress(StoreCorrupt):
        return store.get(name)
    try:
        size = store.stat(name).size
    except StoreCorrupt:
        return b""  # not even a file
    pieces = []
    for at in range(0, size, _PIECE):
        length = min(_PIECE, size - at)
        try:
            pieces.append(store.get_range(name, at, length))
        except StoreCorrupt:
            pieces.append(bytes(length))
    return b"".join(pieces)
