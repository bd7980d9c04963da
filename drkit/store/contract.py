"""What a store can and what it breaks, found out by trying: for whoever is about to trust a bucket, and for tests.

Everything happens below one prefix of its own under `locks/`, which also append-only stores let go of again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from msgspec import Struct

from drkit.errors import ObjectExists, ObjectNotFound, StoreCorrupt, StoreError
from drkit.store.base import Store
from drkit.store.wrap import Wrapped

SLACK_S = 60.0
_SIZE = 100_000
_LISTED = 24
_WRITERS = 4
_ROUNDS = 3


class Ability(Struct, frozen=True):
    """One thing that drkit asks of stores: whether this one can it, and what follows, in plain words.

    `needed` says whether drkit must not be used without it; a store that only lacks the others is usable with care.
    """

    name: str
    ok: bool
    says: str
    needed: bool = True


class _Broken(Exception):
    """The store does not do what a check asks for; the message says what it does instead."""


class _Trial(Struct, frozen=True):
    store: Store
    prefix: str
    clock: Callable[[], float]

    def put(self, name: str, data: bytes, *, overwrite: bool = False) -> str:
        self.store.put(self.prefix + name, data, overwrite=overwrite)
        return self.prefix + name

    def names(self, after: str = "") -> list[str]:
        found = self.store.list(self.prefix, after=after and self.prefix + after)
        return [info.name.removeprefix(self.prefix) for info in found]


def examine(store: Store, *, clock: Callable[[], float]) -> Iterator[Ability]:
    """Try everything that drkit needs of a store, and yield what it can. `clock` gives seconds since the epoch.

    The store's own errors become abilities that it lacks; one that cannot be written to raises StoreError.
    """
    trial = _Trial(store, f"locks/doctor-{os.urandom(8).hex()}/", clock)
    try:
        trial.put("first", b"first")
        for check in _CHECKS:
            yield check(trial)
        yield _deletes(trial)
    finally:
        with suppress(StoreError):
            for info in list(store.list(trial.prefix)):
                with suppress(StoreError):
                    store.delete(info.name)


def _ability(
    name: str, good: str, *, needed: bool = True, bad: str = ""
) -> Callable[[Callable[[_Trial], None]], Callable[[_Trial], Ability]]:
    """Make a check that returns an ability of a function that raises what the store breaks."""

    def decorate(check: Callable[[_Trial], None]) -> Callable[[_Trial], Ability]:
        def run(trial: _Trial) -> Ability:
            try:
                check(trial)
            except (_Broken, StoreError) as error:
                return Ability(name, False, f"{error}{bad and '; '}{bad}", needed)
            return Ability(name, True, good, needed)

        return run

    return decorate


@_ability("read back", "objects come back as they were written, empty ones too")
def _reads(trial: _Trial) -> None:
    for name, size in (("empty", 0), ("small", 1), ("large", _SIZE)):
        data = os.urandom(size)
        full = trial.put(name, data)
        if trial.store.get(full) != data:
            raise _Broken(f"an object of {size} bytes does not come back as it was written")
        if trial.store.stat(full).size != size:
            raise _Broken(f"the store tells a wrong size of an object of {size} bytes")


@_ability("ranges", "parts of objects can be read, and never come short")
def _ranges(trial: _Trial) -> None:
    data = os.urandom(_SIZE)
    name = trial.put("ranges", data)
    for offset, length in ((0, 1), (0, _SIZE), (1000, 5000), (_SIZE - 1, 1), (_SIZE, 0)):
        if trial.store.get_range(name, offset, length) != data[offset : offset + length]:
            raise _Broken(f"{length} bytes at offset {offset} are not those that were written there")
    for offset, length in ((0, _SIZE + 1), (_SIZE - 1, 2), (_SIZE + 1, 1)):
        try:
            trial.store.get_range(name, offset, length)
        except StoreCorrupt:
            continue
        raise _Broken(f"the store gives {length} bytes at offset {offset} of an object that ends before")


@_ability("missing objects", "what is not there is told apart from what cannot be read")
def _missing(trial: _Trial) -> None:
    name = f"{trial.prefix}missing"
    calls: tuple[Callable[[], object], ...] = (
        lambda: trial.store.get(name),
        lambda: trial.store.get_range(name, 0, 1),
        lambda: trial.store.stat(name),
        lambda: trial.store.delete(name),
    )
    for call in calls:
        try:
            call()
        except ObjectNotFound:
            continue
        raise _Broken("the store does as if an object were there that is not")


@_ability("lists", "a new object is listed at once, in order and with its size, and a deleted one no more")
def _lists(trial: _Trial) -> None:
    wanted = sorted(f"list/{number % 5}{'-/'[number % 2]}{number:02}" for number in range(_LISTED))
    for count, name in enumerate(reversed(wanted), 1):
        trial.put(name, name.encode())
        found = [one for one in trial.names() if one.startswith("list/")]
        if found != wanted[-count:]:
            raise _Broken("a list does not show what was just written, each once and in order of names")
    if any(info.size != len(info.name) - len(trial.prefix) for info in trial.store.list(trial.prefix + "list/")):
        raise _Broken("a list tells wrong sizes")
    if trial.names(after=wanted[9]) != [name for name in trial.names() if name > wanted[9]]:
        raise _Broken("a list does not begin where it was asked to begin")
    for count, name in enumerate(wanted, 1):
        trial.store.delete(trial.prefix + name)
        if [one for one in trial.names() if one.startswith("list/")] != wanted[count:]:
            raise _Broken("a list shows what was deleted")


@_ability("replace", "a replaced object is the new one at once, for every reader")
def _replaces(trial: _Trial) -> None:
    for number in range(10):
        data = b"%d" % number * 1000
        name = trial.put("replaced", data, overwrite=True)
        if trial.store.get(name) != data or trial.store.stat(name).size != len(data):
            raise _Broken("after an object was replaced the store still gives the old one")


@_ability(
    "create",
    "an object that is there is never replaced unless that is asked for",
    needed=False,
    bad="let only one machine at a time write to it",
)
def _creates(trial: _Trial) -> None:
    name = trial.put("created", b"first")
    try:
        trial.put("created", b"other")
    except ObjectExists:
        if trial.store.get(name) == b"first":
            return
        raise _Broken("the store replaced an object although it said that it did not") from None
    raise _Broken("the store replaces objects that are there already")


@_ability(
    "conditional create",
    "of several writers of one name exactly one wins",
    needed=False,
    bad="let only one machine at a time write to it, and do not prune while another backs up",
)
def _races(trial: _Trial) -> None:
    if getattr(_innermost(trial.store), "keeps_precondition", None) is False:
        raise _Broken("the server ignores the condition that nothing may be there: drkit looks before it puts")
    for number in range(_ROUNDS):
        start = threading.Barrier(_WRITERS)

        def write(writer: int, name: str, start: threading.Barrier) -> bytes | None:
            data = b"writer %d" % writer
            start.wait(timeout=30)
            try:
                trial.put(name, data)
            except ObjectExists:
                return None
            return data

        with ThreadPoolExecutor(_WRITERS) as pool:
            tries = [pool.submit(write, writer, f"race{number}", start) for writer in range(_WRITERS)]
        won = [data for one in tries if (data := one.result()) is not None]
        if len(won) != 1 or trial.store.get(f"{trial.prefix}race{number}") != won[0]:
            raise _Broken(f"{len(won)} of {_WRITERS} writers of one name were told that theirs is stored")


def _innermost(store: Store) -> Store:
    while isinstance(store, Wrapped):
        store = store.inner
    return store


@_ability("clock", "its stamps agree with this machine's clock and do not run backwards", needed=False)
def _stamps(trial: _Trial) -> None:
    before = trial.clock()
    first = trial.store.stat(trial.put("stamp1", b""))
    second = trial.store.stat(trial.put("stamp2", b""))
    after = trial.clock()
    if second.modified < first.modified:
        raise _Broken("a later object has an earlier stamp")
    off = max(first.modified - after, before - first.modified)
    if off > SLACK_S:
        side = "behind" if first.modified > after else "ahead of"
        raise _Broken(f"this machine's clock is {int(off)} s {side} the store's")


@_ability(
    "native ranges", "a part is read without the rest", needed=False, bad="a restore of one plugin reads much more"
)
def _native(trial: _Trial) -> None:
    if getattr(_innermost(trial.store), "ignores_ranges", False):
        raise _Broken("the server answers a part with the whole object: drkit cuts it out itself")


@_ability("delete", "what is deleted is gone", bad="locks that stay there hold up every backup")
def _deletes(trial: _Trial) -> None:
    for info in list(trial.store.list(trial.prefix)):
        trial.store.delete(info.name)
        try:
            trial.store.stat(info.name)
        except ObjectNotFound:
            continue
        raise _Broken("an object is there after it was deleted")


_CHECKS = (_reads, _ranges, _missing, _lists, _replaces, _creates, _races, _stamps, _native)
