"""Hints: where the children of a segment or list lie, so that one plugin is found without the index."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

from drkit.errors import FormatError
from drkit.format.columns import Cursor, u32_column
from drkit.model import PackId, Place

SELF = PackId(bytes(32))
"""Stands for the pack in which the hints lie, whose id is not known before it is closed."""

_MASK = 0xFFFFFFFF


def encode(places: Sequence[Place | None]) -> bytes:
    """Return the hints of children at `places`, in order; None where the place is not known."""
    packs: dict[PackId, int] = {}
    columns: tuple[array[int], ...] = tuple(array("I") for _ in range(5))
    pack_column, frame_column, length_column, offset_column, size_column = columns
    previous: Place | None = None
    for place in places:
        if place is None:
            for column in columns:
                column.append(0)
            previous = None
            continue
        pack_column.append(packs.setdefault(place.pack, len(packs)))
        frame_column.append(place.frame_offset)
        length_column.append(place.frame_length)
        offset_column.append((place.offset - _expected(previous, place.pack, place.frame_offset)) & _MASK)
        size_column.append(place.length)
        previous = place
    return b"".join(
        (
            struct.pack("<II", len(packs), len(places)),
            *packs,
            *(u32_column(column) for column in columns),
        )
    )


def decode(data: bytes, own: PackId) -> list[Place | None]:
    """Return the places that hints from the pack `own` name. FormatError if they are damaged."""
    cursor = Cursor(data)
    pack_count, rows = cursor.u32(), cursor.u32()
    if pack_count > rows:
        raise FormatError("hints name more packs than places")
    packs = [PackId(cursor.take(32)) for _ in range(pack_count)]
    packs = [own if pack == SELF else pack for pack in packs]
    columns = [cursor.u32s(rows) for _ in range(5)]
    cursor.end()
    places: list[Place | None] = []
    previous: Place | None = None
    for pack_number, frame_offset, frame_length, delta, length in zip(*columns, strict=True):
        if frame_length == 0:
            places.append(None)
            previous = None
            continue
        if pack_number >= pack_count:
            raise FormatError("hints name a pack that they do not list")
        pack = packs[pack_number]
        offset = (delta + _expected(previous, pack, frame_offset)) & _MASK
        previous = Place(pack, frame_offset, frame_length, offset, length)
        places.append(previous)
    return places


def decode_after(plain: bytes, start: int, own: PackId) -> list[Place | None]:
    """Return the places of the hints that begin at `start` of a frame. FormatError if there are none."""
    if len(plain) < start + 8:
        raise FormatError("a frame ends before its hints")
    packs, rows = struct.unpack_from("<II", plain, start)
    return decode(plain[start : start + 8 + 32 * packs + 20 * rows], own)


def _expected(previous: Place | None, pack: PackId, frame_offset: int) -> int:
    if previous is None or previous.pack != pack or previous.frame_offset != frame_offset:
        return 0
    return previous.offset + previous.length
