"""Hints: contents are found without the index, and with it where hints are wrong, outdated or not there."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from drkit.errors import FormatError, StoreCorrupt
from drkit.format import hints
from drkit.model import Kind, PackId, Place, Root, Snapshot
from drkit.repo import BlobLost, Repository
from drkit.repo.index import load_index
from drkit.repo.names import pack_name
from drkit.store.base import ObjectInfo
from drkit.store.memory import MemoryStore
from tests.support.faults import FaultyStore
from tests.support.repos import (
    TINY_CHUNKS,
    Bench,
    Blob,
    blobs_of,
    contents,
    latest,
    names,
    pack_ids,
    put_pack,
    repack,
    small_packs,
)


class Watched(FaultyStore):
    """A store that keeps account of which objects were read, and how often the packs were listed."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.read: list[str] = []
        self.listed: list[str] = []

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        self.listed.append(prefix)
        return super().list(prefix, after=after)

    def get(self, name: str) -> bytes:
        self.read.append(name)
        return super().get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self.read.append(name)
        return super().get_range(name, offset, length)

    @property
    def index_loads(self) -> int:
        """How often the index was loaded: that lists the packs, and nothing else does."""
        return self.listed.count("packs/")

    @property
    def packs(self) -> set[str]:
        return {name for name in self.read if name.startswith("packs/")}


def watched(bench: Bench) -> tuple[Watched, Repository, Snapshot]:
    assert isinstance(bench.store, MemoryStore)
    store = Watched(bench.store)
    repo = Repository.open(store)
    snap = latest(repo)
    return store, repo, snap


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Eight plugins in many packs, a chunked file with a list of blobs, and two backups."""
    small_packs(monkeypatch)
    made = Bench(tmp_path, chunker=TINY_CHUNKS)
    for number in range(8):
        made.plugin(f"plugins/p{number}", 20)
    noise = random.Random(5)
    made.write("plugins/p3/big", noise.randbytes(60_000) + bytes(30_000) + b"tail")
    made.write("plugins/p3/middle", noise.randbytes(6_000))
    made.back_up()
    made.write("plugins/p3/skills/s0.md", b"changed")
    made.write("plugins/p3/big2", made.files()[b"plugins/p3/big"] + b"more")
    made.back_up()
    return made


@pytest.mark.parametrize("name", ["plugins/p3", "plugins/p5"])
def test_one_plugin_is_read_without_the_index(bench: Bench, name: str) -> None:
    store, repo, snap = watched(bench)
    assert repo.plugin(snap, name).name == name
    found = contents(repo, snap, below=name.encode())
    prefix = name.encode() + b"/"
    assert found == {path: data for path, data in bench.files().items() if path.startswith(prefix)}
    assert [name for name in store.read if name.startswith("index/")] == []
    assert store.index_loads == 0
    if name == "plugins/p5":  # which is small
        assert len(store.packs) < len(pack_ids(bench.store)) // 2
    lists = [entry for segment in repo.segments(snap) for entry in segment.entries if entry.lists]
    assert [entry.path for entry in lists] == ["plugins/p3/big", "plugins/p3/big2"]


def test_everything_is_read_without_the_index(bench: Bench) -> None:
    for name in names(bench.store, "index/"):
        bench.store.delete(name)
    store, repo, snap = watched(bench)
    assert contents(repo, snap) == bench.files()
    assert [row.name for row in repo.plugins(snap)] == [f"plugins/p{number}" for number in range(8)]
    assert store.index_loads == 0


def test_a_small_backup_is_read_without_the_index(tmp_path: Path) -> None:
    bench = Bench(tmp_path, chunker=TINY_CHUNKS)
    bench.plugin("p", 5)
    bench.write("big", random.Random(6).randbytes(50_000))
    bench.write("zeros", bytes(300_000))
    bench.back_up()
    assert len(pack_ids(bench.store)) == 1
    store, repo, snap = watched(bench)
    assert contents(repo, snap) == bench.files()
    assert store.index_loads == 0


def test_entries_have_places_for_all_their_blobs(bench: Bench) -> None:
    repo = bench.repo
    for segment in repo.segments(latest(repo)):
        for entry in segment.entries:
            named = entry.lists or entry.blobs or ((entry.sha256,) if entry.size else ())
            assert set(named) <= set(segment.places)
        for blob_id, place in segment.places.items():
            assert place == repo.index.find(bytes.fromhex(blob_id)) or place in repo.index.find_all(
                bytes.fromhex(blob_id)
            )


NEW: Blob = (Kind.DATA, hashlib.sha256(b"new").digest(), b"new")

# Wrong hints


def some_blob(bench: Bench) -> tuple[bytes, Place, bytes]:
    """Id, true place and content of a blob that stands neither first nor last in its frame."""
    index = load_index(bench.store).index
    for data in bench.files().values():
        blob_id = hashlib.sha256(data).digest()
        place = index.find(blob_id)
        if place is not None and place.offset and place.frame_offset:
            return blob_id, place, data
    raise AssertionError("there is no such blob")


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": 1},
        {"length": 1},
        {"offset": 2**32 - 1, "length": 2**32 - 1},
        {"frame_offset": 1},
        {"frame_offset": 2**32 - 1},
        {"frame_length": 5},
        {"frame_length": 1},
        {"frame_length": 2**32 - 1},
        {"pack": PackId(b"x" * 32)},
    ],
    ids=str,
)
def test_a_wrong_place_is_mended_by_the_index(bench: Bench, wrong: dict[str, int]) -> None:
    blob_id, place, data = some_blob(bench)
    store, repo, _ = watched(bench)
    reader = repo.reader()
    bad = replace(place, **wrong)
    assert reader.blob(blob_id.hex(), bad) == data
    assert store.index_loads == 1
    assert reader.blob(blob_id.hex(), bad) == data
    assert reader.blob(blob_id.hex(), place) == data
    assert reader.blob(blob_id.hex(), None) == data
    assert store.index_loads == 1


def test_a_place_of_another_frame(bench: Bench) -> None:
    blob_id, place, data = some_blob(bench)
    pack_id = next(pack_id for pack_id in pack_ids(bench.store) if pack_id != place.pack)
    _, other_id, other_data = blobs_of(bench.store, pack_id)[0][0]
    other = load_index(bench.store).index.find(other_id)
    assert bench.repo.reader().blob(blob_id.hex(), other) == data
    assert bench.repo.reader().blob(other_id.hex(), place) == other_data


def test_roots_with_wrong_or_no_places(bench: Bench) -> None:
    snap = latest(bench.repo)

    def moved(root: Root, **changes: object) -> Root:
        return Root(root.level, tuple(replace(child, **changes) for child in root.children))

    for changes in ({"frame_offset": 3}, {"pack": ""}, {"pack": "00" * 32}, {"offset": 7, "length": 0}):
        wrong = replace(
            snap, manifest=moved(snap.manifest, **changes), plugin_table=moved(snap.plugin_table, **changes)
        )
        assert contents(bench.repo, wrong) == bench.files()
        assert len(list(bench.repo.plugins(wrong))) == 8


def garbled(how: str) -> object:
    """A change of packs that leaves every blob as it is, and spoils the hints."""

    def change(content: list[list[Blob]]) -> list[list[Blob]]:
        return [[(kind, blob_id, spoil(data) if kind == Kind.HINTS else data) for kind, blob_id, data in frame]
                for frame in content]  # fmt: skip

    def spoil(data: bytes) -> bytes:
        if how == "zeros":
            return bytes(len(data))
        if how == "ones":
            return b"\xff" * len(data)
        if how == "none":
            return b""
        if how == "shuffled":
            packs, rows = int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little")
            head = 8 + 32 * packs
            columns = [data[head + 4 * rows * n : head + 4 * rows * (n + 1)] for n in range(5)]
            return data[:head] + columns[0] + columns[1] + columns[2] + columns[4] + columns[3]
        return data[:-1]

    return change


@pytest.mark.parametrize("how", ["zeros", "ones", "none", "short", "shuffled"])
def test_spoilt_hints_cost_only_the_index(bench: Bench, how: str) -> None:
    """The same blobs in new packs, as after a prune, and all hints wrong."""
    for pack_id in pack_ids(bench.store):
        repack(bench.store, pack_id, garbled(how))  # type: ignore[arg-type]
    store, repo, snap = watched(bench)
    assert contents(repo, snap) == bench.files()
    assert store.index_loads > 0


def test_hints_to_packs_that_a_prune_has_replaced(bench: Bench) -> None:
    """Every pack has another name now, so every hint but those within a pack is outdated."""
    before = set(pack_ids(bench.store))
    for pack_id in before:
        repack(bench.store, pack_id, lambda content: [[NEW], *content])
    assert before.isdisjoint(pack_ids(bench.store))
    assert contents(bench.repo) == bench.files()
    bench.write("and", b"a new backup on top of it")
    bench.back_up()
    assert contents(bench.repo) == bench.files()


# A prune while somebody reads


def test_a_missing_pack_makes_the_reader_load_the_index_once_more(bench: Bench) -> None:
    store, repo, snap = watched(bench)
    assert len(repo.index)  # loaded before the prune
    loads = store.index_loads
    reader = repo.reader()
    entries = [(entry, segment) for segment in repo.segments(snap) for entry in segment.entries if entry.size]
    for pack_id in pack_ids(bench.store):
        repack(bench.store, pack_id, lambda content: [[NEW], *content])
    for entry, segment in entries:
        data = b"".join(reader.content(entry, segment.places))
        assert hashlib.sha256(data).hexdigest() == entry.sha256
    assert store.index_loads == loads + 1  # one load more, for all files


def test_a_lost_blob_names_its_pack_and_is_not_looked_for_again_and_again(bench: Bench) -> None:
    store, repo, _ = watched(bench)
    reader = repo.reader()
    index = load_index(bench.store).index
    lost: list[bytes] = []
    for gone in pack_ids(bench.store):  # the first that has blobs which no other pack has
        ids = [blob_id for frame in blobs_of(bench.store, gone) for _, blob_id, _ in frame if blob_id]
        if lost := [blob_id for blob_id in ids if len(index.find_all(blob_id)) == 1]:
            break
    places = {blob_id: index.find(blob_id) for blob_id in lost}
    bench.store.delete(pack_name(gone))
    for blob_id in lost:
        with pytest.raises(BlobLost, match=f"{blob_id.hex()[:16]}.*{pack_name(gone)} is missing"):
            reader.blob(blob_id.hex(), places[blob_id])
        with pytest.raises(BlobLost, match="no pack holds it"):
            reader.blob(blob_id.hex(), None)
    assert store.index_loads == 2  # when a hint failed, and once anew


def test_damage_is_told_by_pack_and_frame(bench: Bench) -> None:
    blob_id, place, _ = some_blob(bench)
    name = pack_name(place.pack)
    data = bytearray(bench.store.get(name))
    data[place.frame_offset : place.frame_offset + place.frame_length] = bytes(place.frame_length)
    bench.store.put(name, data, overwrite=True)
    with pytest.raises(BlobLost, match=f"{name} is damaged in the frame at byte {place.frame_offset}") as caught:
        bench.repo.reader().blob(blob_id.hex(), place)
    assert caught.value.code == 20
    with FaultyStore(bench.store) as store:
        store.fail("get_range", prefix=name, error=StoreCorrupt("input/output error"), times=2)  # nor any part of it
        with pytest.raises(BlobLost, match="input/output error"):
            Repository.open(store).reader().blob(blob_id.hex(), place)


def test_blobs_before_the_damage_in_a_frame_are_kept(bench: Bench) -> None:
    store = bench.store
    parts = [random.Random(number).randbytes(200_000) for number in (1, 2, 3)]
    data = [(Kind.DATA, hashlib.sha256(part).digest(), part) for part in parts]
    pack_id = put_pack(store, [data])
    name = pack_name(pack_id)
    damaged = bytearray(store.get(name))
    damaged[300_000] ^= 1
    store.put(name, damaged, overwrite=True)
    reader = bench.repo.reader()
    assert reader.blob(data[0][1].hex(), None) == data[0][2]
    assert reader.blob(data[2][1].hex(), None) == data[2][2]
    with pytest.raises(BlobLost):
        reader.blob(data[1][1].hex(), None)


def test_another_copy_is_found_when_one_is_damaged(bench: Bench) -> None:
    blob_id, place, data = some_blob(bench)
    copy = put_pack(bench.store, [[(Kind.DATA, blob_id, data)]])
    assert {found.pack for found in load_index(bench.store).index.find_all(blob_id)} == {place.pack, copy}
    bench.store.put(pack_name(place.pack), bytes(bench.store.stat(pack_name(place.pack)).size), overwrite=True)
    assert bench.repo.reader().blob(blob_id.hex(), place) == data


def test_a_list_of_blobs_that_is_cut_off_is_lost(bench: Bench) -> None:
    entry, segment = next(
        (entry, segment)
        for segment in bench.repo.segments(latest(bench.repo))
        for entry in segment.entries
        if entry.lists
    )
    reader = bench.repo.reader()
    ids = reader.blob(entry.lists[0], segment.places[entry.lists[0]])
    assert len(ids) % 32 == 0
    assert len(set(zip(*[iter(ids)] * 32, strict=True))) < len(ids) // 32  # the zeros are there more than once
    odd = hashlib.sha256(ids[:-5]).hexdigest()
    with pytest.raises(BlobLost):
        list(reader.content(replace(entry, lists=(odd,)), segment.places))
    with pytest.raises(FormatError):
        hints.decode(ids, PackId(bytes(32)))
