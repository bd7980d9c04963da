"""Setting bad objects aside: they are copied to `quarantine/`, and only then replaced or taken away."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from drkit.errors import ObjectExists, ObjectNotFound
from drkit.seal import beneath
from drkit.store.base import Store
from drkit.store.salvage import read_anyway


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
        """Set an object aside, and leave it where it is; one of an encrypted repository as it is stored."""
        store, stored = beneath(self._store, name)
        place = f"{self._folder}/{stored}"
        if place in self.names:
            return
        try:
            bad = read_anyway(store, stored)
        except ObjectNotFound:
            return
        with suppress(ObjectExists):  # a second repair within a second
            store.put(place, bad)
        self.names.append(place)
