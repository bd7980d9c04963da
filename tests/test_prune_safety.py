"""What prune refuses, what it spares, and what a thief makes of it: nothing that is needed goes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from drkit.errors import IntegrityError, LockedError, StoreError, UsageError
from drkit.model import Kind, PackId
from drkit.repo import Repository
from drkit.repo.index import load_index, stored_packs, write_index
from drkit.repo.lock import BackupLock, PruneLock, unlock
from drkit.repo.names import pack_name
from drkit.retention import Policy, forget
from drkit.retention.policy import DAY_S
from drkit.store import MemoryStore
from drkit.store.base import ObjectInfo
from drkit.store.wrap import AppendOnly
from tests.support.faults import FaultyStore
from tests.support.pruning import NOTHING_UNUSED, Ticks, check_all, keep_last, rewritten_halves, run_prune, utc_now
from tests.support.repos import START, Bench, Blob, blobs_of, contents, latest, names, put_pack


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return rewritten_halves(tmp_path, monkeypatch)


# What is refused


def test_nothing_is_deleted_while_something_needed_is_lost(bench: Bench) -> None:
    keep_last(bench.store, 1)
    needed = latest(bench.repo).manifest.children[0].pack
    name = f"packs/{needed[:2]}/{needed}.zst"
    data = bench.store.get(name)
    bench.store.delete(name)
    before = names(bench.store, "packs/")
    with pytest.raises(IntegrityError, match=r"lost|no pack") as caught:
        run_prune(bench.store)
    assert "verify" in caught.value.hint
    assert names(bench.store, "packs/") == before
    assert names(bench.store, "prunes/") == names(bench.store, "locks/") == []
    bench.store.put(name, data)
    run_prune(bench.store)
    check_all(bench.store)


def test_a_damaged_snapshot_and_a_stranger_among_them_stop_it(bench: Bench) -> None:
    keep_last(bench.store, 2)
    first, _ = bench.repo.snapshots()
    data = bench.store.get(first.name)
    for name, content in ((first.name, data[:-2]), ("snapshots/old.json", data)):
        bench.store.put(name, content, overwrite=True)
        with pytest.raises(IntegrityError):
            run_prune(bench.store)
        bench.store.delete(name)
        bench.store.put(first.name, data, overwrite=True)
    check_all(bench.store)


def test_packs_without_any_snapshot_are_left_alone(bench: Bench) -> None:
    for ref in bench.repo.snapshots():
        bench.store.delete(ref.name)
    with pytest.raises(UsageError, match="no snapshot"):
        run_prune(bench.store)
    assert run_prune(MemoryStoreWithRepo().store).packs_before == 0


class MemoryStoreWithRepo:
    """An empty repository."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        Repository.create(self.store, now=datetime(2026, 1, 1, tzinfo=UTC))


def test_a_corrupt_frame_is_never_written_anew(bench: Bench) -> None:
    """Read damaged while it is repacked: the other copy is used, or nothing is deleted."""
    keep_last(bench.store, 1)
    intact = {name: bench.store.get(name) for name in names(bench.store, "packs/")}
    index = load_index(bench.store).index
    for pack_id, pack in index.packs.items():
        data = bytearray(intact[pack_name(pack_id)])
        if Kind.DATA in pack.table.kinds:
            for at, length, _ in pack.table.offsets():
                data[at + length // 2] ^= 16
            bench.store.put(pack_name(pack_id), data, overwrite=True)
    with pytest.raises(IntegrityError):
        run_prune(bench.store, NOTHING_UNUSED)
    assert set(intact) <= set(names(bench.store, "packs/"))
    for name, whole in intact.items():
        bench.store.put(name, whole, overwrite=True)
    run_prune(bench.store, NOTHING_UNUSED)
    check_all(bench.store)


def test_a_store_that_lets_nobody_delete_is_told_before_anything_is_written(bench: Bench) -> None:
    keep_last(bench.store, 1)
    before = names(bench.store, "")
    with FaultyStore(bench.store) as store:
        store.fail("delete", prefix="prunes/", error=StoreError("append-only"))
        with pytest.raises(StoreError, match="append-only"):
            run_prune(store)
    assert names(bench.store, "") == before


# Locks and ages


def test_only_one_prune_works(bench: Bench) -> None:
    with PruneLock(bench.store, utc_now), pytest.raises(LockedError, match="another prune") as caught:
        run_prune(bench.store)
    assert caught.value.code == 11
    run_prune(bench.store)


def test_the_lock_of_a_dead_prune_is_taken_away(tmp_path: Path) -> None:
    ticks = Ticks()
    bench = Bench(tmp_path, MemoryStore(clock=ticks))
    bench.write("a")
    bench.back_up()
    bench.store.put("locks/prune-0123", b'{"kind":"prune","host":"far"}')
    with pytest.raises(LockedError):
        run_prune(bench.store)
    ticks.ahead += 31 * 60
    run_prune(bench.store)
    assert names(bench.store, "locks/") == []


def test_a_store_that_does_not_list_what_it_has_is_refused(bench: Bench) -> None:
    class Blind(FaultyStore):
        def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
            return iter(()) if prefix.startswith("locks/") else super().list(prefix, after=after)

    with pytest.raises(StoreError, match="does not list"):
        run_prune(Blind(bench.store))
    assert names(bench.store, "locks/") == []


def test_packs_of_a_backup_at_work_are_spared(tmp_path: Path) -> None:
    ticks = Ticks()
    bench = Bench(tmp_path, MemoryStore(clock=ticks))
    bench.write("a", b"a" * 1000)
    bench.back_up()
    bench.write("b", b"b" * 1000)
    with FaultyStore(bench.store) as store:
        store.act("put", lambda: run_prune(bench.store), prefix="index/")
        bench.store = store
        bench.back_up()
    bench.store = store.inner
    check_all(bench.store)


def test_the_packs_of_the_first_hour_of_a_long_backup_are_spared(tmp_path: Path) -> None:
    """Its lock is rewritten every five minutes, and says when it was first."""
    ticks = Ticks()
    bench = Bench(tmp_path, MemoryStore(clock=ticks))
    bench.write("a", b"a" * 1000)
    bench.back_up()
    time = [START]
    with BackupLock(bench.store, lambda: time[0]) as lock:
        unfinished(bench)
        kept = names(bench.store, "packs/")
        for _ in range(12):
            ticks.ahead += 300
            time[0] += timedelta(minutes=5)
            lock.refresh()
        run_prune(bench.store)
        assert names(bench.store, "packs/") == kept
    run_prune(bench.store)
    assert len(names(bench.store, "packs/")) == len(kept) - 1


def unfinished(bench: Bench) -> None:
    """A backup that dies before its snapshot."""
    bench.write("b", b"b" * 1000)
    whole = bench.store
    with FaultyStore(whole) as store:
        store.fail("put", prefix="snapshots/", error=StoreError("gone"))
        bench.store = store
        with pytest.raises(StoreError, match="gone"):
            bench.back_up()
    bench.store = whole


def test_records_stay_for_thirty_days(tmp_path: Path) -> None:
    ticks = Ticks()
    bench = Bench(tmp_path, MemoryStore(clock=ticks))
    for number in range(3):
        bench.write("a", b"%d" % number * 1000)
        bench.back_up()
    keep_last(bench.store, 1)
    run_prune(bench.store)
    (record,) = names(bench.store, "prunes/")
    ticks.ahead += 29 * DAY_S
    run_prune(bench.store)
    assert names(bench.store, "prunes/") == [record]
    ticks.ahead += 2 * DAY_S
    run_prune(bench.store)
    assert names(bench.store, "prunes/") == []
    check_all(bench.store)


def test_packs_within_the_minimum_age_stay(tmp_path: Path) -> None:
    """Whoever removed the snapshots, their packs are there as long."""
    ticks = Ticks()
    bench = Bench(tmp_path, MemoryStore(clock=ticks))
    for number in range(3):
        bench.write("a", b"%d" % number * 1000)
        bench.back_up()
        ticks.ahead += 5 * DAY_S
    kept = names(bench.store, "packs/")
    keep_last(bench.store, 1)
    run_prune(bench.store, min_age_s=14 * DAY_S)
    assert names(bench.store, "packs/") == kept
    run_prune(bench.store, min_age_s=7 * DAY_S)
    assert len(names(bench.store, "packs/")) == 2
    check_all(bench.store)


def test_unlock_removes_what_the_dead_have_left(tmp_path: Path) -> None:
    ticks = Ticks()
    store = MemoryStore(clock=ticks)
    store.put("locks/backup-old", b'{"kind":"backup","host":"far","pid":7}')
    ticks.ahead += 31 * 60
    store.put("locks/backup-new", b'{"kind":"backup","host":"near","pid":8}')
    removed, left = unlock(store, utc_now)
    assert [(lock.name, lock.owner) for lock in removed] == [("locks/backup-old", "far 7")]
    assert [(lock.name, lock.owner) for lock in left] == [("locks/backup-new", "near 8")]
    assert names(store, "locks/") == ["locks/backup-new"]
    assert [lock.name for lock in unlock(store, utc_now, every=True)[0]] == ["locks/backup-new"]
    assert names(store, "locks/") == []


# Thieves


def test_a_thief_behind_an_append_only_store_destroys_nothing(tmp_path: Path) -> None:
    """He has all that a writer has: he floods, condemns everything, takes locks; then the owner forgets and prunes."""
    ticks = Ticks()
    bench = Bench(tmp_path, MemoryStore(clock=ticks))
    history = {}
    for number in range(8):
        bench.write("a", b"%d" % number * 2000)
        report = bench.back_up()
        history[report.snapshot] = contents(bench.repo)
        ticks.ahead += DAY_S
    store = bench.store
    thief = AppendOnly(store)
    for name in names(store, ""):
        with pytest.raises(StoreError):
            thief.delete(name)
        with pytest.raises(StoreError):
            thief.put(name, b"junk", overwrite=True)
    with pytest.raises(StoreError):
        keep_last(thief, 1)
    before = names(store, "")
    with pytest.raises(StoreError):
        run_prune(thief, NOTHING_UNUSED)
    assert names(store, "") == before, "nothing was written in vain"
    packs = [pack.hex() for pack in stored_packs(store)]
    thief.put("prunes/thief", json.dumps({"packs": packs}).encode())
    thief.put("locks/backup-thief", json.dumps({"kind": "backup", "stamp": 1.0}).encode(), overwrite=True)
    bench.store = thief
    for number in range(12):  # a source of his own, under the name of the other
        bench.now += timedelta(days=400 * (number % 2))
        bench.write("a", b"ransom %d" % number)
        bench.back_up()
    bench.store = store
    ticks.ahead += 31 * 60  # his lock is stale
    policy = Policy(last=3, daily=7, min_age_s=6 * DAY_S)
    forget(bench.repo, policy)
    run_prune(store, NOTHING_UNUSED)
    repo = check_all(store)
    left = {ref.id: contents(repo, repo.load(ref)) for ref in repo.snapshots()}
    assert history.items() <= left.items()


def test_a_false_index_makes_nobody_delete_what_is_needed(bench: Bench) -> None:
    """It says that a pack holds nothing, and another one all of it."""
    keep_last(bench.store, 2)
    expected = contents(bench.repo)
    loaded = load_index(bench.store)
    packs = list(loaded.index.packs.values())
    victim = next(pack for pack in packs if Kind.DATA in pack.table.kinds)
    false = [
        replace(pack, table=packs[-1].table, size=pack.size) if pack is victim else pack
        for pack in (*packs, replace(victim, id=packs[-1].id, size=packs[-1].size))
    ]
    write_index(AppendOnly(bench.store), false, (*loaded.objects, *loaded.superseded))
    before = names(bench.store, "packs/")
    with pytest.raises(IntegrityError) as caught:
        run_prune(bench.store, NOTHING_UNUSED)
    assert "verify" in caught.value.hint
    assert names(bench.store, "packs/") == before
    for name in names(bench.store, "index/"):
        bench.store.delete(name)
    run_prune(bench.store, NOTHING_UNUSED)
    assert contents(check_all(bench.store)) == expected


def test_a_false_pack_displaces_nothing_within_the_minimum_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table says that it has what it has not; only a reader would notice."""
    monkeypatch.setattr("drkit.retention.plan.SMALL_PACK", 0)
    ticks = Ticks()
    bench = Bench(tmp_path, MemoryStore(clock=ticks))
    bench.write("a", b"a" * 5000)
    bench.back_up()
    bench.write("b", b"b" * 5000)
    bench.back_up()
    expected = contents(bench.repo)
    ticks.ahead += 30 * DAY_S
    for pack_id in list(stored_packs(bench.store)):
        frames = [
            [(kind, blob_id, bytes(len(data))) for kind, blob_id, data in blobs] for blobs in data_of(bench, pack_id)
        ]
        if frames:
            put_pack(AppendOnly(bench.store), frames)
    run_prune(bench.store, NOTHING_UNUSED, min_age_s=7 * DAY_S)
    repo = bench.repo
    for ref in repo.snapshots():
        contents(repo, repo.load(ref))
    assert contents(repo) == expected


def data_of(bench: Bench, pack_id: PackId) -> list[list[Blob]]:
    return [blobs for blobs in blobs_of(bench.store, pack_id) if blobs[0][0] == Kind.DATA]
