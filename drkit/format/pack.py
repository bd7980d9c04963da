"""The tables at the end of a pack: what its frames hold, and the seek table of the zstd seekable format."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator

from msgspec import Struct

from drkit.errors import FormatError
from drkit.format import frames
from drkit.format.columns import Cursor, u32_column
from drkit.format.limits import FORMAT_MAJOR, FORMAT_MINOR, FRAME_MAX, PACK_MAX
from drkit.model import Kind

_BLOB_TABLE = 0x184D2A5D
_SEEK_TABLE = 0x184D2A5E
_SEEK_MAGIC = 0x8F92EAB1
_FOOTER = struct.Struct("<IBI")
_HEADER = struct.Struct("<II")
_GUESS = 64 * 1024  # most tables come with the first read of the tail


class PackTable(Struct):
    """What the frames of one pack hold, as columns.

    `ids` has `id_size` bytes for each blob that is not of kind HINTS: 32 in packs, 16 in index objects.
    """

    frame_lengths: array[int]
    frame_sizes: array[int]
    frame_blobs: array[int]
    kinds: bytearray
    lengths: array[int]
    ids: bytearray
    id_size: int = 32

    @classmethod
    def empty(cls) -> PackTable:
        """Return a table without frames, to be filled with `add`."""
        return cls(array("I"), array("I"), array("I"), bytearray(), array("I"), bytearray())

    def add(self, compressed: int, blobs: list[tuple[Kind, bytes, int]]) -> None:
        """Append a frame of `compressed` bytes that holds `blobs`, each (kind, id, length)."""
        self.frame_lengths.append(compressed)
        kinds, ids, lengths = zip(*blobs, strict=True)
        self.frame_sizes.append(sum(lengths))
        self.frame_blobs.append(len(blobs))
        self.kinds += bytes(kinds)
        self.lengths.extend(lengths)
        self.ids += b"".join(ids)  # hints have none

    def rows(self) -> Iterator[tuple[int, Kind, bytes, int, int]]:
        """Yield (frame, kind, id, offset in the frame, length) for each blob; hints have the id b""."""
        blob = at = 0
        for frame, count in enumerate(self.frame_blobs):
            offset = 0
            for _ in range(count):
                kind = Kind(self.kinds[blob])
                length = self.lengths[blob]
                if kind == Kind.HINTS:
                    yield frame, kind, b"", offset, length
                else:
                    yield frame, kind, bytes(self.ids[at : at + self.id_size]), offset, length
                    at += self.id_size
                offset += length
                blob += 1

    def offsets(self) -> Iterator[tuple[int, int, int]]:
        """Yield (offset in the pack, compressed length, decompressed size) for each frame."""
        at = 0
        for length, size in zip(self.frame_lengths, self.frame_sizes, strict=True):
            yield at, length, size
            at += length

    def check(self) -> None:
        """Check that the columns agree with each other. FormatError if not."""
        if len(self.frame_lengths) != len(self.frame_sizes) or sum(self.frame_blobs) != len(self.lengths):
            raise FormatError("a pack's tables disagree about its frames")
        if len(self.kinds) != len(self.lengths) or any(kind > Kind.HINTS for kind in self.kinds):
            raise FormatError("a pack's table has kinds of blobs that this version does not know")
        if len(self.ids) != self.id_size * (len(self.kinds) - self.kinds.count(Kind.HINTS)):
            raise FormatError("a pack's table has too few or too many ids")
        blob = 0
        for count, size in zip(self.frame_blobs, self.frame_sizes, strict=True):
            if size > FRAME_MAX or sum(self.lengths[blob : blob + count]) != size:
                raise FormatError("the blobs of a frame do not add up to its size")
            blob += count
        if sum(self.frame_lengths) > PACK_MAX:
            raise FormatError("the frames of a pack exceed its limit")


def encode_tail(table: PackTable) -> bytes:
    """Return what follows the last frame of a pack: blob table and seek table."""
    plain = b"".join(
        (
            struct.pack(
                "<HHIII",
                FORMAT_MAJOR,
                FORMAT_MINOR,
                len(table.frame_blobs),
                len(table.lengths),
                len(table.ids) // 32,
            ),
            u32_column(table.frame_blobs),
            bytes(table.kinds),
            u32_column(table.lengths),
            bytes(table.ids),
        )
    )
    packed = frames.compressor(3).compress(plain)
    blob_table = _HEADER.pack(_BLOB_TABLE, len(packed)) + packed
    entries = array("I")
    for length, size in zip(table.frame_lengths, table.frame_sizes, strict=True):
        entries.extend((length, size))
    entries.extend((len(blob_table), 0))
    count = len(table.frame_lengths) + 1
    seek = u32_column(entries) + _FOOTER.pack(count, 0, _SEEK_MAGIC)
    return blob_table + _HEADER.pack(_SEEK_TABLE, len(seek)) + seek


def read_table(size: int, read: Callable[[int, int], bytes]) -> PackTable:
    """Return the table of a pack of `size` bytes, through `read(offset, length)`; two reads at most.

    FormatError if the tail is damaged, does not fit the size, or is of a newer major version, or the pack too large.
    """
    if size > PACK_MAX:
        raise FormatError(f"a pack of {size} bytes is over the limit of {PACK_MAX}")
    have = min(size, _GUESS)
    tail = read(size - have, have)
    if len(tail) < _FOOTER.size:
        raise FormatError("a pack is too short to have a seek table")
    count, descriptor, magic = _FOOTER.unpack(tail[-_FOOTER.size :])
    if magic != _SEEK_MAGIC or descriptor != 0 or count < 1:
        raise FormatError("a pack does not end with a seek table")
    seek_length = _HEADER.size + 8 * count + _FOOTER.size
    if seek_length > size:
        raise FormatError("a pack's seek table is longer than the pack")
    if seek_length + _HEADER.size > have:
        have = min(size, seek_length + 4 * _GUESS)
        tail = read(size - have, have)
    entries = Cursor(tail[-seek_length + _HEADER.size : -_FOOTER.size]).u32s(2 * count)
    lengths, sizes = entries[0::2], entries[1::2]
    if sum(lengths) + seek_length != size or sizes[-1] != 0:
        raise FormatError("a pack's seek table does not add up to its size")
    blob_length = lengths[-1]
    if blob_length + seek_length > have:
        have = blob_length + seek_length
        tail = read(size - have, have)
    blob_table = tail[len(tail) - seek_length - blob_length : len(tail) - seek_length]
    if blob_length < _HEADER.size or _HEADER.unpack(blob_table[:8]) != (_BLOB_TABLE, blob_length - 8):
        raise FormatError("a pack has no blob table before its seek table")
    return _decode_blob_table(blob_table[8:], lengths[:-1], sizes[:-1])


def _decode_blob_table(packed: bytes, lengths: array[int], sizes: array[int]) -> PackTable:
    cursor = Cursor(frames.decode(packed, limit=PACK_MAX))
    check_version(cursor)
    frame_count, blobs, ids = cursor.u32(), cursor.u32(), cursor.u32()
    table = PackTable(
        frame_lengths=lengths,
        frame_sizes=sizes,
        frame_blobs=cursor.u32s(frame_count),
        kinds=bytearray(cursor.take(blobs)),
        lengths=cursor.u32s(blobs),
        ids=bytearray(cursor.take(32 * ids)),
    )
    cursor.end()
    if len(table.frame_blobs) != len(lengths):
        raise FormatError("a pack's tables disagree about its frames")
    table.check()
    return table


def check_version(cursor: Cursor) -> None:
    """Read major and minor from a table; FormatError if the major version is not ours."""
    major, _minor = cursor.u16(), cursor.u16()
    if major != FORMAT_MAJOR:
        raise FormatError(
            f"written in format {major}, this drkit reads format {FORMAT_MAJOR}",
            hint="upgrade drkit: pip install -U drkit",
        )
