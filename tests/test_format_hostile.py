"""Decoders given arbitrary, mutated and hostile bytes: they return or raise FormatError, and take little memory."""

from __future__ import annotations

import hashlib
import json
import struct
import tracemalloc
from array import array
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drkit.errors import FormatError
from drkit.format import frames, hints, indexfile, manifest, nodes, snapshot
from drkit.format import settings as settings_format
from drkit.format.indexfile import IndexedPack, IndexObject
from drkit.format.limits import FRAME_MAX, LINE_MAX, MIB, PACK_MAX
from drkit.format.pack import PackTable, encode_tail, read_table
from drkit.format.settings import NewerFormat, Settings
from drkit.model import Child, Entry, FormatVersion, IndexId, Kind, PackId, Place, Root, Snapshot

relaxed = settings(max_examples=80, deadline=None)
OWN = PackId(b"\x07" * 32)
NAME = "snapshots/20250101T000000.000000Z-{}.json"


def table() -> PackTable:
    filled = PackTable.empty()
    filled.add(50, [(Kind.DATA, b"a" * 32, 100), (Kind.DATA, b"b" * 32, 7)])
    filled.add(9, [(Kind.SEGMENT, b"c" * 32, 30), (Kind.HINTS, b"", 28)])
    return filled


def taken() -> Snapshot:
    root = Root(0, (Child(first="a", id="1" * 64, pack="2" * 64, frame_length=9, length=3),))
    return Snapshot(
        format=FormatVersion(),
        repository_id="0" * 32,
        time="20250101T000000.000000Z",
        clock="",
        host="here",
        manifest=root,
        plugin_table=root,
        tree_sha256="3" * 64,
        program="test",
        scope="whole",
        source="/source",
    )


def pack(data: bytes) -> PackTable:
    return read_table(len(data), lambda offset, length: data[offset : offset + length])


def pack_around(packed: bytes, seeks: bytes) -> PackTable:
    """Read a pack that has the seek table's entries `seeks` for its frames, and this frame as its blob table."""
    body = bytes(sum(struct.unpack(f"<{len(seeks) // 4}I", seeks)[::2]))
    blobs = struct.pack("<II", 0x184D2A5D, len(packed)) + packed
    seek = seeks + struct.pack("<II", len(blobs), 0) + struct.pack("<IBI", len(seeks) // 8 + 1, 0, 0x8F92EAB1)
    return pack(body + blobs + struct.pack("<II", 0x184D2A5E, len(seek)) + seek)


def load(data: bytes) -> Snapshot:
    """Decode bytes as the snapshot that they hash to."""
    return snapshot.decode(NAME.format(hashlib.sha256(data).hexdigest()), data)


def unpacked(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A decoder of what a frame holds."""
    return lambda data: decode(frames.compressor(1).compress(data))


def check_entries(data: bytes) -> list[bytes]:
    return manifest.EntryChecker().check(manifest.decode_entries(data))


ENTRIES = b"".join(
    manifest.encode_line(Entry(mode=0, uid=0, gid=0, mtime_ns=0, **fields))
    for fields in (
        {"path": "d", "type": "d", "xattrs": {"user.a": "YQ=="}},
        {"path": "d/f", "type": "f", "size": 3, "sha256": "1" * 64, "blobs": ("2" * 64, "3" * 64)},
        {"path_b64": "ZC//", "type": "l", "target_b64": "/w=="},
    )
)
SETTINGS = settings_format.encode(Settings(FormatVersion(), "0" * 32, "2025-01-01T00:00:00+00:00"))
INDEX = IndexObject((IndexedPack(OWN, 999, indexfile.shorten(table())),), (IndexId(OWN),))
HINTS = hints.encode([Place(OWN, 5, 6, 7, 8), None, Place(OWN, 5, 6, 15, 1)])
INDEX_PLAIN = frames.decode(indexfile.encode(INDEX))
SEEKS = struct.pack("<4I", 50, 107, 9, 58)
TABLE_PLAIN = frames.decode(encode_tail(table())[8 : -8 - 24 - 9])

DECODERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "frame": (frames.decode, frames.compressor(3).compress(b"some plaintext" * 50)),
    "salvage": (frames.salvage, frames.compressor(3).compress(b"some plaintext" * 50)),
    "pack": (pack, bytes(59) + encode_tail(table())),
    "blob table": (unpacked(lambda packed: pack_around(packed, SEEKS)), TABLE_PLAIN),
    "index": (indexfile.decode, indexfile.encode(INDEX)),
    "index columns": (unpacked(indexfile.decode), INDEX_PLAIN),
    "hints": (lambda data: hints.decode(data, OWN), HINTS),
    "hints in a frame": (lambda data: hints.decode_after(data, 3, OWN), b"abc" + HINTS),
    "entries": (check_entries, ENTRIES),
    "plugins": (manifest.decode_plugins, b'{"path":"a","name":"b","files":1,"bytes":2,"tree_sha256":"00"}\n'),
    "list": (nodes.decode_children, nodes.encode_child(b"a", OWN) + nodes.encode_child(b"b\xff", OWN)),
    "settings": (settings_format.decode, SETTINGS),
    "snapshot": (load, snapshot.encode(taken())[1]),
}


@pytest.mark.parametrize("name", DECODERS)
def test_the_examples_are_right(name: str) -> None:
    decode, data = DECODERS[name]
    decode(data)


@pytest.mark.parametrize("name", DECODERS)
@relaxed
@example(b"")
@example(b'{"x":' + b"[" * 100_000)
@example(b'{"path":"\\ud800"}')
@example(b'{"format":{"major":1e999}}')
@given(st.binary(max_size=200))
def test_any_bytes(name: str, data: bytes) -> None:
    try:
        DECODERS[name][0](data)
    except FormatError:
        return


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_bytes(name: str, data: st.DataObject) -> None:
    decode, good = DECODERS[name]
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed)))
        how = data.draw(st.sampled_from(["flip", "set", "cut", "double", "drop"]))
        if how == "flip" and at < len(changed):
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "set":
            changed[at : at + 4] = data.draw(
                st.sampled_from([b"\xff" * 4, bytes(4), b"\0\0\0\x80", b"-1", b'"', b"9" * 40])
            )
        elif how == "cut":
            del changed[at:]
        elif how == "double":
            changed[at:at] = good[at : at + 20]
        else:
            del changed[at : at + data.draw(st.integers(1, 20))]
    try:
        decode(bytes(changed))
    except FormatError:
        return


# Frames


def zstd(data: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(level=3, **options).compress(data)


def block_frame(blocks: bytes, *, window: int, size: int | None) -> bytes:
    """A zstd frame written by hand: header with this window descriptor and content size, then the blocks."""
    header = b"\x28\xb5\x2f\xfd" + bytes([0xC0 if size is not None else 0, window])
    return header + (struct.pack("<Q", size) if size is not None else b"") + blocks


def rle(times: int) -> bytes:
    """Blocks of 128 KiB, each one byte repeated."""
    block = struct.pack("<I", (1 << 17 << 3) | 2)[:3] + b"x"
    return block * (times - 1) + struct.pack("<I", (1 << 17 << 3) | 3)[:3] + b"x"


BOMB = 300 * MIB
BOMBS = {
    "it claims 300 MB": block_frame(rle(BOMB >> 17), window=0x68, size=BOMB),
    "it claims 8 MiB and holds 300 MB": block_frame(rle(BOMB >> 17), window=0x68, size=FRAME_MAX),
    "it claims nothing": block_frame(rle(BOMB >> 17), window=0x68, size=None),
    "it wants a window of 128 MiB": block_frame(rle(1), window=17 << 3, size=1 << 17),
    "a real one of 300 MB": zstd(bytes(BOMB)),
    "another real one, in one segment": zstd(bytes(FRAME_MAX + 1)),
}


def peak(call: Callable[[], object]) -> int:
    """How much memory a call took at its worst, in what Python allocates."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str) -> None:
    bomb = BOMBS[name]
    assert len(bomb) < 30_000

    def refuse() -> None:
        with pytest.raises(FormatError):
            frames.decode(bomb)

    assert peak(refuse) < FRAME_MAX + MIB
    assert peak(lambda: frames.salvage(bomb)) < 6 * FRAME_MAX
    assert len(frames.salvage(bomb)) <= FRAME_MAX


def test_bombs_as_tables() -> None:
    for name, decode in (("index", indexfile.decode), ("pack", lambda bomb: pack_around(bomb, b""))):
        bomb = zstd(bytes(PACK_MAX + 1))

        def refuse(decode: Callable[[bytes], object] = decode, bomb: bytes = bomb) -> None:
            with pytest.raises(FormatError, match="allowed are"):
                decode(bomb)

        assert peak(refuse) < MIB, name


FRAME = zstd(b"plaintext")
NOT_ONE_FRAME = {
    "two frames": FRAME + FRAME,
    "a frame and a skippable one": FRAME + struct.pack("<II", 0x184D2A50, 0),
    "a skippable frame": struct.pack("<II", 0x184D2A50, 4) + b"1234",
    "an empty skippable frame": struct.pack("<II", 0x184D2A50, 0),
    "an empty frame": zstd(b""),
    "an empty frame and another": zstd(b"") + FRAME,
    "a frame and a byte": FRAME + b"\0",
    "half a frame": FRAME[:-1],
    "no content size": zstd(b"plaintext" * 9, write_content_size=False),
    "a dictionary": zstd(b"plaintext" * 9, dict_data=zstandard.ZstdCompressionDict(b"plaintext" * 9)),
    "nothing": b"",
}


@pytest.mark.parametrize("name", NOT_ONE_FRAME)
def test_what_is_not_one_frame(name: str) -> None:
    with pytest.raises(FormatError):
        frames.decode(NOT_ONE_FRAME[name])


def test_the_table_must_agree_on_the_size() -> None:
    with pytest.raises(FormatError, match="its table says 10"):
        frames.decode(FRAME, 10)


def test_salvage_keeps_what_is_before_the_damage() -> None:
    import random

    plain = random.Random(1).randbytes(600_000)
    packed = bytearray(zstd(plain))
    packed[400_000] ^= 1
    found = frames.salvage(bytes(packed))
    assert len(found) == len(plain)  # stored as it is: only the flipped byte differs
    assert sum(a != b for a, b in zip(found, plain, strict=True)) == 1
    text = b"".join(b"%d %x\n" % (number, number**7) for number in range(60_000))
    packed = bytearray(zstd(text))
    del packed[len(packed) // 2 :]
    with pytest.raises(FormatError):
        frames.decode(bytes(packed))
    found = frames.salvage(bytes(packed))
    assert text.startswith(found)
    assert len(text) // 3 < len(found) < len(text)
    assert frames.salvage(b"garbage") == b""


# Packs and indexes


def rebuilt(**columns: Any) -> bytes:
    """A pack's tables with some columns replaced."""
    wrong = table()
    for name, column in columns.items():
        setattr(wrong, name, column)
    return bytes(59) + encode_tail(wrong)


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"frame_sizes": array("I", [107, 59])}, "add up to its size"),
        ({"frame_sizes": array("I", [107, 58]), "lengths": array("I", [100, 8, 30, 28])}, "add up to its size"),
        ({"kinds": bytearray([0, 0, 1, 4])}, "kinds"),
        ({"kinds": bytearray([0, 3, 1, 3])}, "too few or too many ids"),
        ({"frame_lengths": array("I", [50, 10])}, "add up to its size"),
        ({"frame_blobs": array("I", [2, 3])}, "disagree"),
        ({"frame_sizes": array("I", [FRAME_MAX + 1, 58]), "lengths": array("I", [FRAME_MAX - 6, 7, 30, 28])}, "frame"),
    ],
)
def test_tables_that_contradict_themselves(columns: dict[str, Any], why: str) -> None:
    with pytest.raises(FormatError, match=why):
        pack(rebuilt(**columns))


def test_a_frame_more_in_one_table_than_in_the_other() -> None:
    packed = frames.compressor(1).compress(TABLE_PLAIN)
    assert pack_around(packed, SEEKS) == table()
    for seeks in (SEEKS[:8], SEEKS + struct.pack("<II", 1, 0)):
        with pytest.raises(FormatError, match="disagree about its frames"):
            pack_around(packed, seeks)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "too short"),
        (encode_tail(table())[-9:], "longer than the pack"),
        (bytes(59) + encode_tail(table())[:-1] + b"\0", "does not end with a seek table"),
        (bytes(58) + encode_tail(table()), "add up to its size"),
        (bytes(59) + b"\0" + encode_tail(table())[1:], "no blob table"),
    ],
)
def test_packs_with_a_damaged_end(data: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        pack(data)


def test_a_pack_over_the_limit_is_not_read() -> None:
    with pytest.raises(FormatError, match="over the limit"):
        read_table(PACK_MAX + 1, lambda offset, length: pytest.fail("it was read"))


def test_other_versions_of_binary_tables() -> None:
    decode = unpacked(lambda packed: pack_around(packed, b""))
    assert decode(struct.pack("<HH", 1, 9) + bytes(12)) == PackTable.empty()
    for major in (0, 2):
        with pytest.raises(FormatError, match=f"format {major}") as caught:
            decode(struct.pack("<HH", major, 0) + bytes(12))
        assert "upgrade" in caught.value.hint
    newer = INDEX_PLAIN[:4] + struct.pack("<HH", 1, 9) + INDEX_PLAIN[8:]
    assert unpacked(indexfile.decode)(newer) == INDEX
    with pytest.raises(FormatError, match="format 2"):
        unpacked(indexfile.decode)(INDEX_PLAIN[:4] + struct.pack("<HH", 2, 0) + INDEX_PLAIN[8:])
    with pytest.raises(FormatError, match="DRKI"):
        unpacked(indexfile.decode)(b"DRKJ" + INDEX_PLAIN[4:])


def test_hints_that_cannot_be() -> None:
    pack_and_row = struct.pack("<II", 1, 1) + OWN
    for data, why in (
        (struct.pack("<II", 2, 1) + OWN + OWN + bytes(20), "more packs than places"),
        (pack_and_row + struct.pack("<5I", 1, 0, 1, 0, 1), "do not list"),
        (HINTS + b"\0", "too many"),
        (HINTS[:-1], "ends before"),
        (struct.pack("<II", 0, 2**32 - 1), "ends before"),
    ):
        with pytest.raises(FormatError, match=why):
            hints.decode(data, OWN)
    with pytest.raises(FormatError, match="before its hints"):
        hints.decode_after(b"abc", 3, OWN)


# JSON


def snap(**changes: Any) -> bytes:
    record = {**json.loads(snapshot.encode(taken())[1]), **changes}
    return json.dumps({key: value for key, value in record.items() if value is not None}).encode()


def root(**changes: Any) -> dict[str, Any]:
    child = {"first": "a", "id": "1" * 64, "pack": "2" * 64, "frame_length": 9, "length": 3, **changes}
    return {"level": 0, "children": [child]}


@pytest.mark.parametrize(
    "changes",
    [
        {"time": "20250101T000000.000001Z"},
        {"scope": "partial"},
        {"scope": None},
        {"source": None},
        {"source": "", "source_b64": "x"},
        {"manifest": root(id="1" * 63)},
        {"manifest": root(id="G" * 64)},
        {"manifest": root(pack="../../etc/passwd")},
        {"manifest": root(frame_offset=-1)},
        {"plugin_table": root(length=-1)},
        {"plugin_table": root(first_b64="x")},
        {"manifest": {"level": 0, "children": [root()["children"][0]] * 2}},
        {"manifest": None},
        {"files": "many"},
        {"parent": 5},
    ],
)
def test_snapshots_that_cannot_be(changes: dict[str, Any]) -> None:
    load(snap(later_key=[1, {}]))
    with pytest.raises(FormatError):
        load(snap(**changes))


@pytest.mark.parametrize(
    "version", [{"major": 2}, {"major": 1, "requires": ["what-comes-next"]}, {"major": 0, "minor": 1}]
)
def test_snapshots_of_other_versions(version: dict[str, Any]) -> None:
    assert load(snap(format={"major": 1, "minor": 5})).format.minor == 5
    with pytest.raises(NewerFormat, match=r"needs what-comes-next|is of format") as caught:
        load(snap(format=version, manifest="in another shape"))
    assert "upgrade" in caught.value.hint


def test_snapshots_over_the_limit() -> None:
    with pytest.raises(FormatError, match="larger than"):
        load(snap(host="x" * MIB))


@pytest.mark.parametrize(
    "name",
    [
        "snapshots/20250101T000000.000000Z.json",
        "snapshots/20250101T000000Z-" + "0" * 64 + ".json",
        "snapshots/20250101T000000.000000Z-" + "0" * 63 + "G.json",
        "snapshots/x/20250101T000000.000000Z-" + "0" * 64 + ".json",
        "snapshots/20250101T000000.000000Z-" + "0" * 64 + ".json\n",
        "snapshots/٢0250101T000000.000000Z-" + "0" * 64 + ".json",
        "snapshots/20251301T000000.000000Z-" + "0" * 64 + ".json",
    ],
)
def test_names_that_are_none_of_a_snapshot(name: str) -> None:
    with pytest.raises(FormatError) as caught:
        snapshot.parse_name(name)
    assert caught.value.hint == "move it out of snapshots/"


def settings_with(**changes: Any) -> bytes:
    record = json.loads(SETTINGS)
    del record["checksum"]
    record.update(changes)
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return json.dumps({**record, "checksum": hashlib.sha256(text.encode()).hexdigest()}).encode()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"format": {"major": 2}}, NewerFormat),
        ({"format": {"requires": ["x"]}}, NewerFormat),
        ({"format": None}, FormatError),
        ({"chunker": {"algorithm": "rabin"}}, FormatError),
        ({"chunker": {"gear": "other"}}, FormatError),
        ({"chunker": {"normalization": 2}}, FormatError),
        ({"chunker": {"min": 63}}, FormatError),
        ({"chunker": {"max": 2**23}}, FormatError),
        ({"chunker": {"avg": 2**18 - 1}}, FormatError),
        ({"chunker": {"threshold": 2**30}}, FormatError),
        ({"chunker": {"threshold": -1}}, FormatError),
        ({"repository_id": 1}, FormatError),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], error: type[FormatError]) -> None:
    assert settings_format.decode(settings_with()) == settings_format.decode(SETTINGS)
    with pytest.raises(FormatError) as caught:
        settings_format.decode(settings_with(**changes))
    assert type(caught.value) is error


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        nodes.encode_child(b"b", OWN) + nodes.encode_child(b"a", OWN),
        nodes.encode_child(b"a", OWN) * 2,
        b'{"first":"a","id":"abc"}\n',
        b'{"first":"a","id":"' + b"A" * 64 + b'"}\n',
        b'{"first_b64":"!","id":"' + b"1" * 64 + b'"}\n',
    ],
)
def test_lists_that_cannot_be(lines: bytes) -> None:
    with pytest.raises(FormatError):
        nodes.decode_children(lines)


def test_lines_and_segments_over_the_limit() -> None:
    line = b'{"path":"' + b"a" * (LINE_MAX - 11) + b'"}'
    assert len(line) == LINE_MAX
    assert len(manifest.decode_entries(line + b"\n")) == 1
    for data in (line + b" \n", line + b"\n" + line + b"\n" + line + b"\n"):
        with pytest.raises(FormatError, match="over the limit"):
            manifest.decode_entries(data)
