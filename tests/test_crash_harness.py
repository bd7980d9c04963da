"""The crash harness itself: it must catch writers that are not safe, and pass those that are."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from drkit import osutil
from drkit.errors import NoSpace, ObjectNotFound
from drkit.store.base import Store
from drkit.store.memory import MemoryStore
from tests.support import crash
from tests.support.crash import crash_points, enospc_points, store_crash_points, trace_calls
from tests.support.faults import FaultyStore

OLD, NEW = b"old content", b"new and longer content"
MakeState = Callable[[], Path]


@pytest.fixture
def make_state(tmp_path: Path) -> MakeState:
    def make() -> Path:
        state = tmp_path / "state"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        (state / "file").write_bytes(OLD)
        return state

    return make


@contextmanager
def written(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        yield fd
    finally:
        os.close(fd)


def in_place(state: Path) -> None:
    with written(state / "file") as fd:
        os.write(fd, NEW)
        os.fsync(fd)


def in_place_with_file_object(state: Path) -> None:
    with open(state / "file", "wb") as file:
        file.write(NEW)


def in_place_vectored(state: Path) -> None:
    with open(os.open(state / "file", os.O_RDWR), "rb") as file:
        os.writev(file.fileno(), [NEW[:3], NEW[3:]])


def aside(state: Path) -> None:
    with written(state / "temporary") as fd:
        os.write(fd, NEW)
        os.fsync(fd)
    os.replace(state / "temporary", state / "file")
    osutil.fsync_dir(os.fsencode(state))


def contents(make: MakeState, action: Callable[[Path], None]) -> set[bytes]:
    return {(point.state / "file").read_bytes() for point in crash_points(make, action)}


@pytest.mark.parametrize("action", [in_place, in_place_with_file_object, in_place_vectored])
def test_writer_in_place_is_caught(make_state: MakeState, action: Callable[[Path], None]) -> None:
    assert contents(make_state, action) - {OLD, NEW}


def test_safe_writer_passes_with_the_old_and_the_new_state_seen(make_state: MakeState) -> None:
    assert contents(make_state, aside) == {OLD, NEW}


def test_half_a_write_is_seen(make_state: MakeState) -> None:
    assert NEW[: len(NEW) // 2] in contents(make_state, in_place)


def test_trace_names_the_calls_in_order(make_state: MakeState) -> None:
    assert trace_calls(make_state, aside) == ["open", "write", "write (half)", "fsync", "replace", "fsync"]


def test_points_tell_where_they_are(make_state: MakeState) -> None:
    points = list(crash_points(make_state, aside))
    assert [point.number for point in points] == [1, 2, 3, 4, 5, 6]
    assert {point.total for point in points} == {6}
    assert [point.call for point in points] == trace_calls(make_state, aside)


def test_only_the_named_calls_are_counted(make_state: MakeState) -> None:
    points = list(crash_points(make_state, aside, calls=frozenset(["replace"])))
    assert [(point.call, (point.state / "temporary").read_bytes()) for point in points] == [("replace", NEW)]


def test_reading_is_not_counted(make_state: MakeState) -> None:
    def read(state: Path) -> None:
        os.close(os.open(state / "file", os.O_RDONLY))
        (state / "file").read_bytes()

    with pytest.raises(AssertionError, match="changes nothing"):
        trace_calls(make_state, read)


def test_sample_is_bounded_and_has_both_ends(make_state: MakeState) -> None:
    def many(state: Path) -> None:
        for number in range(100):
            os.mkdir(state / str(number))

    numbers = [point.number for point in crash_points(make_state, many, limit=5)]
    assert numbers == [1, 25, 50, 75, 100]


def test_calls_of_threads_are_counted(make_state: MakeState) -> None:
    def threaded(state: Path) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: os.mkdir(state / f"{number}"), range(20)))

    points = [(point.total, len(list(point.state.iterdir()))) for point in crash_points(make_state, threaded)]
    assert {total for total, _ in points} == {20}
    assert all(1 <= left <= 20 for _, left in points)  # the file, and fewer folders than all


def test_failing_action_is_reported_with_its_traceback(make_state: MakeState) -> None:
    def failing(state: Path) -> None:
        os.mkdir(state / "file")

    with pytest.raises(AssertionError, match="FileExistsError"):
        next(crash_points(make_state, failing))


def test_hanging_action_is_ended(make_state: MakeState) -> None:
    with pytest.raises(AssertionError, match="ended with -14"):
        next(crash_points(make_state, lambda _: time.sleep(30), timeout=1))


def test_child_leaves_the_buffers_of_the_parent_alone(make_state: MakeState, capfd: pytest.CaptureFixture[str]) -> None:
    with open(1, "w", closefd=False) as buffered:
        buffered.write("once")
        trace_calls(make_state, aside)
    assert capfd.readouterr().out == "once"


def test_enospc_strikes_each_call_and_the_functions_are_put_back(make_state: MakeState) -> None:
    before = {name: getattr(os, name) for name in ("open", "write", "replace")}
    points = list(enospc_points(make_state, aside))
    assert [point.call for point in points] == trace_calls(make_state, aside, calls=crash.SPACE_CALLS)
    assert all(isinstance(point.error, OSError) and point.error.errno == errno.ENOSPC for point in points)
    assert {name: getattr(os, name) for name in before} == before


def test_enospc_catches_a_torn_file(make_state: MakeState) -> None:
    seen = {(point.state / "file").read_bytes() for point in enospc_points(make_state, in_place)}
    assert seen - {OLD, NEW}


@pytest.mark.parametrize(("lasting", "second_try"), [(False, None), (True, errno.EIO)])
def test_an_error_may_last(make_state: MakeState, lasting: bool, second_try: int | None) -> None:
    def twice(state: Path) -> None:
        try:
            os.mkdir(state / "a")
        except OSError:
            os.mkdir(state / "a")

    points = list(enospc_points(make_state, twice, code=errno.EIO, lasting=lasting))
    assert [point.error and getattr(point.error, "errno", None) for point in points] == [second_try]


def index_first(store: Store) -> None:
    store.put("index/1", b"names pack 1")
    store.put("packs/1", b"pack")


def pack_first(store: Store) -> None:
    store.put("packs/1", b"pack")
    store.put("index/1", b"names pack 1")


def dangling(store: Store) -> bool:
    names = {info.name for info in store.list("")}
    return "index/1" in names and "packs/1" not in names


def test_store_crash_catches_the_wrong_write_order() -> None:
    assert any(dangling(point.state) for point in store_crash_points(MemoryStore, index_first))


def test_store_crash_passes_the_right_write_order() -> None:
    points = list(store_crash_points(MemoryStore, pack_first))
    assert [len(list(point.state.list(""))) for point in points] == [0, 1]
    assert not any(dangling(point.state) for point in points)


def test_store_crash_catches_an_action_that_outlives_it() -> None:
    def stubborn(store: Store) -> None:
        with suppress(crash.Killed):
            pack_first(store)

    with pytest.raises(AssertionError, match="did not end"):
        list(store_crash_points(MemoryStore, stubborn))


def test_fault_comes_after_some_calls_and_so_many_times() -> None:
    with FaultyStore(MemoryStore()) as store:
        store.fail("put", prefix="packs/", after=1, times=2, error=NoSpace("full"))
        store.put("index/1", b"")
        store.put("packs/1", b"")
        for _ in range(2):
            with pytest.raises(NoSpace, match="full"):
                store.put("packs/2", b"")
        store.put("packs/2", b"")
        assert store.calls == {"put": 5}
        assert [info.name for info in store.list("packs/")] == ["packs/1", "packs/2"]


def test_answer_is_lost_but_the_work_was_done() -> None:
    with FaultyStore(MemoryStore()) as store:
        store.fail("delete", error=NoSpace("lost"), done=True)
        store.put("a", b"")
        with pytest.raises(NoSpace):
            store.delete("a")
        with pytest.raises(ObjectNotFound):
            store.get("a")


def test_returned_bytes_are_changed_and_shortened() -> None:
    with FaultyStore(MemoryStore()) as store:
        store.put("a", b"abcd")
        store.corrupt("get", at=-1)
        store.lie_short("get_range", by=2)
        assert store.get("a") == b"abce"
        assert store.get_range("a", 0, 3) == b"a"
        assert store.get("a") == store.inner.get("a") == b"abcd"


def test_planned_fault_that_is_not_met_fails_the_test() -> None:
    def careless() -> None:
        with FaultyStore(MemoryStore()) as store:
            store.corrupt(prefix="packs/")
            store.put("index/1", b"x")
            store.get("index/1")

    with pytest.raises(AssertionError, match="were not met"):
        careless()


def test_unmet_fault_does_not_hide_another_error() -> None:
    def failing() -> None:
        with FaultyStore(MemoryStore()) as store:
            store.lie_short()
            store.delete("missing")

    with pytest.raises(ObjectNotFound):
        failing()
