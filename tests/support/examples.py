"""One of each object of the format, and readers of bytes that might be one."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any

from drkit.format import frames, hints, indexfile, snapshot
from drkit.format import settings as settings_format
from drkit.format.indexfile import IndexedPack, IndexObject
from drkit.format.pack import PackTable, encode_tail, read_table
from drkit.format.settings import Settings
from drkit.model import Child, FormatVersion, IndexId, Kind, PackId, Place, Root, Snapshot

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


SETTINGS = settings_format.encode(Settings(FormatVersion(), "0" * 32, "2025-01-01T00:00:00+00:00"))
INDEX = IndexObject((IndexedPack(OWN, 999, indexfile.shorten(table())),), (IndexId(OWN),))
HINTS = hints.encode([Place(OWN, 5, 6, 7, 8), None, Place(OWN, 5, 6, 15, 1)])
INDEX_PLAIN = frames.decode(indexfile.encode(INDEX))
SEEKS = struct.pack("<4I", 50, 107, 9, 58)
TABLE_PLAIN = frames.decode(encode_tail(table())[8 : -8 - 24 - 9])
