"""A prune dies at every call of the store, or of the system: every snapshot stays whole, and the next one goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drkit.errors import StoreError
from drkit.repo import Repository
from drkit.repo.lock import unlock
from drkit.store import LocalStore, MemoryStore
from drkit.store.base import Store
from tests.support.crash import crash_points, store_crash_points
from tests.support.faults import CHANGES, READS, VERBS, FaultyStore
from tests.support.pruning import NOTHING_UNUSED, Ticks, check_all, keep_last, run_prune, utc_now
from tests.support.repos import Bench, contents, names, small_packs


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A repository of which much is to be written anew."""
    small_packs(monkeypatch)
    monkeypatch.setattr("drkit.retention.plan.SMALL_PACK", 500)
    return filled(Bench(tmp_path, MemoryStore(clock=Ticks())))


def filled(bench: Bench) -> Bench:
    chance = random.Random(7)
    for turn in range(3):
        for number in range(turn, 24, turn + 1):
            bench.write(f"{number % 3}/{number}", chance.randbytes(300))
        bench.back_up()
    keep_last(bench.store, 2)
    return bench


def copied(store: Store) -> MemoryStore:
    other = MemoryStore(clock=Ticks())
    for info in sorted(store.list(""), key=lambda info: info.modified):
        other.put(info.name, store.get(info.name))
    return other


def image(store: Store) -> dict[str, dict[bytes, bytes]]:
    """All that the snapshots of a store hold."""
    repo = Repository.open(store)
    return {ref.id: contents(repo, repo.load(ref)) for ref in repo.snapshots()}


def prune_all(store: Store) -> None:
    run_prune(store, NOTHING_UNUSED)


@pytest.mark.parametrize("verbs", [CHANGES, VERBS, READS])
def test_dying_at_any_call_of_the_store(bench: Bench, verbs: tuple[str, ...]) -> None:
    expected = image(bench.store)
    clean = copied(bench.store)
    run_prune(clean, NOTHING_UNUSED)
    for point in store_crash_points(lambda: copied(bench.store), prune_all, verbs=verbs, limit=150):
        assert image(point.state) == expected, point
        for name in names(point.state, "locks/"):
            point.state.delete(name)  # as when it is stale
        check_all(point.state)
        run_prune(point.state, NOTHING_UNUSED)
        assert image(point.state) == expected, point
        check_all(point.state)
        again = run_prune(point.state, NOTHING_UNUSED, dry_run=True)
        assert (again.packs_deleted, again.unused_before) == (0, 0), point


def test_a_backup_after_a_prune_that_died_is_whole(bench: Bench) -> None:
    """It relies on nothing that the record condemns, though all of it is still there."""
    first = bench.store
    for point in store_crash_points(lambda: copied(first), prune_all, limit=150):
        bench.store = point.state
        report = bench.back_up()
        for name in names(point.state, "locks/"):
            point.state.delete(name)
        run_prune(point.state, NOTHING_UNUSED)
        check_all(point.state)
        assert contents(bench.repo, bench.repo.load(bench.repo.resolve(report.snapshot))) == bench.files()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("done", [False, True])
def test_an_error_at_any_call_loses_nothing(bench: Bench, verb: str, done: bool) -> None:
    expected = image(bench.store)
    with FaultyStore(copied(bench.store)) as counter:
        prune_all(counter)
    total = counter.calls[verb]
    assert total > 0
    for after in range(0, total, max(1, total // 25)):
        store = copied(bench.store)
        with FaultyStore(store) as failing:
            failing.fail(verb, error=StoreError("the network is away"), after=after, done=done)
            try:
                prune_all(failing)
            except StoreError as error:
                assert "the network is away" in str(error)  # noqa: PT017 - or it did not matter
        assert image(store) == expected
        unlock(store, utc_now, every=True)  # its own may not have been deleted
        run_prune(store, NOTHING_UNUSED)
        assert image(store) == expected
        check_all(store)


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        yield Path(directory)


def test_dying_at_any_call_of_the_system(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_packs(monkeypatch)
    monkeypatch.setattr("drkit.retention.plan.SMALL_PACK", 500)
    bench = filled(Bench(home, LocalStore(os.fsencode(home / "repo"))))
    expected = image(bench.store)
    copies = iter(range(1000))

    def make() -> Store:
        place = home / f"copy-{next(copies)}"
        shutil.copytree(home / "repo", place)
        return LocalStore(os.fsencode(place))

    for point in crash_points(make, prune_all, limit=30):
        assert image(point.state) == expected, point
        run_prune(point.state, NOTHING_UNUSED)  # the dead one's lock is known by its process
        assert image(point.state) == expected, point
        check_all(point.state)
        assert point.state.directory is not None
        shutil.rmtree(point.state.directory)


def test_processes_that_are_killed(home: Path) -> None:
    """SIGKILL after times that grow: whatever it had come to, the next one ends it."""
    bench = Bench(home, LocalStore(os.fsencode(home / "repo")))
    chance = random.Random(11)
    for turn in range(4):
        for number in range(turn, 60, turn + 1):
            bench.write(f"{number}", chance.randbytes(60_000))
        bench.back_up()
    keep_last(bench.store, 2)
    expected = image(bench.store)
    environ = {**os.environ, "XDG_DATA_HOME": str(home / "data"), "XDG_CACHE_HOME": str(home / "cache")}
    command = [sys.executable, "-m", "drkit", "--repo", str(home / "repo"), "prune", "--max-unused", "0"]
    killed = 0
    for turn in range(8):
        process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.12 + 0.05 * turn)
        process.send_signal(signal.SIGKILL)
        killed += process.wait(30) == -signal.SIGKILL
        assert image(bench.store) == expected
    assert killed > 0
    assert subprocess.run(command, env=environ, check=True, timeout=60, capture_output=True).stderr == b""
    assert image(bench.store) == expected
    check_all(bench.store)
