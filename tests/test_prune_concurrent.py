"""Backups, readers and a prune at once: what is committed stays whole, and nobody who reads is disturbed."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drkit.errors import StoreError
from drkit.repo import Repository
from drkit.repo.index import stored_packs
from drkit.repo.lock import BackupLock, condemned_packs
from drkit.store import LocalStore, MemoryStore
from drkit.store.base import Store
from tests.support.backups import Bench as Source
from tests.support.faults import FaultyStore
from tests.support.pruning import NOTHING_UNUSED, Ticks, check_all, keep_last, run_prune, utc_now
from tests.support.repos import Bench, contents, names, small_packs


@pytest.mark.parametrize("kind", ["memory", "local"])
def test_four_backups_at_once_with_a_prune_in_between(tmp_path: Path, kind: str) -> None:
    store: Store = MemoryStore() if kind == "memory" else LocalStore(os.fsencode(tmp_path / "repo"))
    Repository.create(store, now=utc_now())
    sources = []
    for number in range(4):
        (tmp_path / f"{number}").mkdir()
        made = Source(tmp_path / f"{number}", MemoryStore())
        made.store = store
        sources.append(made)
    chance = random.Random(2)
    shared = [chance.randbytes(5000) for _ in range(12)]
    committed: dict[str, str] = {}
    sources[0].write("first", b"a prune refuses packs of which no snapshot tells")
    first = sources[0].take()
    committed[first.snapshot] = first.tree_sha256
    for turn in range(6):
        for number, source in enumerate(sources):
            for which in range(6):
                source.write(f"shared{which}", shared[(which + turn * number) % 12])
            source.write(f"own{turn}", chance.randbytes(20_000))
            if turn:
                (source.root / f"own{turn - 1}").unlink()
        barrier = threading.Barrier(5, timeout=30)

        def backup(source: Source, barrier: threading.Barrier = barrier) -> tuple[str, str]:
            barrier.wait()
            report = source.take()
            return report.snapshot, report.tree_sha256

        def give_back(barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            keep_last(store, 2)
            run_prune(store, NOTHING_UNUSED)

        with ThreadPoolExecutor(5) as pool:
            done = [pool.submit(backup, source) for source in sources]
            pruning = pool.submit(give_back)
            pruning.result(60)
            results = [one.result(60) for one in done]
        committed.update(results)
        check_all(store)
    assert len(committed) == 25, "what a prune condemns is stored again: no backup fails"
    keep_last(store, 1)
    run_prune(store, NOTHING_UNUSED)
    repo = check_all(store)
    for ref in repo.snapshots():
        assert repo.load(ref).tree_sha256 == committed[ref.id]
    assert names(store, "locks/") == []
    assert run_prune(store, NOTHING_UNUSED, dry_run=True).unused_before == 0


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    small_packs(monkeypatch)
    monkeypatch.setattr("drkit.retention.plan.SMALL_PACK", 500)
    made = Bench(tmp_path, MemoryStore(clock=Ticks()))
    chance = random.Random(4)
    for turn in range(3):
        for number in range(turn, 24, turn + 1):
            made.write(f"{number % 3}/{number}", chance.randbytes(300))
        made.back_up()
    keep_last(made.store, 1)
    return made


@pytest.mark.parametrize("after", range(0, 27, 2))
def test_a_reader_that_began_before_goes_on(bench: Bench, after: int) -> None:
    with FaultyStore(bench.store) as store:
        store.act("get_range", lambda: run_prune(bench.store, NOTHING_UNUSED), after=after)
        repo = Repository.open(store)
        found = {}
        for _ in range(3):  # long enough, wherever the prune comes
            found = contents(repo)
    assert found == bench.files()


@pytest.mark.parametrize("prefix", ["locks/", "packs/", "index/", "snapshots/"])
@pytest.mark.parametrize("done", [False, True])
def test_a_prune_at_any_point_of_a_backup(bench: Bench, prefix: str, done: bool) -> None:
    """What it needs of what was dead is spared, or stored again."""
    bench.write("0/0", random.Random(4).randbytes(300))  # as in the first snapshot, which was forgotten
    store = bench.store
    with FaultyStore(store) as faulty:
        faulty.act("put", lambda: run_prune(store, NOTHING_UNUSED), prefix=prefix, done=done)
        bench.store = faulty
        bench.back_up()
    bench.store = store
    check_all(store)
    bench.back_up()
    run_prune(store, NOTHING_UNUSED)
    repo = check_all(store)
    assert contents(repo) == bench.files()
    assert run_prune(store, NOTHING_UNUSED, dry_run=True).unused_before == 0


@pytest.mark.parametrize("prefix", ["locks/", "prunes/", "packs/", "index/", "hints/"])
@pytest.mark.parametrize("done", [False, True])
def test_a_backup_at_any_point_of_a_prune(bench: Bench, prefix: str, done: bool) -> None:
    bench.write("0/0", random.Random(4).randbytes(300))
    with FaultyStore(bench.store) as faulty:
        faulty.act("put", bench.back_up, prefix=prefix, done=done)
        run_prune(faulty, NOTHING_UNUSED)
    repo = check_all(bench.store)
    assert len(repo.snapshots()) == 2
    assert contents(repo) == bench.files()
    run_prune(bench.store, NOTHING_UNUSED)
    assert contents(check_all(bench.store)) == bench.files()


def test_nothing_is_deleted_while_a_backup_may_need_it(bench: Bench) -> None:
    """One that began before the record: it may be about to put its snapshot. The next prune deletes."""
    with BackupLock(bench.store, utc_now):
        before = names(bench.store, "packs/")
        report = run_prune(bench.store, NOTHING_UNUSED, wait_s=3)
        assert report.deferred > 0
        assert report.packs_deleted == 0
        assert set(before) <= set(names(bench.store, "packs/"))
        check_all(bench.store)
    condemned = frozenset().union(*condemned_packs(bench.store).values())
    assert len(condemned) == report.deferred
    report = run_prune(bench.store, NOTHING_UNUSED)
    assert report.deferred == 0
    assert not condemned & stored_packs(bench.store).keys()
    check_all(bench.store)


def test_a_prune_whose_lock_was_taken_away_deletes_nothing_more(bench: Bench) -> None:
    def take_away() -> None:
        for name in names(bench.store, "locks/prune-"):
            bench.store.delete(name)

    before = names(bench.store, "packs/")
    with FaultyStore(bench.store) as store:
        store.act("put", take_away, prefix="hints/")
        with pytest.raises(StoreError, match="lock was taken away"):
            run_prune(store, NOTHING_UNUSED)
    assert set(before) <= set(names(bench.store, "packs/"))
    run_prune(bench.store, NOTHING_UNUSED)
    check_all(bench.store)
