"""Decoders given arbitrary, mutated and hostile bytes: they return or raise FormatError, and take little memory."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drkit.errors import FormatError
from drkit.format import frames, hints, indexfile, manifest, nodes, snapshot
from drkit.format import settings as settings_format
from drkit.format.limits import FRAME_MAX, MIB, PACK_MAX
from drkit.format.pack import encode_tail
from drkit.model import Entry
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

relaxed = settings(max_examples=80, deadline=None)


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
