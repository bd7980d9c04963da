"""Stores around a store: each adds one behaviour, and passes on everything else."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from drkit.errors import ObjectExists, ObjectNotFound, StoreError, StoreUnavailable, UsageError
from drkit.store.base import ObjectInfo, Store
from drkit.store.checks import check_prefix

T = TypeVar("T")
Data = bytes | bytearray | memoryview

LOCKS = "locks/"
"""The only names that an append-only store replaces and deletes."""

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1024, "MI": 1024**2, "GI": 1024**3}
_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*([KMG]?i?)B?/s", re.ASCII | re.IGNORECASE)


class Wrapped:
    """A store that passes everything on to `inner`."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    @property
    def url(self) -> str:
        """That of the inner store."""
        return self.inner.url

    @property
    def directory(self) -> bytes | None:
        """That of the inner store."""
        return self.inner.directory

    def prepare(self) -> None:
        """Prepare the inner store."""
        self.inner.prepare()

    def clean_leftovers(self) -> int:
        """Clean the inner store."""
        return self.inner.clean_leftovers()

    def put(self, name: str, data: Data, *, overwrite: bool = False) -> None:
        """Put into the inner store."""
        self.inner.put(name, data, overwrite=overwrite)

    def get(self, name: str) -> bytes:
        """Get from the inner store."""
        return self.inner.get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Get from the inner store."""
        return self.inner.get_range(name, offset, length)

    def stat(self, name: str) -> ObjectInfo:
        """Ask the inner store."""
        return self.inner.stat(name)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """List the inner store."""
        return self.inner.list(prefix, after=after)

    def delete(self, name: str) -> None:
        """Delete from the inner store."""
        self.inner.delete(name)

    def close(self) -> None:
        """Close the inner store."""
        self.inner.close()


class Retrying(Wrapped):
    """Asks again, up to `attempts` times in all, when the inner store raises StoreUnavailable; nothing else is retried.

    The pauses double from `pause` seconds, at most `longest`, each shortened at random by up to a half. What a try of
    unknown outcome may have done is taken into account: an object that is there with our own bytes was put by us, and
    one that is gone was deleted by us.
    """

    def __init__(
        self,
        inner: Store,
        *,
        attempts: int = 6,
        pause: float = 0.2,
        longest: float = 10.0,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(inner)
        self._attempts = attempts
        self._pause = pause
        self._longest = longest
        self._sleep = sleep
        self._jitter = jitter

    def put(self, name: str, data: Data, *, overwrite: bool = False) -> None:
        """Put, until it is done or known to be impossible."""

        def attempt(again: bool) -> None:
            try:
                self.inner.put(name, data, overwrite=overwrite)
            except ObjectExists:
                if not again or self.inner.get(name) != memoryview(data).cast("B"):
                    raise

        self._retry(attempt)

    def get(self, name: str) -> bytes:
        """Get, from the beginning each time."""
        return self._retry(lambda _: self.inner.get(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Get, from the beginning each time."""
        return self._retry(lambda _: self.inner.get_range(name, offset, length))

    def stat(self, name: str) -> ObjectInfo:
        """Ask, until there is an answer."""
        return self._retry(lambda _: self.inner.stat(name))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """List, going on after the last name that came."""
        check_prefix(prefix)
        return self._list(prefix, after)

    def delete(self, name: str) -> None:
        """Delete, until it is gone."""

        def attempt(again: bool) -> None:
            try:
                self.inner.delete(name)
            except ObjectNotFound:
                if not again:
                    raise

        self._retry(attempt)

    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        failures = 0
        while True:
            try:
                for info in self.inner.list(prefix, after=after):
                    after = info.name
                    failures = 0
                    yield info
                return
            except StoreUnavailable:
                failures += 1
                if failures >= self._attempts:
                    raise
            self._wait(failures)

    def _retry(self, attempt: Callable[[bool], T]) -> T:
        """Call `attempt(again)`; `again` tells that a try before may have been carried out."""
        for failures in range(1, self._attempts):
            try:
                return attempt(failures > 1)
            except StoreUnavailable:
                self._wait(failures)
        return attempt(self._attempts > 1)

    def _wait(self, failures: int) -> None:
        self._sleep(min(self._pause * 2 ** (failures - 1), self._longest) * (1 - self._jitter() / 2))


class Throttled(Wrapped):
    """Moves at most `rate` bytes a second in both directions together, on average over transfers and threads.

    An object is moved at full speed; what it took of the rate, the next one waits for.
    """

    def __init__(
        self,
        inner: Store,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(inner)
        if rate <= 0:
            raise UsageError("a limit of bandwidth must be more than nothing")
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._free = clock()
        self._lock = threading.Lock()

    def put(self, name: str, data: Data, *, overwrite: bool = False) -> None:
        """Put when it is its turn."""
        self._wait()
        self.inner.put(name, data, overwrite=overwrite)
        self._moved(memoryview(data).nbytes)

    def get(self, name: str) -> bytes:
        """Get when it is its turn."""
        self._wait()
        data = self.inner.get(name)
        self._moved(len(data))
        return data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Get when it is its turn."""
        self._wait()
        data = self.inner.get_range(name, offset, length)
        self._moved(len(data))
        return data

    def _wait(self) -> None:
        with self._lock:
            pause = self._free - self._clock()
        if pause > 0:
            self._sleep(pause)

    def _moved(self, size: int) -> None:
        with self._lock:
            self._free = max(self._free, self._clock()) + size / self._rate


class ReadOnly(Wrapped):
    """Refuses to change anything."""

    def prepare(self) -> None:
        """Refuse: whoever prepares is about to write."""
        raise self._refused("prepared")

    def clean_leftovers(self) -> int:
        """Return 0: what is left stays."""
        return 0

    def put(self, name: str, data: Data, *, overwrite: bool = False) -> None:  # noqa: ARG002
        """Refuse."""
        raise self._refused("written to")

    def delete(self, name: str) -> None:  # noqa: ARG002
        """Refuse."""
        raise self._refused("deleted from")

    def _refused(self, what: str) -> StoreError:
        return StoreError(f"{self.url} is opened read-only and cannot be {what}", hint="take read-only out of its URL")


class AppendOnly(Wrapped):
    """Puts what is not there yet and nothing else; replaces and deletes under `locks/` only.

    To replace an object with its own bytes is no change, and allowed.
    """

    def put(self, name: str, data: Data, *, overwrite: bool = False) -> None:
        """Put if there is nothing of this name. StoreError if something else would be replaced."""
        if not overwrite or name.startswith(LOCKS):
            self.inner.put(name, data, overwrite=overwrite)
            return
        try:
            self.inner.put(name, data)
        except ObjectExists as error:
            if self.inner.get(name) != memoryview(data).cast("B"):
                raise self._refused(name, "replaced") from error

    def delete(self, name: str) -> None:
        """Delete a lock. StoreError for anything else."""
        if not name.startswith(LOCKS):
            raise self._refused(name, "deleted")
        self.inner.delete(name)

    def _refused(self, name: str, what: str) -> StoreError:
        return StoreError(
            f"{name} in {self.url} cannot be {what}: the store is append-only",
            hint="take append-only out of its URL, or append_only out of drkit.toml; credentials must allow it, too",
        )


def with_options(store: Store, options: Mapping[str, str]) -> Store:
    """Return a store with what the options of its URL ask for: `limit`, `append-only`, `read-only`."""
    if limit := options.get("limit"):
        store = Throttled(store, parse_rate(limit))
    for name, wrapper in (("append-only", AppendOnly), ("read-only", ReadOnly)):
        if name in options:
            if options[name] not in {"", "0", "1"}:
                raise UsageError(f"{name} is 1 or 0, not {options[name]!r}")
            store = wrapper(store) if options[name] != "0" else store
    return store


def parse_rate(text: str) -> float:
    """Return the bytes a second that `4MiB/s`, `500kB/s` or `2M/s` mean. UsageError if it means nothing."""
    match = _RATE.fullmatch(text)
    if not match or not float(match[1]):
        raise UsageError(f"{text!r} is no bandwidth", hint="write it like 4MiB/s or 500kB/s")
    return float(match[1]) * _UNITS[match[2].upper()]
