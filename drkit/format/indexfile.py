"""Index objects: the tables of several packs in one, with ids cut to 16 bytes (docs/format.md, section 8)."""

from __future__ import annotations

import struct
from array import array

from msgspec import Struct

from drkit.errors import FormatError
from drkit.format import frames
from drkit.format.columns import Cursor, u32_column
from drkit.format.limits import FORMAT_MAJOR, FORMAT_MINOR, INDEX_MAX
from drkit.format.pack import PackTable, check_version
from drkit.model import IndexId, Kind, PackId

_MAGIC = b"DRKI"
ID_SIZE = 16


class IndexedPack(Struct, frozen=True):
    """A pack as an index object knows it; the table's ids have 16 bytes."""

    id: PackId
    size: int
    table: PackTable


class IndexObject(Struct, frozen=True):
    """Places of the blobs of some packs, and the index objects that this one replaces."""

    packs: tuple[IndexedPack, ...]
    supersedes: tuple[IndexId, ...] = ()


def shorten(table: PackTable) -> PackTable:
    """Return a pack's own table as an index object holds it."""
    if table.id_size == ID_SIZE:
        return table
    ids = bytearray(b"".join(table.ids[at : at + ID_SIZE] for at in range(0, len(table.ids), table.id_size)))
    return PackTable(
        table.frame_lengths,
        table.frame_sizes,
        table.frame_blobs,
        table.kinds,
        table.lengths,
        ids,
        id_size=ID_SIZE,
    )


def encode(index: IndexObject) -> bytes:
    """Return the object's stored bytes; its name is their SHA-256."""
    tables = [pack.table for pack in index.packs]
    plain = b"".join(
        (
            _MAGIC,
            struct.pack("<HHI", FORMAT_MAJOR, FORMAT_MINOR, len(index.supersedes)),
            struct.pack(
                "<IIII",
                len(tables),
                sum(len(table.frame_blobs) for table in tables),
                sum(len(table.lengths) for table in tables),
                sum(len(table.ids) // ID_SIZE for table in tables),
            ),
            *index.supersedes,
            *(pack.id for pack in index.packs),
            *(struct.pack("<q", pack.size) for pack in index.packs),
            u32_column(len(table.frame_blobs) for table in tables),
            *(u32_column(table.frame_lengths) for table in tables),
            *(u32_column(table.frame_sizes) for table in tables),
            *(u32_column(table.frame_blobs) for table in tables),
            *(bytes(table.kinds) for table in tables),
            *(u32_column(table.lengths) for table in tables),
            *(bytes(table.ids) for table in tables),
        )
    )
    return frames.compressor(3).compress(plain)


def decode(data: bytes) -> IndexObject:
    """Return the index object. FormatError if it is damaged or of a newer major version."""
    cursor = Cursor(frames.decode(data, limit=INDEX_MAX))
    if cursor.take(4) != _MAGIC:
        raise FormatError("an index object does not start with DRKI")
    check_version(cursor)
    superseded, pack_count, frame_count, blob_count, id_count = (cursor.u32() for _ in range(5))
    supersedes = tuple(IndexId(cursor.take(32)) for _ in range(superseded))
    pack_ids = [PackId(cursor.take(32)) for _ in range(pack_count)]
    sizes = cursor.i64s(pack_count)
    frames_in = cursor.u32s(pack_count)
    frame_lengths, frame_sizes, frame_blobs = (cursor.u32s(frame_count) for _ in range(3))
    kinds = bytearray(cursor.take(blob_count))
    lengths = cursor.u32s(blob_count)
    ids = bytearray(cursor.take(ID_SIZE * id_count))
    cursor.end()
    packs = []
    frame = blob = at = 0
    for pack_id, size, count in zip(pack_ids, sizes, frames_in, strict=True):
        blobs_per_frame: array[int] = frame_blobs[frame : frame + count]
        blob_end = blob + sum(blobs_per_frame)
        pack_kinds = kinds[blob:blob_end]
        id_end = at + ID_SIZE * (len(pack_kinds) - pack_kinds.count(Kind.HINTS))
        table = PackTable(
            frame_lengths[frame : frame + count],
            frame_sizes[frame : frame + count],
            blobs_per_frame,
            pack_kinds,
            lengths[blob:blob_end],
            ids[at:id_end],
            id_size=ID_SIZE,
        )
        table.check()
        packs.append(IndexedPack(pack_id, size, table))
        frame, blob, at = frame + count, blob_end, id_end
    if (frame, blob, at) != (frame_count, blob_count, len(ids)):
        raise FormatError("an index object's packs do not add up to its columns")
    return IndexObject(tuple(packs), supersedes)
