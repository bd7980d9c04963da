"""Hot functions of the format, with pytest-benchmark; with --benchmark-disable each runs once, as a test."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import pytest

from drkit.format import chunker, frames, hints, indexfile, manifest, nodes, treehash
from drkit.format.indexfile import IndexedPack, IndexObject
from drkit.format.limits import KIB, MIB
from drkit.format.pack import PackTable, encode_tail, read_table
from drkit.format.settings import ChunkerSettings
from drkit.model import Entry, Kind, PackId, Place
from drkit.repo.index import Index
from drkit.repo.packer import _make_frame

Benchmark = Callable[..., Any]
COUNT = 2000


def text(number: int) -> bytes:
    """A small file as plugins have them: a kibibyte of words that come again and again."""
    words = hashlib.shake_256(b"%d" % number).hexdigest(64)
    return f"# skill {number}\n\nUse this when {words[:40]}.\n".encode() * 8


BLOBS = [text(number) for number in range(COUNT)]
IDS = [hashlib.sha256(data).digest() for data in BLOBS]
ENTRIES = [
    Entry(
        path=f"plugins/p{number // 20:03}/skills/s{number % 20:02}.md",
        type="f",
        mode=0o644,
        uid=1000,
        gid=1000,
        mtime_ns=1_700_000_000_000_000_000 + number,
        size=len(BLOBS[number]),
        sha256=IDS[number].hex(),
    )
    for number in range(COUNT)
]
LINES = [manifest.encode_line(entry) for entry in ENTRIES]
SEGMENTS = [b"".join(LINES[at : at + 32]) for at in range(0, COUNT, 32)]
PLACES = [Place(PackId(b"p" * 32), number // 500 * 1000, 999, number % 500 * 700, 700) for number in range(COUNT)]


def table() -> PackTable:
    made = PackTable.empty()
    for at in range(0, COUNT, 500):
        rows = [(Kind.DATA, IDS[number], len(BLOBS[number])) for number in range(at, at + 500)]
        made.add(100_000, rows)
    return made


def packs(count: int = 10) -> list[IndexedPack]:
    """Packs of different blobs, as an index object has them."""
    found = []
    for number in range(count):
        short = indexfile.shorten(table())
        short.ids = bytearray(hashlib.shake_256(b"%d" % number).digest(len(short.ids)))
        found.append(IndexedPack(PackId(bytes([number]) * 32), 500_000, short))
    return found


def test_make_a_frame(benchmark: Benchmark) -> None:
    blobs = [(Kind.DATA, blob_id, data) for blob_id, data in zip(IDS, BLOBS, strict=True)]
    packed, rows = benchmark(_make_frame, blobs, 6)
    assert len(rows) == COUNT
    assert frames.decode(packed) == b"".join(BLOBS)


def test_decode_a_frame(benchmark: Benchmark) -> None:
    plain = b"".join(BLOBS)
    assert benchmark(frames.decode, frames.compressor(6).compress(plain), len(plain)) == plain


def test_encode_entries(benchmark: Benchmark) -> None:
    assert benchmark(lambda: [manifest.encode_line(entry) for entry in ENTRIES]) == LINES


def test_decode_and_check_segments(benchmark: Benchmark) -> None:
    def read() -> list[bytes]:
        checker = manifest.EntryChecker(partial=True)
        return [path for data in SEGMENTS for path in checker.check(manifest.decode_entries(data))]

    assert benchmark(read) == [entry.raw_path for entry in ENTRIES]


def test_ids_below_segments(benchmark: Benchmark) -> None:
    assert benchmark(manifest.child_ids, ENTRIES) == [blob_id.hex() for blob_id in IDS]


def test_where_segments_end(benchmark: Benchmark) -> None:
    paths = [entry.raw_path for entry in ENTRIES]
    ends = benchmark(lambda: sum(map(nodes.cuts_segment, paths)))
    assert 0 < ends < COUNT // 8


def test_tree_hash_rows(benchmark: Benchmark) -> None:
    paths = [entry.raw_path for entry in ENTRIES]

    def rows() -> str:
        digest = treehash.TreeHash()
        digest.add_rows(b"".join(map(treehash.row, paths, map(treehash.entry_tail, ENTRIES))))
        return digest.hexdigest()

    expected = treehash.TreeHash()
    for entry in ENTRIES:
        expected.add_entry(entry)
    assert benchmark(rows) == expected.hexdigest()


def test_hints(benchmark: Benchmark) -> None:
    own = PackId(b"o" * 32)
    assert benchmark(lambda: hints.decode(hints.encode(PLACES), own)) == PLACES


def test_write_and_read_a_packs_tables(benchmark: Benchmark) -> None:
    made = table()

    def both() -> PackTable:
        pack = bytes(400_000) + encode_tail(made)
        return read_table(len(pack), lambda offset, length: pack[offset : offset + length])

    assert benchmark(both) == made


def test_load_an_index(benchmark: Benchmark) -> None:
    data = indexfile.encode(IndexObject(tuple(packs())))

    def load() -> Index:
        index = Index()
        for pack in indexfile.decode(data).packs:
            index.add_pack(pack)
        return index

    assert len(benchmark(load)) == 10 * COUNT


@pytest.fixture(scope="module")
def index() -> Index:
    made = Index()
    for pack in packs():
        made.add_pack(pack)
    return made


def known(index: Index) -> list[bytes]:
    return [bytes(pack.table.ids[at : at + 16]) for pack in index.packs.values() for at in range(0, 16 * COUNT, 160)]


def test_look_up_places(benchmark: Benchmark, index: Index) -> None:
    keys = known(index)
    assert None not in benchmark(lambda: [index.find(key) for key in keys])


def test_look_up_whether_all_are_known(benchmark: Benchmark, index: Index) -> None:
    keys = b"".join(known(index))
    assert benchmark(index.has_all, keys)


def test_locate_packs(benchmark: Benchmark, index: Index) -> None:
    keys = known(index)
    found: set[PackId] = set()
    assert benchmark(index.locate, keys, found) == []
    assert len(found) == 10


def test_cut_a_large_file(benchmark: Benchmark) -> None:
    data = hashlib.shake_256(b"large").digest(8 * MIB)
    chunks = benchmark(lambda: list(chunker.cut(io.BytesIO(data), ChunkerSettings())))
    assert b"".join(chunks) == data
    assert min(map(len, chunks[:-1])) >= 256 * KIB
