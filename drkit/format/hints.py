"""Hints: where the children of a segment or list lie, so that one plugin is found without the index."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from operator import add, and_, eq

from drkit.errors import FormatError
from drkit.format.columns import Cursor, u32_column
from drkit.model import PackId, Place

SELF = PackId(bytes(32))
"""Stands for the pack in which the hints lie, whose id is not known before it is closed."""

HEAD = 8
"""So many bytes tell how long hints are."""
_MASK = 0xFFFFFFFF


def encode(places: Sequence[Place | None]) -> bytes:
    """Return the hints of children at `places`, in order; None where the place is not known."""
    return encode_columns(
        [place.pack if place else None for place in places],
        [place.frame_offset if place else 0 for place in places],
        [place.frame_length if place else 0 for place in places],
        [place.offset if place else 0 for place in places],
        [place.length if place else 0 for place in places],
    )


def encode_columns(
    packs: Sequence[PackId | None],
    frame_offsets: Sequence[int],
    frame_lengths: Sequence[int],
    offsets: Sequence[int],
    lengths: Sequence[int],
) -> bytes:
    """Return the hints of children whose places stand in columns; no pack, and zeros, where one is not known."""
    numbers = {pack: number for number, pack in enumerate(dict.fromkeys(pack for pack in packs if pack))}
    ends = [0, *map(add, offsets, lengths)]
    same_frame = (
        False,
        *map(and_, map(eq, packs, packs[1:]), map(eq, frame_offsets, frame_offsets[1:])),
    )
    deltas = [(offset - end * same) & _MASK for offset, end, same in zip(offsets, ends, same_frame, strict=False)]
    pack_column = [numbers[pack] if pack else 0 for pack in packs]
    columns = (pack_column, frame_offsets, frame_lengths, deltas, lengths)
    return b"".join(
        (struct.pack("<II", len(numbers), len(packs)), *numbers, *(u32_column(column) for column in columns))
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


def size(head: bytes) -> int:
    """Return how long the hints are that begin with these `HEAD` bytes. FormatError if there are fewer bytes."""
    if len(head) < HEAD:
        raise FormatError("a frame ends before its hints")
    packs, rows = struct.unpack_from("<II", head)
    return int(HEAD + 32 * packs + 20 * rows)


def decode_after(plain: bytes, start: int, own: PackId) -> list[Place | None]:
    """Return the places of the hints that begin at `start` of a frame. FormatError if there are none."""
    return decode(plain[start : start + size(plain[start : start + HEAD])], own)


def _expected(previous: Place | None, pack: PackId, frame_offset: int) -> int:
    if previous is None or previous.pack != pack or previous.frame_offset != frame_offset:
        return 0
    return previous.offset + previous.length
