"""What a user in a hurry, a full disk and a medium that cannot be written do to stores, copies and repairs."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from pathlib import Path

import pytest

from drkit.copy import copy
from drkit.errors import FormatError, StoreCorrupt, StoreError, StoreUnavailable, UsageError
from drkit.progress import NullProgress
from drkit.repair import repair
from drkit.repo import Repository
from drkit.repo.lock import unlock
from drkit.store import LocalStore, MemoryStore, Store, open_store
from tests.support.cli import Cli
from tests.support.faults import FaultyStore
from tests.support.pruning import NOTHING_UNUSED, Ticks, check_all, keep_last, run_prune, utc_now
from tests.support.repos import Bench, contents, names, small_packs


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path, LocalStore(str(tmp_path / "repo")))
    made.plugin("plugins/a")
    made.back_up()
    return made


def copied(bench: Bench, target: Store) -> None:
    copy(bench.repo, target, progress=NullProgress(), now=utc_now)


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_store_by_another_name_is_no_copy(bench: Bench, tmp_path: Path) -> None:
    """It would count as a second one, and be lost with the first."""
    (tmp_path / "link").symlink_to(tmp_path / "repo")
    link = LocalStore(str(tmp_path / "link"))
    before = state(tmp_path / "repo")
    with pytest.raises(UsageError, match="the same store"):
        copied(bench, link)
    with pytest.raises(UsageError, match="the same store"):
        repair(link, [bench.store], progress=NullProgress(), now=utc_now)
    assert state(tmp_path / "repo") == before


def test_a_repair_makes_no_repository_among_somebodys_files(bench: Bench, tmp_path: Path) -> None:
    """The source in the place of the repository: one word in the wrong place."""
    before = state(bench.source)
    with pytest.raises(UsageError, match="other files, among them plugins"):
        repair(LocalStore(str(bench.source)), [bench.store], progress=NullProgress(), now=utc_now)
    assert state(bench.source) == before
    # What is left of a repository is none of that.
    lost = tmp_path / "lost"
    for folder in ("inventory", "prunes", "quarantine", "hints"):
        (lost / folder).mkdir(parents=True)
    assert repair(LocalStore(str(lost)), [bench.store], progress=NullProgress(), now=utc_now).ok
    assert contents(Repository.open(LocalStore(str(lost)))) == bench.files()


def test_a_store_that_does_not_answer_is_not_taken_for_an_empty_one(bench: Bench) -> None:
    """Its settings are lost, and it falls silent: nothing is put in their place."""
    target = MemoryStore("target")
    copied(bench, target)
    for name in ("drkit.json", "drkit-copy.json"):
        target.delete(name)
    before = list(target.list(""))
    with FaultyStore(target) as faulty:
        faulty.fail("list", error=StoreUnavailable("no answer"), times=None)
        with pytest.raises(StoreUnavailable):
            copied(bench, faulty)
    assert list(target.list("")) == before


def test_a_file_that_is_no_database_stays_what_it_is(bench: Bench, tmp_path: Path) -> None:
    place = tmp_path / "letter.txt"
    place.write_bytes(b"Dear Sir or Madam, " * 500)
    with pytest.raises(StoreError, match="not a database"):
        copied(bench, open_store(f"libsql-file:{place}"))
    assert place.read_bytes() == b"Dear Sir or Madam, " * 500


def test_a_database_on_a_medium_that_cannot_be_written_is_read(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk in the cupboard, with its write lock on."""
    target = open_store(f"libsql-file:{tmp_path}/offsite.db")
    copied(bench, target)
    target.close()
    place = tmp_path / "offsite.db"
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    before = state(tmp_path)
    still = open_store(f"libsql-file:{place}")
    assert contents(Repository.open(still)) == bench.files()
    report = repair(MemoryStore("new"), [still], progress=NullProgress(), now=utc_now)
    assert report.ok
    with pytest.raises(StoreError, match="cannot be written"):
        copied(bench, still)
    still.close()
    assert state(tmp_path) == before
    # What is in a log that nobody can bring into it would be missing.
    (tmp_path / "offsite.db-wal").write_bytes(b"log")
    with pytest.raises(StoreError, match="has a log beside it"):
        open_store(f"libsql-file:{place}").get("drkit.json")
    (tmp_path / "offsite.db-wal").unlink()
    place.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="not a database"):
        open_store(f"libsql-file:{place}").get("drkit.json")


def test_a_folder_in_the_place_of_an_object(bench: Bench, tmp_path: Path) -> None:
    """An empty one is healed over; one with something in it is somebody's, and stays."""
    copy_of = MemoryStore("copy")
    copied(bench, copy_of)
    pack, snapshot = (tmp_path / "repo" / names(copy_of, prefix)[0] for prefix in ("packs/", "snapshots/"))
    for place in (pack, snapshot):
        place.unlink()
        place.mkdir()
    (pack / "mine").touch()
    with pytest.raises(StoreError, match="a directory lies in the place of packs/"):
        repair(bench.store, [copy_of], progress=NullProgress(), now=utc_now)
    assert (pack / "mine").exists()
    (pack / "mine").unlink()
    assert repair(bench.store, [copy_of], progress=NullProgress(), now=utc_now).ok
    assert contents(bench.repo) == bench.files()


def test_damaged_locks_and_records_hold_up_nobody_for_ever(bench: Bench) -> None:
    """Whoever may write there can put them; a store may damage them."""
    store = MemoryStore("store")
    copied(bench, store)
    store.put("locks/backup-0000000000000000", b"forged")
    store.put("prunes/0000", b'{"packs":["%s"],"sha256":"%s"}' % (b"0" * 64, b"1" * 64))
    with FaultyStore(store) as faulty:
        faulty.fail("get", prefix="locks/backup-0000", error=StoreCorrupt("does not authenticate"), times=None)
        bench.store = faulty
        with pytest.raises(FormatError, match="its hash is wrong"):
            bench.back_up()
        report = repair(faulty, [], progress=NullProgress(), now=utc_now)
        assert [name.split("/", 2)[2] for name in report.quarantined] == ["prunes/0000"]
        bench.back_up()
        removed, left = unlock(faulty, utc_now)
        assert ([lock.owner for lock in left], removed) == ([""], [])
        assert len(unlock(faulty, utc_now, every=True)[0]) == 1
    assert names(store, "locks/") == []
    assert names(store, "prunes/") == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE chunks SET data = 'text'",
        "UPDATE chunks SET data = x''",
        "UPDATE chunks SET n = n + 7",
        "UPDATE objects SET modified = 'x', size = 'y'",
        "UPDATE objects SET chunk_size = 0",
        "UPDATE objects SET size = -5, chunks = 'z', sha256 = x'00'",
    ],
)
def test_a_database_with_other_things_in_its_columns_is_damaged_and_heals(
    bench: Bench, tmp_path: Path, damage: str
) -> None:
    place = tmp_path / "offsite.db"
    target = open_store(f"libsql-file:{place}")
    copied(bench, target)
    target.close()
    with contextlib.closing(sqlite3.connect(place)) as connection:
        connection.execute(f"{damage} WHERE name LIKE 'packs/%' OR name LIKE 'index/%' OR name LIKE 'snapshots/%'")
        connection.commit()
    target = open_store(f"libsql-file:{place}")
    try:
        assert len(names(target, "packs/")) == 1
        assert repair(target, [bench.store], progress=NullProgress(), now=utc_now).ok
        assert contents(check_all(target)) == bench.files()
    finally:
        target.close()


def test_rules_that_cannot_be_meant(bench: Bench, tmp_path: Path) -> None:
    """`--keep-tag "$TAG"` with an empty variable keeps nothing; it must not remove all the rest."""
    bench.back_up()
    cli = Cli(tmp_path, DRKIT_REPO=str(tmp_path / "repo"))
    snapshots = names(bench.store, "snapshots/")
    assert cli("forget", "--keep-tag", "").code == UsageError.code
    (tmp_path / "drkit.toml").write_text('[retention]\nkeep_tags = [""]\n')
    assert cli("--config", "drkit.toml", "forget").code == UsageError.code
    assert cli("prune", "--max-unused", "101%").code == UsageError.code
    assert names(bench.store, "snapshots/") == snapshots


@pytest.mark.parametrize("verb", ["get", "list"])
def test_a_prune_of_the_source_at_any_point_of_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """What it takes away is no damage, and what it wrote instead goes to the copy."""
    small_packs(monkeypatch)
    monkeypatch.setattr("drkit.retention.plan.SMALL_PACK", 500)
    bench = Bench(tmp_path, MemoryStore(clock=Ticks()))
    for turn in range(3):
        for number in range(turn, 24, turn + 1):
            bench.write(f"{number % 3}/{number}", random.Random(turn * 100 + number).randbytes(300))
        bench.back_up()
    for after in range(40):
        store, target = MemoryStore("first", clock=Ticks()), MemoryStore("second", clock=Ticks())
        for name in names(bench.store, ""):
            store.put(name, bench.store.get(name))

        def give_back(store: Store = store) -> None:
            keep_last(store, 1)
            run_prune(store, NOTHING_UNUSED)

        disturbed = FaultyStore(store)
        disturbed.act(verb, give_back, after=after)
        report = copy(Repository.open(disturbed), target, progress=NullProgress(), now=utc_now)
        assert (report.findings, report.left_out) == ((), ())
        assert contents(check_all(target)) == bench.files()
        if disturbed.calls[verb] <= after:
            break
    assert after > 2
