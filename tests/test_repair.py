"""Repair: with a good copy everything comes back; without one, everything but what is named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drkit.copy import copy
from drkit.errors import IntegrityError, LockedError, NoSpace, RepositoryNotFound, StoreError, UsageError
from drkit.model import Kind, Level
from drkit.progress import NullProgress
from drkit.repo import BlobLost, Repository
from drkit.repo.lock import PruneLock, put_record, read_record
from drkit.repo.names import pack_name
from drkit.store import LocalStore, MemoryStore, Store
from drkit.verify import verify
from tests.support.faults import FaultyStore
from tests.support.pruning import keep_last, run_prune
from tests.support.repairing import repaired
from tests.support.repos import START, Bench, blobs_of, contents, names, pack_ids, small_packs


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    small_packs(monkeypatch)
    bench = Bench(tmp_path)
    for number in range(12):
        bench.plugin(f"plugins/p{number}")
    bench.back_up()
    bench.write("plugins/p3/new.md", random.Random(1).randbytes(3000))
    bench.back_up()
    return bench


@pytest.fixture
def second(bench: Bench) -> MemoryStore:
    target = MemoryStore("second")
    copy(bench.repo, target, progress=NullProgress(), now=lambda: bench.now)
    return target


def flip(store: Store, name: str, at: int | None = None) -> None:
    data = bytearray(store.get(name))
    data[len(data) // 2 if at is None else at] ^= 4
    store.put(name, data, overwrite=True)


def assert_whole(bench: Bench, store: Store) -> None:
    repo = Repository.open(store)
    report = verify(repo, repo.snapshots(), level=Level.CONTENT, every_pack=True, progress=NullProgress())
    assert report.findings == ()
    assert len(report.snapshots) == 2
    assert contents(repo) == bench.files()
    assert not repo.load_index().unindexed
    assert names(store, "locks/") == []


def test_nothing_is_written_where_nothing_is_wrong(bench: Bench, second: MemoryStore) -> None:
    before = list(bench.store.list(""))
    report = repaired(bench, second)
    assert report.ok
    assert (report.healed, report.quarantined, report.rescued, report.index_rebuilt) == ((), (), 0, False)
    assert report.packs_read == len(pack_ids(bench.store))
    assert list(bench.store.list("")) == before


@pytest.mark.parametrize("seed", range(8))
def test_random_flips_and_losses_heal_from_the_copy(bench: Bench, second: MemoryStore, seed: int) -> None:
    """A third of all objects is damaged, cut short or gone; what was there lies in quarantine."""
    chance = random.Random(seed)
    bad = {}
    for info in list(bench.store.list("")):
        fate = chance.randrange(9)
        data = bench.store.get(info.name)
        if fate == 0:
            flip(bench.store, info.name, chance.randrange(info.size))
        elif fate == 1:
            bench.store.put(info.name, data[: chance.randrange(info.size)], overwrite=True)
        elif fate == 2:
            bench.store.delete(info.name)
            continue
        if fate < 2 and not info.name.startswith("hints/"):  # which nobody needs
            bad[info.name] = bench.store.get(info.name)
    planned = repaired(bench, second, dry_run=True)
    report = repaired(bench, second)
    assert report.ok
    assert report.lost == ()
    assert {one.object for one in planned.healed} == {one.object for one in report.healed}
    assert_whole(bench, bench.store)
    kept = {name.split("/", 2)[2]: bench.store.get(name) for name in report.quarantined}
    assert {name: data for name, data in kept.items() if name in bad} == bad
    again = repaired(bench, second)
    assert (again.healed, again.quarantined, again.index_rebuilt) == ((), (), False)


def test_a_store_that_is_gone_comes_back_whole(bench: Bench, second: MemoryStore) -> None:
    empty = MemoryStore("empty")
    with pytest.raises(RepositoryNotFound):
        repaired(bench, store=empty)
    assert repaired(bench, second, store=empty).ok
    assert_whole(bench, empty)
    assert {info.name for info in empty.list("packs/")} == {info.name for info in second.list("packs/")}


def test_each_store_heals_the_other(bench: Bench, second: MemoryStore) -> None:
    """Both are damaged, in different places: neither has everything, together they do."""
    packs = names(second, "packs/")
    for number, name in enumerate(packs):
        flip(bench.store if number % 2 else second, name)
    assert repaired(bench, second).ok
    assert_whole(bench, bench.store)
    assert repaired(bench, bench.store, store=second).ok
    assert_whole(bench, second)


@pytest.mark.parametrize("damage", ["flip", "delete", "delete all that tells of them"])
def test_a_copy_with_packs_of_its_own_heals_too(bench: Bench, damage: str) -> None:
    """A second store that was backed up to for itself holds the same blobs in packs of its own."""
    other = MemoryStore("other")
    for name in ("drkit.json", "drkit-copy.json"):
        other.put(name, bench.store.get(name))
    own, bench.store = bench.store, other
    bench.back_up()
    bench.store = own
    bad = [pack_name(pack) for pack in pack_ids(own) if pack not in pack_ids(other)]
    assert bad
    for name in bad:
        if damage == "flip":
            flip(own, name, 20)
        else:
            own.delete(name)
    if damage == "delete all that tells of them":
        for name in names(own, "index/"):
            own.delete(name)
    report = repaired(bench, other)
    assert {one.source for one in report.healed} == {other.url}  # its packs come as they are
    assert bool(report.rescued) == (damage == "flip")  # and so does what is intact in those that are damaged
    repo = bench.repo
    newest = repo.snapshots()[-1]
    assert verify(repo, [newest], level=Level.CONTENT, every_pack=True, progress=NullProgress()).findings == ()
    assert contents(repo) == bench.files()


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
@pytest.mark.parametrize("packs", ["of data", "of all kinds"])
def test_without_a_copy_exactly_the_lost_paths_are_named(bench: Bench, damage: str, packs: str) -> None:
    """What can be read of damaged packs is stored anew, all else stays restorable, and the next backup mends it."""
    for pack in pack_ids(bench.store)[::2]:
        kinds = {kind for frame in blobs_of(bench.store, pack) for kind, _, _ in frame}
        if packs == "of data" and kinds != {Kind.DATA}:
            continue
        name = pack_name(pack)
        data = bench.store.get(name)
        if damage == "flip":
            flip(bench.store, name, 40)  # in the first frame: the middle may be the table
        elif damage == "cut":
            bench.store.put(name, data[: len(data) // 2], overwrite=True)
        else:
            bench.store.delete(name)
    readable = {ref.name: readable_paths(bench.repo, ref.name) for ref in bench.repo.snapshots()}
    report = repaired(bench)
    assert report.lost
    assert not report.ok
    repo = bench.repo
    for ref in repo.snapshots():
        after = readable_paths(repo, ref.name)
        assert after >= readable[ref.name]
        named = {
            one.object.removeprefix(f"{ref.name} ").encode()
            for one in report.lost
            if one.object.startswith(ref.name) and one.code == "file-lost"
        }
        assert not named & after
        if packs == "of data":
            assert named == set(bench.files()) - after - missing_then(bench, ref.name)
    assert all("quarantine/" in name for name in report.quarantined)
    assert bool(report.quarantined) == (damage != "delete")
    assert verify(repo, [], level=Level.CONTENT, every_pack=True, progress=NullProgress()).ok
    bench.back_up()
    assert contents(bench.repo) == bench.files()


def missing_then(bench: Bench, name: str) -> set[bytes]:
    """Paths that are newer than the first snapshot."""
    return {b"plugins/p3/new.md"} if name == bench.repo.snapshots()[0].name else set()


def readable_paths(repo: Repository, name: str) -> set[bytes]:
    found = set()
    reader = repo.reader()
    [ref] = [ref for ref in repo.snapshots() if ref.name == name]
    for segment in repo.segments(repo.load(ref)):
        for path, entry in zip(segment.paths, segment.entries, strict=True):
            try:
                if entry.type == "f":
                    b"".join(reader.content(entry, segment.places))
                    found.add(path)
            except BlobLost:
                continue
    return found


def test_a_wrong_index_is_written_anew(bench: Bench) -> None:
    for name in names(bench.store, "index/"):
        flip(bench.store, name)
    report = repaired(bench)
    assert report.ok
    assert report.index_rebuilt
    assert sorted(name.split("/")[2] for name in report.quarantined) == ["index"] * len(report.quarantined)
    assert_whole(bench, bench.store)


def test_a_repair_that_breaks_off_anywhere_goes_on(bench: Bench, second: MemoryStore) -> None:
    packs = names(second, "packs/")
    others = [*names(bench.store, "index/"), "drkit.json", names(second, "snapshots/")[0]]
    pristine = {info.name: bench.store.get(info.name) for info in bench.store.list("")}

    def damaged() -> MemoryStore:
        store = MemoryStore("first")
        for name, data in pristine.items():
            if name != packs[1]:
                store.put(name, data)
        for name in (packs[0], packs[2], *others):
            flip(store, name)
        return store

    with FaultyStore(damaged()) as counted:
        assert repaired(bench, second, store=counted).ok
    writes = counted.calls["put"] + counted.calls["delete"]
    for number in range(writes - 1):
        store = damaged()
        with FaultyStore(store) as faulty:
            faulty.fail(("put", "delete"), after=number, times=None, error=NoSpace("full"))
            with pytest.raises(NoSpace):
                repaired(bench, second, store=faulty)
        bad = {name: damaged().get(name) for name in (packs[0], packs[2], *others)}
        for name, data in bad.items():
            places = [one for one in names(store, "") if one.endswith(name)]  # its own, or in quarantine
            assert data in map(store.get, places), name
        for name in names(store, "locks/"):
            store.delete(name)
        assert repaired(bench, second, store=store).ok
        assert_whole(bench, store)
    assert writes > 8


def test_what_a_prune_has_joined_does_not_come_back(bench: Bench, second: MemoryStore) -> None:
    """A copy still has the packs as they were before: it has nothing that is not here."""
    assert run_prune(bench.store).packs_deleted
    assert not set(pack_ids(second)) & set(pack_ids(bench.store))
    before = list(bench.store.list(""))
    report = repaired(bench, second)
    assert (report.ok, report.healed, report.index_rebuilt) == (True, (), False)
    assert list(bench.store.list("")) == before
    assert_whole(bench, bench.store)


def test_what_comes_back_after_a_prune_goes_on_to_another_store(bench: Bench, second: MemoryStore) -> None:
    """The record of a prune lasts for a month: once, copies of such snapshots came without what it condemned."""
    keep_last(bench.store, 1)
    assert run_prune(bench.store).packs_deleted
    assert names(bench.store, "prunes/")
    assert repaired(bench, second).ok
    assert_whole(bench, bench.store)
    third = MemoryStore("third")
    report = copy(bench.repo, third, progress=NullProgress(), now=lambda: bench.now)
    assert (report.findings, len(report.snapshots)) == ((), 2)
    assert_whole(bench, third)
    run_prune(bench.store)
    assert_whole(bench, bench.store)


def test_the_record_of_a_prune_that_works_stays(bench: Bench, second: MemoryStore) -> None:
    """One that begins while packs are read goes on to delete what it condemned."""
    mine, record = pack_ids(bench.store), "prunes/" + "a" * 32
    lock = PruneLock(bench.store, lambda: bench.now)

    def begin() -> None:
        lock.__enter__()
        put_record(bench.store, record, mine)

    with FaultyStore(bench.store) as faulty:
        faulty.act("get", begin, prefix="packs/", times=1)
        repaired(bench, second, store=faulty)
    assert read_record(bench.store, record) == set(mine)
    lock.__exit__(None, None, None)


def test_refusals(bench: Bench, second: MemoryStore) -> None:
    other = MemoryStore("other")
    Repository.create(other, now=START)
    with pytest.raises(UsageError, match="another repository"):
        repaired(bench, other)
    with PruneLock(bench.store, lambda: bench.now), pytest.raises(LockedError):
        repaired(bench, second)
    for name in ("drkit.json", "drkit-copy.json"):
        flip(bench.store, name)
    with pytest.raises(IntegrityError):
        repaired(bench)


def test_a_store_that_refuses_keeps_what_it_had(bench: Bench, second: MemoryStore) -> None:
    name = names(second, "packs/")[0]
    flip(bench.store, name)
    bad = bench.store.get(name)
    with FaultyStore(bench.store) as faulty:
        faulty.fail("put", prefix="quarantine/", error=StoreError("not allowed"))
        with pytest.raises(StoreError, match="not allowed"):
            repaired(bench, second, store=faulty)
    assert bench.store.get(name) == bad


@pytest.mark.parametrize("fate", ["gone", "link"])
def test_files_that_are_no_files_any_more(tmp_path: Path, fate: str) -> None:
    bench = Bench(tmp_path, LocalStore(str(tmp_path / "repo")))
    bench.plugin("plugins/a")
    bench.back_up()
    bench.back_up()
    second = MemoryStore("second")
    copy(bench.repo, second, progress=NullProgress(), now=lambda: bench.now)
    for path in [*(tmp_path / "repo/packs").rglob("*.zst")][:1]:
        path.unlink()
        if fate == "link":
            path.symlink_to("/dev/null")
    assert repaired(bench, second).ok
    assert_whole(bench, bench.store)
