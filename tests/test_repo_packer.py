"""Packs as they are written: within their limits whatever comes, checked before they are stored, stored once."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from drkit.errors import IntegrityError, NoSpace, StoreCorrupt
from drkit.format.limits import CHUNK_MAX, FRAME_MAX, FRAME_TARGET, MIB, PACK_MAX
from drkit.model import Kind, PackId
from drkit.repo import Repository
from drkit.repo import packer as packer_module
from drkit.repo.index import Index, load_index, read_pack_table
from drkit.repo.names import pack_name, put_hashed
from drkit.repo.packer import Packer
from drkit.store.memory import MemoryStore
from tests.support.faults import FaultyStore
from tests.support.repos import (
    START,
    Bench,
    blobs_of,
    contents,
    names,
    pack_ids,
    small_packs,
)


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    Repository.create(made, now=START)
    return made


def packer(
    store: MemoryStore | FaultyStore,
    *,
    level: int | None = 1,
    condemned: frozenset[PackId] = frozenset(),
    dry_run: bool = False,
) -> Packer:
    return Packer(store, Index, Repository.open(store).config, level=level, condemned=condemned, dry_run=dry_run)


def add(into: Packer, *blobs: bytes) -> None:
    for data in blobs:
        into.add(hashlib.sha256(data).digest(), data)


def sizes(store: MemoryStore) -> list[int]:
    return [info.size for info in store.list("packs/")]


def test_blobs_are_stored_once_and_found(store: MemoryStore) -> None:
    blobs = [b"%d" % number for number in range(100)]
    with packer(store) as into:
        add(into, *blobs[:50])
        assert into.has(hashlib.sha256(b"7").digest())
        assert not into.has(hashlib.sha256(b"70").digest())
        for data in blobs[50:]:
            into.add_chunk(hashlib.sha256(data).digest(), data)
        into.finish()
        assert into.bytes_added == sum(sizes(store))
        assert [pack.id for pack in into.new_packs] == pack_ids(store)
        assert into.index.packs == load_index(store).index.packs
    stored = [data for pack in pack_ids(store) for frame in blobs_of(store, pack) for _, _, data in frame]
    assert sorted(stored) == sorted(blobs)


def test_nothing_added_writes_nothing(store: MemoryStore) -> None:
    before = names(store, "")
    with packer(store) as into:
        into.finish()
    assert names(store, "") == before


def test_a_dry_run_counts_and_writes_nothing(store: MemoryStore) -> None:
    before = names(store, "")
    with packer(store, dry_run=True) as into:
        add(into, b"one", b"two")
        into.finish()
        assert into.bytes_added > 0
        assert len(into.new_packs) == 1
    assert names(store, "") == before


def test_a_blob_that_changes_in_memory_is_not_stored(store: MemoryStore) -> None:
    before = names(store, "")
    with packer(store) as into:
        into.add(hashlib.sha256(b"read").digest(), b"rEad")
        with pytest.raises(IntegrityError, match="changed in memory") as caught:
            into.finish()
    assert "memory" in caught.value.hint
    assert names(store, "") == before


def test_a_full_store_stops_the_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_packs(monkeypatch)
    bench = Bench(tmp_path)
    bench.plugin("p", 30)
    with FaultyStore(bench.store) as faulty:
        faulty.fail("put", prefix="packs/", after=1, error=NoSpace("full"))
        full = bench.store
        bench.store = faulty
        with pytest.raises(NoSpace):
            bench.back_up()
        bench.store = full
    assert names(full, "snapshots/") == names(full, "locks/") == []
    assert len(pack_ids(full)) >= 1
    before = set(pack_ids(full))
    bench.back_up()
    assert before < set(pack_ids(full))  # what was stored is used
    assert contents(bench.repo) == bench.files()
    stored = [blob for pack in pack_ids(full) for frame in blobs_of(full, pack) for kind, blob, _ in frame if kind != 3]
    assert len(stored) == len(set(stored))


# Limits


def test_tiny_blobs_fill_packs_with_their_tables(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million files of a few bytes each: ids cannot be compressed, and count."""
    monkeypatch.setattr("drkit.repo.packer.PACK_TARGET", 100_000)
    monkeypatch.setattr("drkit.repo.packer.FRAME_BLOBS", 200)
    with packer(store) as into:
        add(into, *(b"%d" % number for number in range(20_000)))
        into.finish()
    assert max(sizes(store)) < 200_000
    assert len(sizes(store)) > 4
    assert len(load_index(store).index) == 20_000
    assert all(len(frame) <= 200 for pack in pack_ids(store) for frame in blobs_of(store, pack))


def test_packs_of_the_largest_chunks(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames as large as they can become, and workers so slow that as many as can be are on their way."""
    make_frame = packer_module._make_frame

    one_by_one = threading.Lock()

    def slow(*args: Any) -> Any:
        with one_by_one:
            time.sleep(0.05)
            return make_frame(*args)

    monkeypatch.setattr(packer_module, "_make_frame", slow)
    noise = random.Random(3)
    chunks = [noise.randbytes(size) for size in [FRAME_TARGET - 1, CHUNK_MAX] * 14]
    with packer(store) as into:
        for data, blob_id in [(data, hashlib.sha256(data).digest()) for data in chunks]:
            into.add_chunk(blob_id, data)
        into.finish()
    assert sum(sizes(store)) > 80 * MIB
    assert max(sizes(store)) < PACK_MAX
    for pack_id in pack_ids(store):
        table = read_pack_table(store, pack_id, store.stat(pack_name(pack_id)).size)
        assert max(table.frame_sizes) <= FRAME_MAX


def test_metadata_is_split_over_packs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All segments come at the end, after data that was all in one open pack."""
    bench = Bench(tmp_path)
    for number in range(1500):
        bench.write(f"d{number // 100:02}/f{number:04}", b"%d" % number)
    bench.write("noise", random.Random(4).randbytes(50_000))
    small_packs(monkeypatch, pack=20_000, frame=10_000, meta=2000)
    bench.back_up()
    metadata = []
    for pack_id in pack_ids(bench.store):
        kinds = {kind for frame in blobs_of(bench.store, pack_id) for kind, _, _ in frame}
        assert kinds == {Kind.DATA} or Kind.DATA not in kinds
        if Kind.DATA not in kinds:
            metadata.append(bench.store.stat(pack_name(pack_id)).size)
    assert len(metadata) > 2
    assert max(metadata) < 50_000
    for name in names(bench.store, "index/"):
        bench.store.delete(name)
    assert contents(bench.repo) == bench.files()


# The same pack again


def fill(into: Packer) -> PackId:
    with into:
        add(into, b"the same", b"content")
        into.finish()
        return into.new_packs[0].id


def test_the_same_pack_again_is_kept_unless_it_is_damaged(store: MemoryStore) -> None:
    pack_id = fill(packer(store))
    good = store.get(pack_name(pack_id))
    with FaultyStore(store) as watched:
        assert fill(packer(watched)) == pack_id
        assert watched.calls["put"] == 1  # refused, as it is there
    store.put(pack_name(pack_id), good[:-1] + b"\0", overwrite=True)
    assert fill(packer(store)) == pack_id
    assert store.get(pack_name(pack_id)) == good


def test_an_object_that_cannot_be_read_back_is_written_anew(store: MemoryStore) -> None:
    store.put("packs/x", b"old")
    with FaultyStore(store) as faulty:
        faulty.fail("get", error=StoreCorrupt("input/output error"))
        put_hashed(faulty, "packs/x", b"new")
    assert store.get("packs/x") == b"new"


def test_a_condemned_pack_is_never_written_again(store: MemoryStore) -> None:
    """A prune deletes it by name, whoever wrote it last."""
    pack_id = fill(packer(store))
    other = fill(packer(store, condemned=frozenset([pack_id])))
    assert other != pack_id
    assert sorted(pack_ids(store)) == sorted([pack_id, other])
    blobs = {data for frame in blobs_of(store, other) for kind, _, data in frame if kind == Kind.DATA}
    assert blobs == {b"the same", b"content"}
    assert load_index(store, without=frozenset([pack_id])).findings == []
