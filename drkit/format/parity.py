"""Parity: what brings back damaged stretches of a pack or snapshot without a copy of it (docs/format.md, section 14).

The code is Reed-Solomon over bytes: with K shards of data and M of parity, any K of the K+M give back all of them. It
works on each column of bytes for itself, so that in each piece of the shards another M of them may be damaged.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from types import ModuleType

from msgspec import Struct

from drkit.errors import FormatError, UsageError
from drkit.format.limits import FORMAT_MAJOR, FORMAT_MINOR, PACK_MAX, PARITY_PIECE, SHARDS_MAX
from drkit.format.settings import ParitySettings

_MAGIC = b"DRKQ"
_FIXED = struct.Struct("<4sHHHHIII32s")
_HASH = 16
_CHECKSUM = 32


class Header(Struct, frozen=True):
    """What a parity object says: id and size of what it is for, `data` and `parity` shards of `length` bytes, hashes.

    Shards are hashed in pieces of `piece` bytes; `hashes` has 16 bytes for each, shard by shard.
    """

    id: bytes
    size: int
    data: int
    parity: int
    length: int
    piece: int
    hashes: bytes

    @property
    def columns(self) -> int:
        """How many pieces a shard has."""
        return -(-self.length // self.piece)

    def pieces(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield (shard, column, start, end) of each piece of the data, as it lies in the object."""
        for shard in range(self.data):
            first, last = shard * self.length, min((shard + 1) * self.length, self.size)
            for column in range(self.columns):
                start = min(first + column * self.piece, last)
                yield shard, column, start, min(start + self.piece, last)

    def spare_pieces(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield (shard, column, start, end) of each piece of the parity, as it lies in the shards of parity."""
        for number in range(self.parity):
            first, last = number * self.length, (number + 1) * self.length
            for column in range(self.columns):
                start = first + column * self.piece
                yield self.data + number, column, start, min(start + self.piece, last)

    def is_right(self, shard: int, column: int, piece: memoryview) -> bool:
        """Whether a piece has the hash that it should have."""
        at = _HASH * (shard * self.columns + column)
        return _digest(piece) == self.hashes[at : at + _HASH]


def library() -> ModuleType:
    """Return the package that does the arithmetic. UsageError if it is not installed."""
    try:
        import zfec  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise UsageError(
            "parity needs the package zfec, which is not installed",
            hint="install it with `pip install 'drkit[parity]'`",
        ) from error
    module: ModuleType = zfec
    return module


def encode(object_id: bytes, content: bytes | bytearray, shards: ParitySettings, piece: int) -> bytes:
    """Return the parity object of a pack or snapshot, which is named by its SHA-256.

    A shard is a multiple of `piece` bytes, or all there is: what the store loses at once should be one of them.
    """
    size = len(content)
    length = min(size, -(-size // (shards.data * piece)) * piece)
    data = -(-size // length)
    header = Header(object_id, size, data, shards.parity, length, piece, b"")
    view = memoryview(content)
    blocks: list[bytes | memoryview] = [view[at : at + length] for at in range(0, size, length)]
    blocks[-1] = bytes(blocks[-1]).ljust(length, b"\0")
    total = data + shards.parity
    spare: list[bytes] = library().Encoder(data, total).encode(blocks, tuple(range(data, total)))
    hashes = [_digest(view[start:end]) for _, _, start, end in header.pieces()]
    for block in spare:
        shard = memoryview(block)
        hashes += [_digest(shard[at : at + piece]) for at in range(0, length, piece)]
    head = _encode_header(header, b"".join(hashes))
    return b"".join((head, *spare, head))


def decode(data: bytes) -> tuple[Header, memoryview]:
    """Return the header, the first or the second if that is damaged, and the shards of parity as they are.

    FormatError if both are damaged.
    """
    for at in (0, data.rfind(_MAGIC)):
        header = _decode_header(data, at) if at >= 0 else None
        if header is None:
            continue
        end = at or _header_size(header) + header.parity * header.length
        start = end - header.parity * header.length
        if start >= 0:
            return header, memoryview(data)[start:end]
    raise FormatError("both of its headers are damaged")


def is_whole(object_id: bytes, data: bytes) -> bool:
    """Whether a parity object is that of this id, and undamaged."""
    try:
        header, spare = decode(data)
    except FormatError:
        return False
    head = _encode_header(header, header.hashes)
    return (
        header.id == object_id
        and len(data) == 2 * len(head) + header.parity * header.length
        and data.startswith(head)
        and data.endswith(head)
        and all(header.is_right(shard, column, spare[at:end]) for shard, column, at, end in header.spare_pieces())
    )


def heal(object_id: bytes, content: bytes, data: bytes) -> bytes | None:
    """Return an object as it was, from what is left of it in its places and of its parity; None if that is too little.

    What is returned hashes to the id. FormatError if the parity object is beyond use.
    """
    header, spare = decode(data)
    if header.id != object_id:
        raise FormatError("it is the parity of something else")
    healed = bytearray(content[: header.size].ljust(header.size, b"\0"))
    view = memoryview(healed)
    good: dict[int, dict[int, memoryview]] = {column: {} for column in range(header.columns)}
    bad: dict[int, list[tuple[int, int, int]]] = {}
    for shard, column, start, end in header.pieces():
        if header.is_right(shard, column, view[start:end]):
            good[column][shard] = view[start:end]
        else:
            bad.setdefault(column, []).append((shard, start, end))
    for shard, column, start, end in header.spare_pieces():
        if column in bad and header.is_right(shard, column, spare[start:end]):
            good[column][shard] = spare[start:end]
    if any(len(good[column]) < header.data for column in bad):
        return None
    decoder = library().Decoder(header.data, header.data + header.parity)
    for column, missing in bad.items():
        width = min(header.piece, header.length - column * header.piece)
        chosen = sorted(good[column])[: header.data]
        whole = decoder.decode([bytes(good[column][shard]).ljust(width, b"\0") for shard in chosen], chosen)
        for shard, start, end in missing:
            view[start:end] = whole[shard][: end - start]
    result = bytes(healed)
    return result if hashlib.sha256(result).digest() == object_id else None


def _encode_header(header: Header, hashes: bytes) -> bytes:
    fixed = _FIXED.pack(
        _MAGIC,
        FORMAT_MAJOR,
        FORMAT_MINOR,
        header.data,
        header.parity,
        header.length,
        header.piece,
        header.size,
        header.id,
    )
    return fixed + hashes + hashlib.sha256(fixed + hashes).digest()


def _decode_header(data: bytes, at: int) -> Header | None:
    """Return the header that begins there, if it is whole."""
    if len(data) < at + _FIXED.size:
        return None
    magic, major, _, shards, parity, length, piece, size, object_id = _FIXED.unpack_from(data, at)
    if magic != _MAGIC or major != FORMAT_MAJOR or not (shards and parity and shards + parity <= SHARDS_MAX):
        return None
    if not (piece >= PARITY_PIECE and 0 < size <= PACK_MAX and (shards - 1) * length < size <= shards * length):
        return None
    header = Header(object_id, size, shards, parity, length, piece, b"")
    end = at + _header_size(header)
    body, checksum = data[at : end - _CHECKSUM], data[end - _CHECKSUM : end]
    if hashlib.sha256(body).digest() != checksum:
        return None
    return Header(object_id, size, shards, parity, length, piece, body[_FIXED.size :])


def _header_size(header: Header) -> int:
    return _FIXED.size + _HASH * (header.data + header.parity) * header.columns + _CHECKSUM


def _digest(piece: memoryview) -> bytes:
    return hashlib.sha256(piece).digest()[:_HASH]
