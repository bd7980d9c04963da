"""A backup's lock: there while the backup works, renewed in time, and never put back by who lost it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drkit.errors import StoreError
from drkit.repo.lock import BackupLock
from drkit.store.memory import MemoryStore
from tests.support.faults import FaultyStore
from tests.support.repos import START, Bench, contents, names, pack_ids


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def test_the_lock_says_who_works() -> None:
    store, clock = MemoryStore(), Clock()
    with BackupLock(store, clock) as lock:
        assert names(store, "locks/") == [lock.name]
        assert lock.name.startswith("locks/backup-")
        assert lock.held()
        record = json.loads(store.get(lock.name))
        assert (record["kind"], record["pid"]) == ("backup", os.getpid())
        assert datetime.fromisoformat(record["started"]) == START.astimezone(UTC)
        assert record["host"]
        with BackupLock(store, clock) as other:  # backups do not exclude each other
            assert other.name != lock.name
            assert len(names(store, "locks/")) == 2
    assert names(store, "locks/") == []


def test_it_goes_with_an_error_too() -> None:
    store = MemoryStore()
    with pytest.raises(ValueError, match="it"), BackupLock(store, Clock()):
        raise ValueError("it")
    assert names(store, "locks/") == []


def test_it_is_renewed_every_five_minutes() -> None:
    store, clock = FaultyStore(MemoryStore()), Clock()
    with BackupLock(store, clock) as lock:
        for seconds, puts in ((0, 1), (299, 1), (1, 2), (200, 2), (100, 3), (900, 4)):
            clock.now += timedelta(seconds=seconds)
            lock.refresh()
            assert store.calls["put"] == puts
        assert lock.held()


@pytest.mark.parametrize("junk", [b"", b"\xff", b'{"pid":"x"}', b'{"x":' + b"[" * 100_000, b'{"pid":-1,"process":"/"}'])
def test_locks_that_are_none_are_left_alone(junk: bytes) -> None:
    store = MemoryStore()
    store.put("locks/backup-x", junk)
    with BackupLock(store, Clock()):
        assert "locks/backup-x" in names(store, "locks/")


def test_who_lost_it_does_not_put_it_back() -> None:
    store, clock = MemoryStore(), Clock()
    with BackupLock(store, clock) as lock:
        store.delete(lock.name)
        clock.now += timedelta(hours=1)
        lock.refresh()
        assert not lock.held()
        assert names(store, "locks/") == []


def test_a_backup_that_lost_its_lock_leaves_no_snapshot(tmp_path: Path) -> None:
    """As after a sleep of hours in which a prune took the stale lock away, and perhaps packs too."""
    bench = Bench(tmp_path)
    bench.plugin("p", 3)
    store = bench.store

    def take_away() -> None:
        for name in names(store, "locks/"):
            store.delete(name)

    with FaultyStore(store) as faulty:
        faulty.act("put", take_away, prefix="index/", done=True)
        bench.store = faulty
        with pytest.raises(StoreError, match="lock was taken away") as caught:
            bench.back_up()
    assert caught.value.code == 13
    assert "run the backup again" in caught.value.hint
    assert names(store, "snapshots/") == []
    bench.store = store
    packs = set(pack_ids(store))
    bench.back_up()
    assert packs <= set(pack_ids(store))
    assert contents(bench.repo) == bench.files()


@pytest.mark.parametrize("what", ["packs", "nothing"])
def test_a_prune_that_condemns_while_the_snapshot_is_put(tmp_path: Path, what: str) -> None:
    bench = Bench(tmp_path)
    bench.plugin("p", 3)
    bench.back_up()
    old = pack_ids(bench.store)
    bench.write("new", b"new")
    store = bench.store
    condemned = [pack.hex() for pack in old] if what == "packs" else ["00" * 32]
    record = json.dumps({"packs": condemned}).encode()
    with FaultyStore(store) as faulty:
        faulty.act("put", lambda: store.put("prunes/1", record), prefix="snapshots/")
        bench.store = faulty
        bench.back_up()
    bench.store = store
    assert len(names(store, "snapshots/")) == 2
    assert names(store, "locks/") == []
    if what == "packs":
        for pack in old:
            store.delete(f"packs/{pack.hex()[:2]}/{pack.hex()}.zst")
    assert contents(bench.repo) == bench.files()


def test_a_prune_that_has_deleted_the_packs_already(tmp_path: Path) -> None:
    """Then the manifest cannot even be read, and the snapshot must go all the same."""
    bench = Bench(tmp_path)
    bench.plugin("p", 3)
    bench.back_up()
    old = pack_ids(bench.store)
    bench.write("new", b"new")
    store = bench.store

    def prune() -> None:
        store.put("prunes/1", json.dumps({"packs": [pack.hex() for pack in old]}).encode())
        for pack in old:
            store.delete(f"packs/{pack.hex()[:2]}/{pack.hex()}.zst")

    with FaultyStore(store) as faulty:
        faulty.act("put", prune, prefix="snapshots/")
        bench.store = faulty
        with pytest.raises(StoreError, match="prune condemned packs"):
            bench.back_up()
    assert len(names(store, "snapshots/")) == 1
