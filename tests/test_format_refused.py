"""Objects that are whole and cannot be: what contradicts itself, is too large or of another version is refused."""

from __future__ import annotations

import hashlib
import json
import struct
from array import array
from typing import Any

import pytest

from drkit.errors import FormatError
from drkit.format import frames, hints, indexfile, manifest, nodes, snapshot
from drkit.format import settings as settings_format
from drkit.format.limits import FRAME_MAX, LINE_MAX, MIB, PACK_MAX
from drkit.format.pack import PackTable, encode_tail, read_table
from drkit.format.settings import NewerFormat
from tests.support.examples import (
    HINTS,
    INDEX,
    INDEX_PLAIN,
    OWN,
    SEEKS,
    SETTINGS,
    TABLE_PLAIN,
    load,
    pack,
    pack_around,
    table,
    taken,
    unpacked,
)

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
