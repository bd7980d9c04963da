"""Several backups at once, and a prune beside them: what is committed is whole, or the backup fails and says so."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from drkit.backup import BackupReport
from drkit.errors import FormatError, StoreError
from drkit.model import Level
from drkit.progress import NullProgress
from drkit.repo.index import load_index, stored_packs
from drkit.store import LocalStore, MemoryStore
from drkit.store.base import Store
from drkit.verify import verify
from tests.support.backups import SMALL_CHUNKS, Bench, check_against_source, check_whole
from tests.support.faults import FaultyStore


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return filled(Bench(tmp_path, chunker=SMALL_CHUNKS))


def filled(bench: Bench, seed: str = "") -> Bench:
    for number in range(40):
        bench.write(f"{number % 4}/{number}", f"{seed}{number}".encode() * 50)
    bench.write("large", secrets.token_bytes(80_000))
    return bench


def condemn(store: Store, *names: str) -> str:
    """Put the record of a prune that wants to delete packs; return the record's name."""
    record = f"prunes/{secrets.token_hex(8)}"
    store.put(record, msgspec.json.encode({"packs": [name[-68:-4] for name in names]}))
    return record


def locks(store: Store) -> list[str]:
    return [info.name for info in store.list("locks/")]


def packs(store: Store) -> list[str]:
    return [info.name for info in store.list("packs/")]


def check_everything(bench: Bench) -> None:
    repository = bench.open()
    refs = repository.snapshots()
    report = verify(repository, refs, level=Level.CONTENT, every_pack=True, progress=NullProgress())
    assert report.findings == ()


# Backups at the same time


@pytest.mark.parametrize("kind", ["memory", "local"])
def test_two_backups_of_one_source_at_once(tmp_path: Path, kind: str) -> None:
    """Both store what they found missing; the same pack under the same name is no conflict, one cache wins."""
    store = MemoryStore() if kind == "memory" else LocalStore(os.fsencode(tmp_path / "repo"))
    bench = filled(Bench(tmp_path, store))
    barrier = threading.Barrier(2, timeout=30)

    def run(_: int) -> BackupReport:
        barrier.wait()
        return bench.take()

    for turn in range(3):
        with ThreadPoolExecutor(2) as pool:
            reports = list(pool.map(run, range(2)))
        for report in reports:
            assert report.warnings == ()
            check_against_source(bench, report)
        assert len(bench.open().snapshots()) == 2 * (turn + 1)
        check_everything(bench)
        bench.write(f"new/{turn}", secrets.token_bytes(3000))
    assert locks(store) == []


def test_two_backups_of_two_sources_at_once(tmp_path: Path) -> None:
    store = LocalStore(os.fsencode(tmp_path / "repo"))
    benches = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made = filled(Bench(tmp_path / name, MemoryStore()), name if name == "two" else "")
        made.write("shared", b"the same in both" * 10_000)
        benches.append(made)
    Bench(tmp_path, store)
    for made in benches:
        made.store = store
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(Bench.take, benches))
    for made, report in zip(benches, reports, strict=True):
        check_against_source(made, report)
        assert made.take().parent == report.snapshot
    check_everything(benches[0])


def test_processes_at_once(tmp_path: Path) -> None:
    bench = filled(Bench(tmp_path, LocalStore(os.fsencode(tmp_path / "repo"))))
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "drkit", "--repo", str(tmp_path / "repo"), "--json", "backup"]
    sources = [bench.root, bench.root, bench.root / "1"]
    running = [
        subprocess.Popen([*command, str(source)], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for source in sources
    ]
    told = []
    for process in running:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        told.append(json.loads(out))
    assert [one["files"] for one in told] == [41, 41, 10]
    assert len(bench.open().snapshots()) == 3
    check_everything(bench)
    assert locks(bench.store) == []


def test_a_snapshot_of_another_host_in_the_meantime_changes_nothing(bench: Bench) -> None:
    """It even has a later time, as with a clock that is ahead."""
    with FaultyStore(bench.store) as store:
        other = bench.beside(bench.store, bench.home / "other cache")
        other.ahead = timedelta(days=3)
        store.act("put", lambda: other.take(host="other"), prefix="packs/")
        report = bench.beside(store, bench.home / "cache").take(host="this")
    check_against_source(bench, report)
    second = bench.take(host="this")
    assert (second.parent, second.files_unchanged) == (report.snapshot, 41)
    assert bench.open().snapshots()[-1].id == second.snapshot
    check_everything(bench)


def test_many_small_backups_merge_their_index_objects(bench: Bench) -> None:
    for number in range(40):
        bench.write("changing", b"%d" % number)
        report = bench.take()
        loaded = load_index(bench.store)
        assert len(loaded.objects) <= 33
        assert (loaded.findings, loaded.unindexed) == ([], [])
    assert len(loaded.objects) < 33
    check_against_source(bench, report)
    check_everything(bench)


# The lock


def test_the_lock_tells_who_works_and_goes_away(bench: Bench) -> None:
    seen: list[bytes] = []
    with FaultyStore(bench.store) as store:
        store.act("put", lambda: seen.extend(map(bench.store.get, locks(bench.store))), prefix="snapshots/")
        bench.beside(store, bench.home / "cache").take()
    (lock,) = map(json.loads, seen)
    assert (lock["kind"], lock["pid"]) == ("backup", os.getpid())
    assert datetime.fromisoformat(lock["started"]).tzinfo is not None
    assert lock["host"]
    assert locks(bench.store) == []


def test_the_lock_is_rewritten_every_five_minutes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drkit.backup.scan._TICK", 1)
    written: list[datetime] = []
    time = bench.now()

    def now(bench: Bench) -> datetime:
        nonlocal time
        time += timedelta(seconds=20)
        return time

    monkeypatch.setattr(Bench, "now", now)
    with FaultyStore(bench.store) as store:
        store.act("put", lambda: written.append(time), prefix="locks/", times=None)
        bench.beside(store, bench.home / "cache").take()
    gaps = [later - earlier for earlier, later in pairwise(written)]
    assert len(gaps) > 3
    assert all(timedelta(minutes=5) <= gap <= timedelta(minutes=6) for gap in gaps)


def test_old_locks_of_others_are_left_alone(bench: Bench) -> None:
    bench.store.put("locks/backup-0123456789abcdef", b"not even JSON")
    assert bench.take().warnings == ()
    assert locks(bench.store) == ["locks/backup-0123456789abcdef"]


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("slow", [False, True])
def test_without_its_lock_a_backup_commits_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, done: bool, slow: bool
) -> None:
    """Taken for stale, just before the snapshot is put or just after it. A lock that is due is not brought back."""
    first = bench.take()
    bench.write("new", b"x")
    if slow:
        monkeypatch.setattr("drkit.backup.scan._TICK", 1)
        monkeypatch.setattr("drkit.repo.lock.REWRITE_AFTER", timedelta(0))

    def take_away() -> None:
        for info in bench.store.list("locks/"):
            bench.store.delete(info.name)

    with FaultyStore(bench.store) as store:
        store.act("put", take_away, prefix="snapshots/" if done else "packs/", done=done)
        with pytest.raises(StoreError, match="lock was taken away; the snapshot was not kept") as caught:
            bench.beside(store, bench.home / "cache").take()
    assert caught.value.code == 13
    assert [ref.id for ref in bench.open().snapshots()] == [first.snapshot]
    assert locks(bench.store) == []
    check_against_source(bench, bench.take())


def test_a_lock_that_is_gone_while_the_scan_goes_on_is_not_made_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it protected may be deleted by now."""
    monkeypatch.setattr("drkit.backup.scan._TICK", 1)
    monkeypatch.setattr("drkit.repo.lock.REWRITE_AFTER", timedelta(0))
    with FaultyStore(bench.store) as store:
        take_away = lambda: bench.store.delete(*locks(bench.store))  # noqa: E731
        store.act("put", take_away, prefix="locks/", after=5, done=True)
        with pytest.raises(StoreError, match="lock was taken away"):
            bench.beside(store, bench.home / "cache").take()
    assert bench.open().snapshots() == []


# A prune at the same time


@pytest.mark.parametrize("done", [False, True])
def test_a_prune_that_condemns_what_the_snapshot_stands_on(bench: Bench, done: bool) -> None:
    """Its record appears after the backup began, around the put of the snapshot: what it needs is stored again."""
    bench.take()
    bench.write("new", b"x")
    old = packs(bench.store)
    with FaultyStore(bench.store) as store:
        store.act("put", lambda: condemn(bench.store, *old), prefix="snapshots/", done=done)
        report = bench.beside(store, bench.home / "cache").take()
    check_whole(bench, report)
    for name in old:
        bench.store.delete(name)
    check_against_source(bench, report)


def test_a_prune_that_has_already_deleted_what_the_snapshot_stands_on(bench: Bench) -> None:
    bench.take()
    bench.write("new", b"x")

    def prune() -> None:
        for name in packs(bench.store):
            condemn(bench.store, name)
            bench.store.delete(name)

    with FaultyStore(bench.store) as store:
        store.act("put", prune, prefix="snapshots/")
        with pytest.raises(StoreError, match="a prune condemned packs"):
            bench.beside(store, bench.home / "cache").take()
    assert len(bench.open().snapshots()) == 1
    check_against_source(bench, bench.take())


def test_a_prune_of_what_nobody_needs_is_no_reason_to_fail(bench: Bench) -> None:
    bench.write("gone", secrets.token_bytes(5000))
    bench.take(tags=("old",))
    (needless,) = packs(bench.store)
    (bench.root / "gone").unlink()
    condemned = condemn(bench.store, needless)
    bench.take()
    bench.store.delete(condemned)
    bench.write("new", b"x")
    with FaultyStore(bench.store) as store:
        store.act("put", lambda: condemn(bench.store, needless, f"packs/00/{'0' * 64}.zst"), prefix="snapshots/")
        report = bench.beside(store, bench.home / "cache").take()
    check_whole(bench, report)
    bench.store.delete(needless)
    check_against_source(bench, report)


def test_two_records_that_together_take_all_copies(bench: Bench) -> None:
    """One condemns the pack that the backup knew to be going, the other its replacement."""
    bench.take()
    (first,) = packs(bench.store)
    condemn(bench.store, first)
    bench.take()
    (second,) = set(packs(bench.store)) - {first}
    with FaultyStore(bench.store) as store:
        store.act("put", lambda: condemn(bench.store, second), prefix="snapshots/")
        report = bench.beside(store, bench.home / "cache").take()
    check_whole(bench, report)
    for name in (first, second):
        bench.store.delete(name)
    check_against_source(bench, report)


def test_prunes_that_condemn_without_end_are_given_up_on(bench: Bench) -> None:
    bench.take()
    bench.write("new", b"x")
    with FaultyStore(bench.store) as store:
        store.act("list", lambda: condemn(bench.store, *packs(bench.store)), prefix="prunes/", after=1, times=None)
        with pytest.raises(StoreError, match="as fast as they are stored") as caught:
            bench.beside(store, bench.home / "cache").take()
    assert caught.value.code == 13
    assert len(bench.open().snapshots()) == 1


@pytest.mark.parametrize("cache", [True, False])
def test_what_lies_in_condemned_packs_is_stored_again(bench: Bench, cache: bool) -> None:
    """In another pack, although it is the same content; also chunks of which the list lies elsewhere."""
    first = bench.take()
    old = packs(bench.store)
    condemn(bench.store, *old)
    second = bench.take(cache=cache)
    assert second.packs > 0
    assert not set(old) & (set(packs(bench.store)) - set(old))
    check_whole(bench, second)
    assert bench.image(second) == bench.image(first)
    for name in old:
        bench.store.delete(name)
    check_against_source(bench, second)
    assert bench.take().packs == 0


@pytest.mark.parametrize("cache", [True, False])
def test_chunks_in_a_condemned_pack_are_missed_though_their_list_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: bool
) -> None:
    """Of the only file, so that its list is all that its segment asks for."""
    bench = Bench(tmp_path, chunker=SMALL_CHUNKS)
    bench.write("large", secrets.token_bytes(80_000))
    for module in ("packer", "treewriter"):
        monkeypatch.setattr(f"drkit.repo.{module}.PACK_TARGET", 20_000)
    monkeypatch.setattr("drkit.repo.packer.FRAME_TARGET", 5_000)
    monkeypatch.setattr("drkit.repo.treewriter.SMALL_BACKUP", 1)
    bench.take()
    found = load_index(bench.store).index.packs
    data_only = [pack for pack, table in found.items() if not any(table.table.kinds)]
    assert len(data_only) > 1
    for pack in data_only:
        condemn(bench.store, f"packs/{pack.hex()[:2]}/{pack.hex()}.zst")
    report = bench.take(cache=cache)
    check_whole(bench, report)
    for pack in data_only:
        bench.store.delete(f"packs/{pack.hex()[:2]}/{pack.hex()}.zst")
    check_against_source(bench, report)


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b'{"packs":["12"]}', b'{"packs":[7]}', b"\xff"])
def test_a_prune_record_that_cannot_be_read_stops_the_backup(bench: Bench, data: bytes) -> None:
    bench.take()
    bench.store.put("prunes/odd", data)
    before = dict(stored_packs(bench.store))
    bench.write("new", b"x")
    with pytest.raises(FormatError, match="prunes/odd") as caught:
        bench.take()
    assert "drkit repair" in caught.value.hint
    assert dict(stored_packs(bench.store)) == before
    assert len(bench.open().snapshots()) == 1
    assert locks(bench.store) == []
