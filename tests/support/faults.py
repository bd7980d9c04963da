"""A store that fails on order: what a test plans happens, and what was planned must have happened.

    with FaultyStore(MemoryStore()) as store:
        store.fail("put", prefix="packs/", after=3, error=NoSpace("full"))
        ...

Leaving the block raises AssertionError if a planned fault was never met, so a test cannot pass by accident.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from drkit.store.base import ObjectInfo, Store

CHANGES = ("put", "delete")
"""The verbs that change a store."""
READS = ("get", "get_range")
"""The verbs that return bytes."""
VERBS = (*CHANGES, *READS, "stat", "list")


@dataclass
class Fault:
    """Calls of `verbs` below `prefix`: the first `after` pass, the next `times` are met (None: all that follow)."""

    verbs: frozenset[str]
    prefix: str
    after: int
    times: int | None
    before: Callable[[], object] | None = None
    behind: Callable[[], object] | None = None
    change: Callable[[bytes], bytes] | None = None
    seen: int = 0
    hits: int = 0

    def meets(self, verb: str, name: str) -> bool:
        """Count a call, and say whether the fault strikes it."""
        if verb not in self.verbs or not name.startswith(self.prefix):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True

    @property
    def was_hit(self) -> bool:
        """Whether it struck as often as planned; without a number, at least once."""
        return self.hits >= 1 if self.times is None else self.hits == self.times


class FaultyStore:
    """A Store around `inner` with planned faults; `calls` counts the calls of each verb, failed ones too."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def fail(
        self,
        verbs: str | Iterable[str],
        *,
        error: BaseException,
        prefix: str = "",
        after: int = 0,
        times: int | None = 1,
        done: bool = False,
    ) -> None:
        """Raise `error`, instead of the call, or with `done` after the call did its work (a lost answer)."""

        def strike() -> None:
            raise error

        self.act(verbs, strike, prefix=prefix, after=after, times=times, done=done)

    def act(
        self,
        verbs: str | Iterable[str],
        action: Callable[[], object],
        *,
        prefix: str = "",
        after: int = 0,
        times: int | None = 1,
        done: bool = False,
    ) -> None:
        """Call `action` before the call, or after it with `done`: end the process, delete something, wait."""
        fault = Fault(_verbs(verbs), prefix, after, times)
        if done:
            fault.behind = action
        else:
            fault.before = action
        self._plan(fault)

    def corrupt(
        self,
        verbs: str | Iterable[str] = READS,
        *,
        prefix: str = "",
        after: int = 0,
        times: int | None = 1,
        at: int = 0,
        bit: int = 0,
    ) -> None:
        """Flip a bit of byte `at` (from the end if negative) in what is returned. It must not be empty."""

        def flip(data: bytes) -> bytes:
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            return bytes(changed)

        self._plan(Fault(_verbs(verbs), prefix, after, times, change=flip))

    def lie_short(
        self,
        verbs: str | Iterable[str] = READS,
        *,
        prefix: str = "",
        after: int = 0,
        times: int | None = 1,
        by: int = 1,
    ) -> None:
        """Return `by` bytes less than there are, without an error. There must be so many."""

        def cut(data: bytes) -> bytes:
            assert len(data) >= by, f"{len(data)} bytes cannot be shortened by {by}"
            return data[: len(data) - by]

        self._plan(Fault(_verbs(verbs), prefix, after, times, change=cut))

    def assert_all_hit(self) -> None:
        """AssertionError, naming them, if planned faults were not met as often as planned."""
        missed = [fault for fault in self._faults if not fault.was_hit]
        assert not missed, f"planned faults were not met: {missed}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.assert_all_hit()

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def directory(self) -> bytes | None:
        return self.inner.directory

    def prepare(self) -> None:
        self.inner.prepare()

    def clean_leftovers(self) -> int:
        return self.inner.clean_leftovers()

    def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
        struck = self._strike("put", name)
        self.inner.put(name, data, overwrite=overwrite)
        _finish(struck)

    def get(self, name: str) -> bytes:
        struck = self._strike("get", name)
        return _finish(struck, self.inner.get(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        struck = self._strike("get_range", name)
        return _finish(struck, self.inner.get_range(name, offset, length))

    def stat(self, name: str) -> ObjectInfo:
        struck = self._strike("stat", name)
        info = self.inner.stat(name)
        _finish(struck)
        return info

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        struck = self._strike("list", prefix)
        found = self.inner.list(prefix, after=after)
        _finish(struck)
        return found

    def delete(self, name: str) -> None:
        struck = self._strike("delete", name)
        self.inner.delete(name)
        _finish(struck)

    def close(self) -> None:
        self.inner.close()

    def _plan(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def _strike(self, verb: str, name: str) -> tuple[Fault, ...]:
        with self._lock:
            self.calls[verb] += 1
            struck = tuple(fault for fault in self._faults if fault.meets(verb, name))
        for fault in struck:
            if fault.before:
                fault.before()
        return struck


def _finish(struck: tuple[Fault, ...], data: bytes = b"") -> bytes:
    for fault in struck:
        if fault.change:
            data = fault.change(data)
        if fault.behind:
            fault.behind()
    return data


def _verbs(verbs: str | Iterable[str]) -> frozenset[str]:
    chosen = frozenset([verbs] if isinstance(verbs, str) else verbs)
    unknown = chosen.difference(VERBS)
    assert chosen, "no verb"
    assert not unknown, f"a store has no {sorted(unknown)}"
    return chosen
