"""The wrappers of stores, each by what it promises; and a store that lies, which nothing must believe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drkit.errors import NoSpace, ObjectExists, ObjectNotFound, StoreCorrupt, StoreError, StoreUnavailable, UsageError
from drkit.repo import Repository
from drkit.store import MemoryStore, ObjectInfo, contract
from drkit.store.mirror import Mirror
from drkit.store.parallel import in_parallel
from drkit.store.wrap import AppendOnly, ReadOnly, Retrying, Throttled, Wrapped, parse_rate
from tests.support.faults import FaultyStore
from tests.support.repos import Bench, contents

GONE = StoreUnavailable("the line is dead")


# Retry


def test_retries_are_bounded_and_pause_longer_each_time() -> None:
    pauses: list[float] = []
    with FaultyStore(MemoryStore()) as faulty:
        store = Retrying(faulty, attempts=5, pause=1.0, longest=3.0, sleep=pauses.append, jitter=lambda: 0.5)
        faulty.fail("get", error=GONE, times=5)
        with pytest.raises(StoreUnavailable):
            store.get("a")
        assert faulty.calls["get"] == 5
    assert pauses == [0.75, 1.5, 2.25, 2.25]


@pytest.mark.parametrize("error", [StoreError("denied"), NoSpace("full"), StoreCorrupt("short"), ObjectExists("there")])
def test_what_will_not_change_is_not_retried(error: StoreError) -> None:
    with FaultyStore(MemoryStore()) as faulty:
        faulty.fail("put", error=error)
        with pytest.raises(type(error)):
            Retrying(faulty, sleep=lambda _: None).put("a", b"x")
        assert faulty.calls["put"] == 1


def test_a_lost_answer_is_not_taken_for_somebody_elses_work() -> None:
    with FaultyStore(MemoryStore()) as faulty:
        store = Retrying(faulty, sleep=lambda _: None)
        faulty.fail("put", error=GONE, done=True)
        store.put("a", b"mine")
        faulty.fail("delete", error=GONE, done=True)
        store.delete("a")
        with pytest.raises(ObjectNotFound):
            store.delete("a")
        faulty.inner.put("a", b"somebody else's")
        faulty.fail("put", error=GONE)
        with pytest.raises(ObjectExists):
            store.put("a", b"mine")
        assert store.get("a") == b"somebody else's"


def test_a_list_goes_on_where_it_was_cut_off() -> None:
    class Cut(MemoryStore):
        cuts = 3

        def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
            for count, info in enumerate(super().list(prefix, after=after)):
                if count == 2 and self.cuts:
                    self.cuts -= 1
                    raise GONE
                yield info

    inner = Cut()
    for number in range(9):
        inner.put(str(number), b"")
    store = Retrying(inner, attempts=2, sleep=lambda _: None)
    assert [info.name for info in store.list("")] == [str(number) for number in range(9)]
    assert inner.cuts == 0


# Throttle


def test_throughput_stays_below_the_limit() -> None:
    now = [100.0]
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    store = Throttled(MemoryStore(), 1000, clock=lambda: now[0], sleep=sleep)
    store.put("a", bytes(2000))
    assert waited == []
    store.put("b", bytes(500))
    store.get("a")
    store.get_range("a", 0, 100)
    assert waited == [2.0, 0.5, 2.0]
    now[0] += 60  # what was not used is not saved up
    store.put("c", bytes(3000))
    store.put("d", b"")
    assert waited == [2.0, 0.5, 2.0, 3.0]


@pytest.mark.parametrize(
    ("text", "rate"), [("4MiB/s", 4 * 2**20), ("500kB/s", 500e3), ("2M/s", 2e6), ("1.5 GiB/s", 1.5 * 2**30), ("9/s", 9)]
)
def test_rates(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "4", "0/s", "-1/s", "4MiB", "fast", "4MiB/min"])
def test_no_rates(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rate(text)


# What may be changed


def test_read_only_changes_nothing() -> None:
    inner = MemoryStore()
    inner.put("a", b"x")
    store = ReadOnly(inner)
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.put("b", b""),
        lambda: store.put("a", b"", overwrite=True),
        lambda: store.delete("a"),
        store.prepare,
    )
    for call in calls:
        with pytest.raises(StoreError, match="read-only"):
            call()
    assert (store.clean_leftovers(), store.get("a"), [info.name for info in store.list("")]) == (0, b"x", ["a"])


def test_append_only_keeps_what_is_there() -> None:
    store = AppendOnly(MemoryStore())
    store.put("packs/a", b"x", overwrite=True)
    store.put("packs/a", b"x", overwrite=True)  # the same again is no change
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.put("packs/a", b"y", overwrite=True),
        lambda: store.delete("packs/a"),
    )
    for call in calls:
        with pytest.raises(StoreError, match="append-only"):
            call()
    assert store.get("packs/a") == b"x"
    store.put("locks/a", b"1")
    store.put("locks/a", b"2", overwrite=True)
    store.delete("locks/a")


def test_a_whole_backup_works_append_only(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AppendOnly(MemoryStore()))
    bench.plugin("plugins/p", 5)
    bench.back_up()
    bench.write("plugins/p/new", b"new")
    bench.back_up()
    assert contents(Repository.open(bench.store)) == bench.files()


# Mirror


def test_a_mirror_reads_what_one_of_its_stores_still_has() -> None:
    first, second = MemoryStore("first"), MemoryStore("second")
    with FaultyStore(first) as faulty:
        mirror = Mirror([faulty, second])
        for name in ("a", "b"):
            mirror.put(name, name.encode())
        first.delete("a")
        faulty.fail("get", error=StoreCorrupt("short"), prefix="b")
        assert (mirror.get("a"), mirror.get("b")) == (b"a", b"b")
        assert [info.name for info in mirror.list("")] == ["a", "b"]
        mirror.delete("a")
        with pytest.raises(ObjectNotFound):
            mirror.get("a")


def test_a_mirror_puts_into_as_many_as_it_needs() -> None:
    for need, fails in ((1, False), (2, True)):
        with FaultyStore(MemoryStore("second")) as faulty:
            first = MemoryStore("first")
            mirror = Mirror([first, faulty], need=need)
            faulty.fail("put", error=NoSpace("full"))
            if fails:
                with pytest.raises(NoSpace):
                    mirror.put("a", b"x")
            else:
                mirror.put("a", b"x")
            assert mirror.missed == {"second:": ["a"]}
            assert first.get("a") == b"x"


def test_a_denied_delete_in_a_mirror_is_an_error() -> None:
    with FaultyStore(MemoryStore("second")) as faulty:
        mirror = Mirror([MemoryStore("first"), faulty])
        mirror.put("a", b"x")
        faulty.fail("delete", error=StoreError("denied"))
        with pytest.raises(StoreError, match="denied"):
            mirror.delete("a")


# A store that lies


class Liar(Wrapped):
    """A store that does one thing wrong: `lie` names it."""

    def __init__(self, lie: str) -> None:
        super().__init__(MemoryStore())
        self.lie = lie
        self.hidden: list[str] = []

    def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
        if self.lie == "half" and len(data) > 10:
            data = bytes(data)[: len(data) // 2]
        if self.lie == "overwrites":
            overwrite = True
        super().put(name, data, overwrite=overwrite)
        self.hidden = [*self.hidden[-2:], name]

    def get(self, name: str) -> bytes:
        data = super().get(name)
        return data[:-1] if self.lie == "short" else data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        if self.lie == "clamps":
            return super().get(name)[offset : offset + length]
        return super().get_range(name, offset, length)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        found = [info for info in super().list(prefix, after=after) if self.lie != "eventual" or not self._new(info)]
        if self.lie == "twice":
            found = [info for info in found for _ in range(2)]
        return iter(found[::-1] if self.lie == "unordered" else found)

    def delete(self, name: str) -> None:
        if self.lie != "keeps":
            super().delete(name)

    def _new(self, info: ObjectInfo) -> bool:
        return info.name in self.hidden


@pytest.mark.parametrize(
    ("lie", "lacks"),
    [
        ("half", "read back"),
        ("short", "read back"),
        ("clamps", "ranges"),
        ("eventual", "lists"),
        ("twice", "lists"),
        ("unordered", "lists"),
        ("overwrites", "create"),
        ("keeps", "delete"),
    ],
)
def test_the_contract_finds_each_lie(lie: str, lacks: str) -> None:
    abilities = {ability.name: ability for ability in contract.examine(Liar(lie), clock=time.time)}
    assert not abilities[lacks].ok
    assert all(ability.ok for ability in contract.examine(Liar("none"), clock=time.time))


def test_the_contract_leaves_nothing_behind() -> None:
    store = MemoryStore()
    store.put("locks/other", b"x")
    list(contract.examine(store, clock=time.time))
    assert [info.name for info in store.list("")] == ["locks/other"]


# In parallel


def test_transfers_in_parallel_keep_their_order_and_their_bounds() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    running: list[int] = []
    most = 0

    def work(number: int) -> int:
        nonlocal most
        running.append(number)
        most = max(most, len(running))
        time.sleep(0.001)
        running.remove(number)
        return number * 2

    found = in_parallel(work, items(), workers=4)
    assert next(found) == 0
    assert len(taken) == 8
    assert list(found) == [number * 2 for number in range(1, 100)]
    assert 1 <= most <= 4


def test_an_error_in_parallel_ends_it() -> None:
    done: list[int] = []

    def work(number: int) -> int:
        if number == 5:
            raise StoreUnavailable("gone")
        done.append(number)
        return number

    found = in_parallel(work, range(1000), workers=2)
    with pytest.raises(StoreUnavailable):
        list(found)
    assert len(done) < 20
