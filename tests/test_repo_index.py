"""The index: always what the packs say, whatever became of the index objects, packs and prune records."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from drkit.errors import FormatError, StoreCorrupt, StoreError
from drkit.format.indexfile import IndexedPack
from drkit.format.limits import INDEX_LIVE
from drkit.model import IndexId, Kind, Level, PackId
from drkit.progress import NullProgress
from drkit.repo.index import Index, LoadedIndex, load_index, read_pack_table, write_index
from drkit.repo.lock import condemned_packs
from drkit.repo.names import index_id_of, index_name, pack_id_of, pack_name
from drkit.store.memory import MemoryStore
from drkit.verify import verify
from tests.support.faults import FaultyStore
from tests.support.repos import Bench, blobs_of, contents, names, pack_ids, put_pack, small_packs


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Three plugins in many packs."""
    small_packs(monkeypatch)
    made = Bench(tmp_path)
    for name in ("alpha", "beta", "gamma"):
        made.plugin(name, 30)
    made.back_up()
    return made


def codes(loaded: LoadedIndex) -> list[tuple[str, str]]:
    return [(finding.code, finding.object) for finding in loaded.findings]


def rows(index: Index) -> dict[PackId, IndexedPack]:
    return index.packs


def test_each_row_is_where_the_blob_is(bench: Bench) -> None:
    loaded = load_index(bench.store)
    assert not loaded.findings
    assert not loaded.unindexed
    assert list(map(index_name, loaded.objects)) == names(bench.store, "index/")
    assert sorted(loaded.index.packs) == pack_ids(bench.store)
    assert len(loaded.index.packs) >= 5
    count = 0
    for pack_id in pack_ids(bench.store):
        table = read_pack_table(bench.store, pack_id, bench.store.stat(pack_name(pack_id)).size)
        offsets = list(table.offsets())
        for frame, kind, blob_id, offset, length in table.rows():
            if kind != Kind.HINTS:
                count += 1
                place = loaded.index.find(blob_id)
                assert place is not None
                assert place.pack == pack_id
                assert (place.frame_offset, place.frame_length) == offsets[frame][:2]
                assert (place.offset, place.length) == (offset, length)
                assert loaded.index.find_all(blob_id) == [place]
                assert blob_id in loaded.index
    assert count == len(loaded.index)
    assert loaded.index.find(bytes(32)) is None
    assert loaded.index.find_all(bytes(32)) == []
    assert bytes(32) not in loaded.index


def test_the_index_rebuilt_from_packs_has_the_same_rows(bench: Bench) -> None:
    before = rows(load_index(bench.store).index)
    for name in names(bench.store, "index/"):
        bench.store.delete(name)
    loaded = load_index(bench.store)
    assert rows(loaded.index) == before
    assert sorted(loaded.unindexed) == sorted(before)
    assert not loaded.findings
    assert contents(bench.repo) == bench.files()


def test_the_next_backup_writes_the_lost_index_anew(bench: Bench) -> None:
    before = rows(load_index(bench.store).index)
    for name in names(bench.store, "index/"):
        bench.store.delete(name)
    bench.write("new", b"new content")
    bench.back_up()
    loaded = load_index(bench.store)
    assert not loaded.unindexed
    assert not loaded.findings
    assert before.items() < rows(loaded.index).items()


def test_lookups_of_many(bench: Bench) -> None:
    index = load_index(bench.store).index
    here, there = pack_ids(bench.store)[:2]
    known = [blob for pack in (here, there) for frame in blobs_of(bench.store, pack) for _, blob, _ in frame if blob]
    packs: set[PackId] = set()
    assert index.locate([*known, b"?" * 32], packs) == [b"?" * 32]
    assert packs == {here, there}
    assert index.has_all(b"".join(blob[:16] for blob in known))
    assert index.has_all(b"")
    assert not index.has_all(known[0][:16] + b"?" * 16)


def test_a_blob_in_two_packs_has_two_places() -> None:
    store = MemoryStore()
    one = (Kind.DATA, b"1" * 32, b"one")
    first = put_pack(store, [[one]])
    second = put_pack(store, [[(Kind.DATA, b"2" * 32, b"two"), one]])
    for order in ((first, second), (second, first)):
        index = Index()
        for pack_id in (*order, *order):
            index.add_pack(load_index(store).index.packs[pack_id])
        assert [place.pack for place in index.find_all(b"1" * 32)] == list(order)
        assert index.find(b"1" * 32) == index.find_all(b"1" * 32)[0]
        assert len(index) == 2


# Superseding and merging


def some_packs(store: MemoryStore, count: int) -> list[IndexedPack]:
    for number in range(count):
        put_pack(store, [[(Kind.DATA, bytes([number]) * 32, b"%d" % number)]])
    return list(load_index(store).index.packs.values())


@pytest.mark.parametrize("coarse", [False, True])
def test_superseded_objects_count_for_nothing(coarse: bool) -> None:
    ticks = iter(range(100))
    store = MemoryStore(clock=lambda: 0.0 if coarse else float(next(ticks)))
    packs = some_packs(store, 3)
    gone = IndexedPack(PackId(b"g" * 32), 99, packs[0].table)
    (old,), _ = write_index(store, [packs[0], gone])
    (middle,), _ = write_index(store, packs[1:2], (old,))
    assert codes(load_index(store)) == []
    (new,), size = write_index(store, packs, (old, middle))
    assert size == store.stat(index_name(new)).size
    watched = FaultyStore(store)
    loaded = load_index(watched)
    assert loaded.objects == [new]
    assert codes(loaded) == []
    assert rows(loaded.index) == {pack.id: pack for pack in packs}
    if not coarse:
        assert watched.calls["get"] == 1  # what is superseded is not even read
    store.delete(index_name(new))
    assert codes(load_index(store)) == []  # what superseded counts still
    store.delete(index_name(middle))
    assert codes(load_index(store)) == [("pack-missing", pack_name(gone.id))]


def test_a_merge_is_split_and_its_last_part_supersedes(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(clock=iter(map(float, range(100))).__next__)
    packs = some_packs(store, 5)
    expected = {pack.id: pack for pack in packs}
    old = [write_index(store, [pack])[0][0] for pack in packs]
    monkeypatch.setattr("drkit.repo.index.INDEX_MERGED", 40)  # two packs
    written, _ = write_index(store, packs, tuple(old))
    assert len(written) == 3
    assert sorted(load_index(store).objects) == sorted(written)
    assert rows(load_index(store).index) == expected
    store.delete(index_name(written[-1]))  # killed before the last part was there: the old ones stay live
    assert sorted(load_index(store).objects) == sorted([*old, *written[:-1]])
    assert rows(load_index(store).index) == expected


def test_a_part_that_comes_out_as_an_old_object_stays_live(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(clock=iter(map(float, range(100))).__next__)
    packs = some_packs(store, 3)
    old = [write_index(store, [pack])[0][0] for pack in packs]
    monkeypatch.setattr("drkit.repo.index.INDEX_MERGED", 1)
    written, _ = write_index(store, packs, tuple(old))
    assert written[:2] == old[:2]
    assert sorted(load_index(store).objects) == sorted(written)
    assert load_index(store).unindexed == []


def test_many_index_objects_are_merged(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    most = 0
    for number in range(INDEX_LIVE + 3):
        bench.write(f"f{number:03}", b"%d" % number)
        bench.back_up()
        loaded = load_index(bench.store)
        most = max(most, len(loaded.objects))
        assert not loaded.findings
        assert not loaded.unindexed
    assert most == INDEX_LIVE
    assert len(loaded.objects) == 3
    assert len(names(bench.store, "index/")) == INDEX_LIVE + 3  # deleting is left to prune
    assert contents(bench.repo) == bench.files()
    for pack_id in pack_ids(bench.store):
        assert pack_id in loaded.index.packs


def test_what_was_merged_stays_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second merge supersedes the first one, whose own list nobody reads any more."""
    monkeypatch.setattr("drkit.backup.commit.INDEX_LIVE", 4)
    bench = Bench(tmp_path)
    live = []
    for number in range(17):
        bench.write(f"f{number:03}", b"%d" % number)
        bench.back_up()
        live.append(len(load_index(bench.store).objects))
    assert live == [1, 2, 3, 4] + [1, 2, 3, 4] * 3 + [1]
    assert contents(bench.repo) == bench.files()


# Damage


def flip(store: MemoryStore | FaultyStore, name: str, at: int = -1) -> None:
    data = bytearray(store.get(name))
    data[at] ^= 1
    store.put(name, data, overwrite=True)


def test_a_damaged_index_object_costs_nothing_and_is_replaced(bench: Bench) -> None:
    before = rows(load_index(bench.store).index)
    (name,) = names(bench.store, "index/")
    flip(bench.store, name)  # type: ignore[arg-type]
    loaded = load_index(bench.store)
    assert codes(loaded) == [("index-damaged", name)]
    assert rows(loaded.index) == before
    bench.write("new", b"new content")
    bench.back_up()
    loaded = load_index(bench.store)
    assert codes(loaded) == []
    assert not loaded.unindexed
    assert name not in map(index_name, loaded.objects)


def test_the_same_index_object_is_written_over_the_damaged_one(bench: Bench) -> None:
    (name,) = names(bench.store, "index/")
    packs = list(load_index(bench.store).index.packs.values())
    flip(bench.store, name)  # type: ignore[arg-type]
    assert write_index(bench.store, packs)[0] == [index_id_of(name)]
    assert codes(load_index(bench.store)) == []


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x28\xb5\x2f\xfd"])
def test_an_index_object_that_is_none(bench: Bench, junk: bytes) -> None:
    name = index_name(IndexId(hashlib.sha256(junk).digest()))
    bench.store.put(name, junk)
    bench.store.put("index/README", b"what is this?")
    loaded = load_index(bench.store)
    assert sorted(codes(loaded)) == sorted([("index-damaged", name), ("stray", "index/README")])
    assert not loaded.unindexed


def test_missing_and_cut_packs_are_absent(bench: Bench) -> None:
    cut, missing, whole = pack_ids(bench.store)[:3]
    lost = {blob for pack in (cut, missing) for frame in blobs_of(bench.store, pack) for _, blob, _ in frame if blob}
    data = bench.store.get(pack_name(cut))
    bench.store.put(pack_name(cut), data[:-1], overwrite=True)
    bench.store.delete(pack_name(missing))
    loaded = load_index(bench.store)
    assert sorted(codes(loaded)) == sorted([("pack-size", pack_name(cut)), ("pack-missing", pack_name(missing))])
    assert not any(blob in loaded.index for blob in lost)
    assert {cut, missing}.isdisjoint(loaded.index.packs)
    assert whole in loaded.index.packs
    bench.store.put("packs/README", b"what is this?")
    bench.back_up()  # what the source still has is stored again
    assert contents(bench.repo) == bench.files()
    assert lost <= {blob for blob in lost if blob in load_index(bench.store).index}


def test_an_unknown_pack_without_tables(bench: Bench) -> None:
    bench.store.put(pack_name(PackId(b"x" * 32)), b"no pack at all")
    loaded = load_index(bench.store)
    assert codes(loaded) == [("pack-damaged", pack_name(PackId(b"x" * 32)))]
    assert not loaded.unindexed


def test_bytes_that_the_store_cannot_read_are_findings_and_a_store_that_fails_is_none(bench: Bench) -> None:
    before = rows(load_index(bench.store).index)
    with FaultyStore(bench.store) as store:
        store.fail("get", prefix="index/", error=StoreCorrupt("input/output error"))
        store.fail("get_range", prefix="packs/", error=StoreCorrupt("input/output error"))
        loaded = load_index(store)
        assert [code for code, _ in codes(loaded)] == ["index-damaged", "pack-damaged"]
        assert len(loaded.index.packs) == len(before) - 1
    with FaultyStore(bench.store) as store:
        store.fail("get", prefix="index/", error=StoreError("no network"))
        with pytest.raises(StoreError, match="no network"):
            load_index(store)


def test_objects_that_vanish_after_they_were_listed(bench: Bench) -> None:
    (name,) = names(bench.store, "index/")
    gone = pack_ids(bench.store)[0]
    with FaultyStore(bench.store) as store:
        store.act("get", lambda: bench.store.delete(name), prefix="index/")
        store.act("get_range", lambda: bench.store.delete(pack_name(gone)), prefix=pack_name(gone))
        loaded = load_index(store)
    assert codes(loaded) == []
    assert set(pack_ids(bench.store)) == set(loaded.index.packs) == set(loaded.unindexed)


# Prune records


def condemn(bench: Bench, *packs: PackId, record: str = "prunes/1") -> None:
    listed = ",".join(f'"{pack.hex()}"' for pack in packs)
    bench.store.put(record, f'{{"packs":[{listed}],"later":1}}'.encode())


def test_condemned_packs_are_absent_for_a_writer(bench: Bench) -> None:
    old = pack_ids(bench.store)
    condemn(bench, *old[:2])
    condemn(bench, *old[2:], record="prunes/2")
    assert condemned_packs(bench.store) == {"prunes/1": frozenset(old[:2]), "prunes/2": frozenset(old[2:])}
    loaded = load_index(bench.store, without=frozenset(old))
    assert (len(loaded.index), codes(loaded)) == (0, [])
    bench.back_up()
    new = set(pack_ids(bench.store)) - set(old)
    assert new
    for pack_id in old:
        bench.store.delete(pack_name(pack_id))
    for name in names(bench.store, "index/"):
        bench.store.delete(name)
    assert contents(bench.repo) == bench.files()  # it stands on the new packs alone


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{}",
        b'{"packs":"all"}',
        b'{"packs":["00"]}',
        b'{"packs":["' + b"G" * 64 + b'"]}',
        b'{"packs":[' + b"[" * 100_000,
        b'\xff{"packs":[]}',
    ],
    ids=lambda record: record[:20].decode("latin-1"),
)
def test_an_unreadable_prune_record_stops_every_writer(bench: Bench, record: bytes) -> None:
    bench.store.put("prunes/1", record)
    before = names(bench.store, "")
    with pytest.raises(FormatError, match="prunes/1") as caught:
        bench.back_up()
    assert caught.value.code == 20
    assert "drkit repair" in caught.value.hint
    assert names(bench.store, "") == before
    assert contents(bench.repo) == bench.files()


def test_names() -> None:
    pack_id = PackId(bytes(range(32)))
    assert pack_name(pack_id) == "packs/00/000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f.zst"
    assert pack_id_of(pack_name(pack_id)) == pack_id
    assert index_id_of(index_name(IndexId(pack_id))) == IndexId(pack_id)
    digits = pack_id.hex()
    for name in (
        f"packs/01/{digits}.zst",
        f"packs/00/{digits}",
        f"packs/{digits}.zst",
        f"packs/00/{digits.upper()}.zst",
    ):
        assert pack_id_of(name) is None
    assert index_id_of(f"index/{digits[:-1]}.zst") is None


def test_a_snapshot_is_put_after_the_index_and_the_index_after_the_packs(tmp_path: Path) -> None:
    order: list[str] = []

    class Watched(MemoryStore):
        def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
            super().put(name, data, overwrite=overwrite)
            order.append(name.partition("/")[0])

    bench = Bench(tmp_path, Watched())
    bench.plugin("p", 5)
    order.clear()
    bench.back_up()
    assert order == ["locks", "packs", "index", "snapshots", "hints"]  # which nobody needs


def test_verify_finds_an_index_that_contradicts_its_packs(bench: Bench) -> None:
    """Index objects that hash to their names, and yet send readers to the wrong place."""
    packs = list(load_index(bench.store).index.packs.values())
    for name in names(bench.store, "index/"):
        bench.store.delete(name)
    assert verify_codes(bench) == []
    wrong = next(pack for pack in packs if len(set(pack.table.lengths[: pack.table.frame_blobs[0]])) > 1)
    first = wrong.table.lengths[: wrong.table.frame_blobs[0]]
    wrong.table.lengths[: len(first)] = first[::-1] if first != first[::-1] else first[1:] + first[:1]
    write_index(bench.store, packs)
    assert ("index-wrong", pack_name(wrong.id)) in verify_codes(bench)
    assert contents(bench.repo) == bench.files()  # the hints know better


def verify_codes(bench: Bench) -> list[tuple[str, str]]:
    repo = bench.repo
    report = verify(repo, repo.snapshots(), level=Level.CONTENT, every_pack=True, progress=NullProgress())
    return [(finding.code, finding.object) for finding in report.findings]
