"""A repository with parity: each pack has its own, and one store alone heals what a disk does to it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drkit.copy import copy
from drkit.errors import NoSpace, StoreCorrupt
from drkit.format import parity
from drkit.format.settings import ParitySettings
from drkit.format.snapshot import parse_name
from drkit.model import Level
from drkit.progress import NullProgress
from drkit.repo.names import pack_name
from drkit.repo.parity import heal, parity_name
from drkit.store import MemoryStore
from drkit.store.base import ObjectInfo
from tests.support.faults import FaultyStore
from tests.support.protecting import PACK, assert_whole, change, filled, findings, parities, protected, with_parity
from tests.support.repairing import repaired
from tests.support.repos import Bench, contents, names, pack_ids


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return filled(tmp_path, monkeypatch)


def test_each_pack_has_parity_of_the_promised_size(bench: Bench) -> None:
    assert len(pack_ids(bench.store)) > 5
    assert_whole(bench, bench.store)
    for pack in pack_ids(bench.store):
        size = bench.store.stat(pack_name(pack)).size
        spare = bench.store.stat(parity_name(pack)).size
        assert 2 * min(size, size / 8) <= spare <= 2 * min(size, size / 8 + 4096) + size / 80 + 1000


def test_a_repository_without_parity_has_none(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.plugin("a")
    bench.back_up()
    assert names(bench.store, "parity/") == []
    assert b"parity" not in bench.store.get("drkit.json")
    assert findings(bench.store) == []


@pytest.mark.parametrize("damage", ["flips", "a stretch", "the end", "the beginning"])
def test_damage_heals_without_any_copy(bench: Bench, damage: str) -> None:
    """Every pack at once; what was bad lies in quarantine."""
    before = {name: bench.store.get(name) for name in names(bench.store, "packs/")}
    for number, name in enumerate(before):
        size = len(before[name])
        if damage == "flips":
            change(bench.store, name, number, size - 1 - number)
        elif damage == "a stretch":
            change(bench.store, name, *range(size // 2, min(size // 2 + 4000, size)))
        elif damage == "the end":
            change(bench.store, name, cut=min(4000, size))
        else:
            change(bench.store, name, *range(min(4000, size)))
    bad = {name: bench.store.get(name) for name in before}
    assert {one.code for one in findings(bench.store)} & {"pack-damaged", "pack-size"}
    planned = repaired(bench, dry_run=True)
    assert {name: bench.store.get(name) for name in before} == bad
    report = repaired(bench)
    assert report.ok
    assert planned.healed == report.healed
    assert {one.object for one in report.healed} == set(before)
    assert all(one.source.startswith("parity/") for one in report.healed)
    assert report.rescued == 0
    assert {name: bench.store.get(name) for name in before} == before
    assert {name.split("/", 2)[2]: bench.store.get(name) for name in report.quarantined} == bad
    assert_whole(bench, bench.store)
    assert repaired(bench).healed == ()


@pytest.mark.parametrize("damage", ["flips", "the end"])
def test_a_damaged_pack_is_read_from_its_parity_without_any_repair(bench: Bench, damage: str) -> None:
    """From a disk that cannot be written any more, too: verify names the packs, but no path that is lost."""
    bad = names(bench.store, "packs/")
    for name in bad:
        size = bench.store.stat(name).size
        change(bench.store, name, *(range(0, size, size) if damage == "flips" else ()), cut=500 * (damage != "flips"))
    if damage == "the end":
        for name in names(bench.store, "index/"):
            bench.store.delete(name)
    before = [bench.store.get(name) for name in names(bench.store, "")]
    repo = bench.repo
    for ref in repo.snapshots():
        assert contents(repo, repo.load(ref)).items() <= bench.files().items()
    assert contents(repo) == bench.files()
    found = findings(bench.store)
    assert {one.object for one in found} == set(bad)
    assert {one.code for one in found} <= {"pack-damaged", "frame-damaged", "pack-size", "pack-table"}
    assert [bench.store.get(name) for name in names(bench.store, "")] == before


def test_parity_that_is_damaged_or_gone_is_told_and_made_anew(bench: Bench) -> None:
    spares = names(bench.store, "parity/")
    before = {name: bench.store.get(name) for name in spares}
    bench.store.delete(spares[0])
    change(bench.store, spares[1], 5000)
    change(bench.store, spares[2], cut=100)
    assert findings(bench.store, Level.PACKS) == []
    found = findings(bench.store)
    assert {one.object for one in found} == set(spares[:3])
    assert {one.code for one in found} == {"parity-damaged"}
    assert all("drkit repair" in one.repair for one in found)
    planned = repaired(bench, dry_run=True)
    assert {one.object for one in findings(bench.store)} == set(spares[:3])
    report = repaired(bench)
    assert report.ok
    assert report.healed == planned.healed
    assert {one.object for one in report.healed} == set(spares[:3])
    assert {name: bench.store.get(name) for name in spares} == before
    assert len(report.quarantined) == 2


def test_a_pack_and_its_parity_may_both_be_damaged(bench: Bench) -> None:
    for pack in pack_ids(bench.store):
        change(bench.store, pack_name(pack), 10)
        change(bench.store, parity_name(pack), 20)  # in its header
    report = repaired(bench)
    assert report.ok
    assert len(report.healed) == 2 * len(pack_ids(bench.store))
    assert_whole(bench, bench.store)


def test_what_parity_does_not_heal_comes_from_a_copy_or_its_parity(bench: Bench) -> None:
    """One pack is too far gone here; in the copy it is damaged, too, but no more than its parity heals."""
    second = MemoryStore("second")
    copy(bench.repo, second, progress=NullProgress(), now=lambda: bench.now)
    assert_whole(bench, second)
    first, other, *_ = sorted(pack_ids(bench.store), key=lambda pack: -bench.store.stat(pack_name(pack)).size)
    for pack in (first, other):
        change(bench.store, pack_name(pack), *range(0, PACK, 1000))
    change(second, pack_name(first), 100, 5000)
    report = repaired(bench, second)
    assert report.ok
    sources = {one.object: one.source for one in report.healed}
    assert sources == {pack_name(first): f"the parity in {second.url}", pack_name(other): second.url}
    assert_whole(bench, bench.store)


def test_a_copy_of_a_damaged_store_is_whole(bench: Bench) -> None:
    """So that what lies on a dying disk, or a medium that cannot be written, comes to another place."""
    for name in (*names(bench.store, "packs/"), *names(bench.store, "snapshots/")):
        change(bench.store, name, 30)
    second = MemoryStore("second")
    report = copy(bench.repo, second, progress=NullProgress(), now=lambda: bench.now)
    assert (report.findings, report.left_out) == ((), ())
    assert_whole(bench, second)
    pack = max(pack_ids(bench.store), key=lambda pack: bench.store.stat(pack_name(pack)).size)
    change(bench.store, pack_name(pack), *range(0, PACK, 1000))
    third = MemoryStore("third")
    report = copy(bench.repo, third, progress=NullProgress(), now=lambda: bench.now)
    assert {one.object for one in report.findings} >= {pack_name(pack)}
    assert report.left_out


def test_a_repair_that_breaks_off_anywhere_goes_on(bench: Bench) -> None:
    pristine = {info.name: bench.store.get(info.name) for info in bench.store.list("")}
    packs = names(bench.store, "packs/")
    spares = [parity_name(pack) for pack in pack_ids(bench.store)]

    def damaged() -> MemoryStore:
        store = MemoryStore("first")
        for name, data in pristine.items():
            if name != spares[3]:
                store.put(name, data)
        for name in (packs[0], packs[1], spares[2], names(store, "snapshots/")[0]):
            change(store, name, 100)
        return store

    with FaultyStore(damaged()) as counted:
        assert repaired(bench, store=counted).ok
    writes = counted.calls["put"] + counted.calls["delete"]
    assert writes > 8
    for number in range(writes - 1):
        store = damaged()
        with FaultyStore(store) as faulty:
            faulty.fail(("put", "delete"), after=number, times=None, error=NoSpace("full"))
            with pytest.raises(NoSpace):
                repaired(bench, store=faulty)
        for name in names(store, "locks/"):
            store.delete(name)
        assert repaired(bench, store=store).ok
        assert_whole(bench, store)


def test_what_nothing_gives_back_is_named_and_no_parity_stays_behind(bench: Bench) -> None:
    pack = pack_ids(bench.store)[0]
    change(bench.store, pack_name(pack), *range(0, PACK, 1000))
    report = repaired(bench)
    assert not report.ok
    assert parities(bench.store) == protected(bench.store)
    assert pack not in parities(bench.store)
    assert {name.split("/")[2] for name in report.quarantined} >= {"packs", "parity"}
    bench.back_up()
    assert contents(bench.repo) == bench.files()
    assert parities(bench.store) == protected(bench.store)


def test_with_as_much_parity_as_data_a_pack_may_be_missing(tmp_path: Path) -> None:
    bench = with_parity(Bench(tmp_path), ParitySettings(3, 3))
    bench.write("a", random.Random(5).randbytes(50_000))
    bench.back_up()
    [pack] = pack_ids(bench.store)
    bench.store.delete(pack_name(pack))
    assert repaired(bench).ok
    assert contents(bench.repo) == bench.files()


class LossyStore:
    """A store that cannot read some stretches: a get of the whole fails, and each range that touches one of them."""

    def __init__(self, inner: MemoryStore, lost: dict[str, list[tuple[int, int]]]) -> None:
        self.inner = inner
        self.lost = lost
        self.asked = 0
        self.directory = b"/somewhere"
        self.url = inner.url

    def get(self, name: str) -> bytes:
        return self.get_range(name, 0, self.inner.stat(name).size)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self.asked += 1
        if any(start < offset + length and offset < end for start, end in self.lost.get(name, ())):
            raise StoreCorrupt(f"{name} does not read")
        return self.inner.get_range(name, offset, length)

    def stat(self, name: str) -> ObjectInfo:
        return self.inner.stat(name)


def test_only_the_stretch_that_does_not_read_is_lost(bench: Bench) -> None:
    """As of a disk with a bad sector, or an encrypted object with one chunk that does not authenticate."""
    pack = max(pack_ids(bench.store), key=lambda pack: bench.store.stat(pack_name(pack)).size)
    name = pack_name(pack)
    store = LossyStore(bench.store, {name: [(9000, 9100)], parity_name(pack): [(0, 50)]})  # type: ignore[arg-type]
    assert heal(store, name, pack) == bench.store.get(name)  # type: ignore[arg-type]
    assert store.asked < 40
    length = parity.decode(bench.store.get(parity_name(pack)))[0].length
    store.lost[name] = [(at, at + 1) for at in (0, length, 2 * length)]
    assert heal(store, name, pack) == b""  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_snapshot_is_read_from_its_parity_and_healed(bench: Bench, damage: str) -> None:
    refs = names(bench.store, "snapshots/")
    before = {name: bench.store.get(name) for name in refs}
    for name in refs:
        change(bench.store, name, *([40] if damage == "flip" else []), cut=(damage == "cut") * 30)
    assert contents(bench.repo) == bench.files()
    found = findings(bench.store)
    assert {one.object for one in found} == set(refs)
    assert {one.code for one in found} == {"snapshot-healable"}
    assert all("drkit repair" in one.repair for one in found)
    planned = repaired(bench, dry_run=True)
    report = repaired(bench)
    assert report.ok
    assert planned.ok
    assert planned.healed == report.healed
    assert {one.object for one in report.healed} == set(refs)
    assert {name: bench.store.get(name) for name in refs} == before
    assert len(report.quarantined) == len(refs)
    assert_whole(bench, bench.store)
    spare = parity_name(bytes.fromhex(parse_name(refs[0])[1]))
    bench.store.delete(spare)
    assert [one.object for one in findings(bench.store)] == [spare]
    assert [one.object for one in repaired(bench).healed] == [spare]
    assert_whole(bench, bench.store)
