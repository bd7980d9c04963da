"""What is encoded decodes to the same, for every codec of the format."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from array import array

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.errors import FormatError
from drkit.format import frames, hints, indexfile, manifest, nodes, snapshot, treehash
from drkit.format import settings as settings_format
from drkit.format.indexfile import IndexedPack, IndexObject
from drkit.format.limits import FRAME_MAX, SNAPSHOT_MAX
from drkit.format.pack import PackTable, encode_tail, read_table
from drkit.format.settings import ChunkerSettings, CompressionSettings, Settings
from drkit.model import Entry, FormatVersion, IndexId, Kind, PackId, Place, PluginRow, Root, Snapshot, sort_key
from tests.support import made

relaxed = settings(max_examples=60, deadline=None)
OWN = PackId(b"\x07" * 32)


@relaxed
@given(st.binary(min_size=1, max_size=5000), st.sampled_from([1, 3, 6, 19]))
def test_frames(data: bytes, level: int) -> None:
    packed = frames.compressor(level).compress(data)
    assert frames.decode(packed, len(data)) == data
    assert frames.decode(memoryview(packed)) == data
    assert frames.salvage(packed) == data
    header = zstandard.get_frame_parameters(packed)
    assert (header.content_size, header.has_checksum, header.dict_id) == (len(data), False, 0)


def test_the_largest_frame() -> None:
    packed = frames.compressor(3).compress(bytes(FRAME_MAX))
    assert len(frames.decode(packed)) == FRAME_MAX


@relaxed
@given(made.tables(), st.integers(0, 200))
def test_pack_tables(table: PackTable, guess: int) -> None:
    tail = encode_tail(table)
    body = bytes(sum(table.frame_lengths))
    asked: list[tuple[int, int]] = []

    def read(offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return (body + tail)[offset : offset + length]

    assert read_table(len(body) + len(tail), read) == table
    assert len(asked) <= 2
    assert list(zip(*table.offsets(), strict=True))[1:] == (
        [tuple(table.frame_lengths), tuple(table.frame_sizes)] if table.frame_lengths else []
    )


def test_a_table_larger_than_the_first_guess_takes_a_second_read() -> None:
    table = PackTable.empty()
    for number in range(4000):
        table.add(1, [(Kind.DATA, hashlib.sha256(b"%d" % number).digest(), 3)])
    pack = bytes(4000) + encode_tail(table)
    asked: list[int] = []

    def read(offset: int, length: int) -> bytes:
        asked.append(length)
        return pack[offset : offset + length]

    assert read_table(len(pack), read) == table
    assert len(asked) == 2
    assert [row[1:] for row in table.rows()][:1] == [(Kind.DATA, hashlib.sha256(b"0").digest(), 0, 3)]


@relaxed
@given(st.lists(st.none() | made.places(), max_size=20), st.sampled_from([PackId(b"\x01" * 32), OWN]))
def test_hints(places: list[Place | None], own: PackId) -> None:
    """Places in the pack itself are written as zeros, so that a pack's name can depend on its hints."""
    written = [
        Place(hints.SELF, place.frame_offset, place.frame_length, place.offset, place.length)
        if place is not None and place.pack == own
        else place
        for place in places
    ]
    data = hints.encode(written)
    assert bytes(own) not in data
    assert hints.decode(data, own) == places
    assert hints.decode_after(b"before" + data + b"behind", 6, own) == places


@relaxed
@given(made.manifests())
def test_manifest_lines(entries: list[Entry]) -> None:
    data = b"".join(map(manifest.encode_line, entries))
    decoded = manifest.decode_entries(data)
    assert decoded == entries
    paths = manifest.EntryChecker().check(decoded)
    assert paths == sorted({entry.raw_path for entry in entries}, key=sort_key)
    one_by_one = manifest.EntryChecker()
    assert [path for entry in decoded for path in one_by_one.check([entry])] == paths


@relaxed
@given(made.entries())
def test_absent_keys_are_left_out_and_the_rest_is_in_order(entry: Entry) -> None:
    order = "path path_b64 type mode uid gid mtime_ns size sha256 blobs lists target target_b64 xattrs link rdev live"
    line = manifest.encode_line(entry)
    record = json.loads(line)
    keys = list(record)
    assert keys == [key for key in order.split() if key in keys]
    assert {"type", "mode", "uid", "gid", "mtime_ns"} <= set(keys)
    assert all(record[key] for key in keys if key not in {"mode", "uid", "gid", "mtime_ns"})
    assert line == json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    try:
        assert record.get("path") == entry.raw_path.decode()
        assert "path_b64" not in keys
    except UnicodeDecodeError:
        assert base64.b64decode(record["path_b64"]) == entry.raw_path
        assert "path" not in keys


@relaxed
@given(made.plugin_rows())
def test_plugin_rows(rows: list[PluginRow]) -> None:
    assert manifest.decode_plugins(b"".join(map(manifest.encode_line, rows))) == rows


@relaxed
@given(st.lists(st.tuples(st.just(b"") | made.PATHS, made.DIGITS), min_size=1, unique_by=lambda pair: pair[0]))
def test_lists(children: list[tuple[bytes, str]]) -> None:
    children.sort(key=lambda pair: sort_key(pair[0]))
    lines = [nodes.encode_child(first, bytes.fromhex(digits)) for first, digits in children]
    assert nodes.decode_children(b"".join(lines)) == children


@relaxed
@given(st.lists(st.tuples(made.PACKS, made.tables(16)), max_size=4), st.lists(made.PACKS, max_size=3))
def test_index_objects(packs: list[tuple[PackId, PackTable]], supersedes: list[bytes]) -> None:
    index = IndexObject(
        tuple(IndexedPack(pack_id, 1000 + len(table.ids), table) for pack_id, table in packs),
        tuple(map(IndexId, supersedes)),
    )
    assert indexfile.decode(indexfile.encode(index)) == index


@relaxed
@given(made.tables())
def test_an_index_keeps_half_of_each_id(table: PackTable) -> None:
    short = indexfile.shorten(table)
    assert [(*row[:2], row[2][:16], *row[3:]) for row in table.rows()] == list(short.rows())
    assert indexfile.shorten(short) is short


@relaxed
@given(
    st.integers(64, 2**18),
    st.integers(0, 2**18),
    st.integers(0, 2**18),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**22),
    st.integers(0, 9),
)
def test_settings(low: int, more: int, most: int, seed: int, threshold: int, minor: int) -> None:
    written = Settings(
        FormatVersion(minor=minor),
        "0" * 32,
        "2025-01-01T00:00:00+00:00",
        ChunkerSettings(seed=seed, threshold=threshold, min=low, avg=low + more, max=low + more + most),
        CompressionSettings(19, 1),
    )
    assert settings_format.decode(settings_format.encode(written)) == written


def test_unknown_keys_are_covered_by_the_checksum_and_else_ignored() -> None:
    written = Settings(FormatVersion(minor=7), "0" * 32, "2025-01-01T00:00:00+00:00")
    plain = json.loads(settings_format.encode(written))
    del plain["checksum"]
    plain["chunker"]["later"] = plain["später"] = ["é", 1, None]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    plain["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    assert settings_format.decode(json.dumps(plain).encode()) == written
    plain["später"].append(2)
    with pytest.raises(FormatError, match="checksum"):
        settings_format.decode(json.dumps(plain).encode())


@relaxed
@given(made.snapshots())
def test_snapshots(written: Snapshot) -> None:
    name, data = snapshot.encode(written)
    assert name == f"snapshots/{written.time}-{hashlib.sha256(data).hexdigest()}.json"
    assert snapshot.decode(name, data) == written
    assert snapshot.parse_name(name)[0] == written.time
    with pytest.raises(FormatError, match="promises"):
        snapshot.decode(name, data.replace(b"whole", b"whale"))


def test_a_snapshot_over_the_limit_is_not_written() -> None:
    taken = Snapshot(
        format=FormatVersion(),
        repository_id="0" * 32,
        time="20250101T000000.000000Z",
        clock="",
        host="",
        manifest=Root(0, ()),
        plugin_table=Root(0, ()),
        tree_sha256="",
        program="",
        tags=("x" * SNAPSHOT_MAX,),
    )
    with pytest.raises(FormatError, match="too many tags"):
        snapshot.encode(taken)


@relaxed
@given(made.manifests())
def test_tree_hash_rows(entries: list[Entry]) -> None:
    tails = list(map(treehash.entry_tail, entries))
    rows = [treehash.row(entry.raw_path, tail) for entry, tail in zip(entries, tails, strict=True)]
    assert treehash.split_rows(b"".join(rows)) == [(e.raw_path, tail) for e, tail in zip(entries, tails, strict=True)]
    singly, joined = treehash.TreeHash(), treehash.TreeHash()
    for entry in entries:
        singly.add_entry(entry)
    joined.add_rows(b"".join(rows))
    assert singly.hexdigest() == joined.hexdigest() == hashlib.sha256(b"".join(map(_row, entries))).hexdigest()


def _row(entry: Entry) -> bytes:
    """Section 6 of the document, once more."""
    mode = b"" if entry.type == "l" else f"{entry.mode:o}".encode()
    content = {
        "f": bytes.fromhex(entry.sha256),
        "l": entry.raw_target,
        "c": str(entry.rdev).encode(),
        "b": str(entry.rdev).encode(),
    }.get(entry.type, b"")
    fields = (entry.raw_path, entry.type.encode(), mode, content)
    return b"".join(struct.pack("<I", len(part)) + part for part in fields)


def test_columns_that_do_not_fit_are_refused() -> None:
    with pytest.raises(OverflowError):
        encode_tail(PackTable(array("I"), array("I"), array("I"), bytearray(), [2**32], bytearray()))  # type: ignore[arg-type]
