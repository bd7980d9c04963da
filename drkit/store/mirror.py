"""Several stores that hold the same, as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from drkit.errors import ObjectExists, ObjectNotFound, StoreCorrupt, StoreError, StoreUnavailable, UsageError
from drkit.store.base import ObjectInfo, Store
from drkit.store.checks import check_prefix

T = TypeVar("T")


class Mirror:
    """Puts into all of `stores`, and reads from the first that has what is asked for.

    The first one decides what is there already. A put is done when `need` stores have it, all of them by default;
    which store missed what is in `missed`. What one store lost, returned wrong or does not answer for comes from the
    next. A listing joins those of all stores that answer; it fails where fewer than `need` do.
    """

    def __init__(self, stores: Sequence[Store], *, need: int | None = None) -> None:
        if not stores or (need is not None and not 1 <= need <= len(stores)):
            raise UsageError("a mirror needs at least one store, and not more of them than there are")
        self.stores = tuple(stores)
        self.need = len(stores) if need is None else need
        self.missed: dict[str, list[str]] = {}
        """Names of objects that a store, by its URL, could not take."""

    @property
    def url(self) -> str:
        """That of the first store."""
        return self.stores[0].url

    @property
    def directory(self) -> bytes | None:
        """That of the first store."""
        return self.stores[0].directory

    def prepare(self) -> None:
        """Prepare all."""
        self._all("", lambda store: store.prepare())

    def clean_leftovers(self) -> int:
        """Clean all, and return how many leftovers there were."""
        return sum(store.clean_leftovers() for store in self.stores)

    def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
        """Put into all. ObjectExists if the first has it; the first error if fewer than `need` have it then."""
        decided = False

        def put(store: Store) -> None:
            nonlocal decided
            try:
                store.put(name, data, overwrite=overwrite)
            except ObjectExists:
                # Behind the first store's back only the same may be there: an earlier put that was cut off.
                if not decided or store.get(name) != memoryview(data).cast("B"):
                    raise
            decided = True

        self._all(name, put, fatal=lambda: ObjectExists if not decided else None)

    def get(self, name: str) -> bytes:
        """Return it from the first store that has it whole."""
        return self._any(lambda store: store.get(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return it from the first store that has it whole."""
        return self._any(lambda store: store.get_range(name, offset, length))

    def stat(self, name: str) -> ObjectInfo:
        """Return what the first store says that has it."""
        return self._any(lambda store: store.stat(name))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield what any store has, as the first that has it says."""
        check_prefix(prefix)
        return self._list(prefix, after)

    def delete(self, name: str) -> None:
        """Delete from all that have it. The first error if one refuses; ObjectNotFound if none has it."""
        errors: list[StoreError] = []
        missing = 0
        for store in self.stores:
            try:
                store.delete(name)
            except ObjectNotFound as error:
                missing += 1
                errors.append(error)
            except StoreError as error:
                errors.insert(0, error)
        if errors and (missing == len(self.stores) or not isinstance(errors[0], ObjectNotFound)):
            raise errors[0]

    def close(self) -> None:
        """Close all."""
        for store in self.stores:
            store.close()

    def _all(
        self,
        name: str,
        call: Callable[[Store], None],
        *,
        fatal: Callable[[], type[StoreError] | None] = lambda: None,
    ) -> None:
        errors: list[StoreError] = []
        for store in self.stores:
            try:
                call(store)
            except StoreError as error:
                kind = fatal()
                if kind is not None and isinstance(error, kind):
                    raise
                errors.append(error)
                self.missed.setdefault(store.url, []).append(name)
        if len(self.stores) - len(errors) < self.need:
            raise errors[0]

    def _any(self, call: Callable[[Store], T]) -> T:
        errors: list[StoreError] = []
        for store in self.stores:
            try:
                return call(store)
            except (ObjectNotFound, StoreCorrupt, StoreUnavailable) as error:
                errors.append(error)
        raise next((error for error in errors if not isinstance(error, ObjectNotFound)), errors[0])

    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        found: dict[str, ObjectInfo] = {}
        errors: list[StoreError] = []
        for store in self.stores:
            try:
                for info in store.list(prefix, after=after):
                    found.setdefault(info.name, info)
            except StoreError as error:
                errors.append(error)
        if len(self.stores) - len(errors) < self.need:
            raise errors[0]
        for name in sorted(found):
            yield found[name]
