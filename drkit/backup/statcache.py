"""The stat cache: what the last backup of a source saw, so that unchanged files need not be read again.

Disposable and local. It holds, segment by segment in manifest order, what `stat` said of each entry, the segment's
id and lines; and the plugin table. All of it is taken or, where the checksum at its end is wrong, nothing: then the
source is read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from types import TracebackType
from typing import BinaryIO, Self

import msgspec
import zstandard
from msgspec import Struct

from drkit.backup.cached import Block, Cached, Counts
from drkit.model import PluginRow
from drkit.source.stats import NEVER, Stat

_MAGIC = b"drkit stat cache 3\n"
_SIZES = struct.Struct("<II")
_FOOTER = struct.Struct("<QII")
_BLOCK_SEGMENTS = 64
_DAY = 86_400
_DAMAGED = (OSError, zstandard.ZstdError, msgspec.MsgspecError, struct.error, ValueError)


class _Head(Struct, array_like=True):
    """One segment without its lines."""

    id: bytes
    final: bool
    paths: bytes
    stats: bytes
    rows: bytes
    keys: bytes
    lists: bytes
    lines: int
    counts: Counts
    odd: bytes


class Summary(Struct, array_like=True):
    """What a cache says of the whole backup: the snapshot's id, its plugins, and every pack that was there, with sizes.

    As long as all these packs are there, so is every blob and node of that snapshot. `root` is the source's own stat.
    `rules` names all that decides which paths are taken; empty if some were left out for other reasons, so that a
    directory whose stat is the same may hold something that the snapshot does not.
    """

    snapshot: str
    plugins: list[PluginRow]
    packs: dict[bytes, int]
    root: Stat = NEVER
    rules: str = ""


class Previous(Struct):
    """What the backup before saw: segments in order, and the plugin table by path.

    `segments` may be iterated once, or as often as one likes if there is a `summary`, which is None where this was
    read from the manifest instead of a cache.
    """

    segments: Iterable[Cached]
    plugins: dict[bytes, PluginRow]
    summary: Summary | None = None


def cache_path(directory: bytes, repository_id: str, source: bytes) -> bytes:
    """Return where the cache of a source lies."""
    name = hashlib.sha256(source).hexdigest()[:32]
    return os.path.join(directory, repository_id.encode(), b"stat-" + name.encode())


def read_cache(path: bytes) -> Previous | None:
    """Return what a cache holds, decoded as it is asked for; None if there is no whole cache."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        end = len(data) - _FOOTER.size
        offset, length, checksum = _FOOTER.unpack_from(data, end)
        if not data.startswith(_MAGIC) or offset + length != end or zlib.crc32(memoryview(data)[:end]) != checksum:
            return None
        plain = zstandard.ZstdDecompressor().decompress(data[offset:end])
        summary = msgspec.msgpack.decode(plain, type=Summary)
    except _DAMAGED:
        return None
    return Previous(_Segments(data, offset), {row.raw_path: row for row in summary.plugins}, summary)


class _Segments(Struct, frozen=True):
    """The segments in a cache's bytes, decoded anew each time."""

    data: bytes
    end: int

    def __iter__(self) -> Iterator[Cached]:
        data = self.data
        at = len(_MAGIC)
        while at < self.end:
            head_size, lines_size = _SIZES.unpack_from(data, at)
            at += _SIZES.size
            lines_at, at = at + head_size, at + head_size + lines_size
            yield from _read_block(data[lines_at - head_size : lines_at], data[lines_at:at])


_heads = msgspec.msgpack.Decoder(list[_Head])


def _read_block(head: bytes, lines: bytes) -> Iterator[Cached]:
    block = Block(head, lines)
    heads = _heads.decode(zstandard.ZstdDecompressor().decompress(head))
    block.lengths = [each.lines for each in heads]
    for number, each in enumerate(heads):
        yield Cached(
            each.id,
            each.paths,
            each.stats,
            each.rows,
            each.keys,
            each.lists,
            final=each.final,
            counts=each.counts,
            odd=each.odd,
            block=block,
            number=number,
        )


class CacheWriter:
    """Writes the next cache beside the old one; `commit` puts it in its place. A context manager."""

    def __init__(self, path: bytes | None, executor: Executor) -> None:
        self._path = path
        self._temporary = (path or b"") + b".tmp-" + os.urandom(8).hex().encode()
        self._executor = executor
        self._pending: list[Cached] = []
        self._as_read = True
        self._blocks: list[Future[tuple[bytes, bytes]] | tuple[bytes, bytes]] = []
        self._file: BinaryIO | None = None
        self._size = self._checksum = 0
        self._error: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)

    def add(self, segment: Cached, stats: list[Stat] | None = None) -> None:
        """Append a segment; `stats` replace its own where they are no longer what it says."""
        if self._path is None:
            return
        block = segment.block
        if block is not None and segment.number == 0:
            self._flush()  # so that a block of the old cache that comes back whole is copied as it is
        if stats is not None:
            segment.set_stats(stats)
            self._as_read = False
        self._pending.append(segment)
        if (
            block is not None
            and self._as_read
            and len(self._pending) == len(block.lengths)
            and all(each.block is block for each in self._pending)
        ):
            self._pending = []
            self._blocks.append(block.packed)
            self._write(leave=4)
        elif len(self._pending) >= _BLOCK_SEGMENTS:
            self._flush()

    def commit(self, summary: Summary) -> None:
        """Finish the file and put it in the old one's place. OSError, also for what went wrong before.

        Not synced: a torn cache has a wrong checksum.
        """
        if self._path is None:
            return
        self._flush()
        self._write(leave=0)
        packed = _pack(msgspec.msgpack.encode(summary))
        self._put(packed)
        self._put(_FOOTER.pack(self._size - len(packed), len(packed), self._checksum))
        if self._error is not None:
            raise self._error
        assert self._file is not None
        self._file.close()
        self._remove_leftovers(os.stat(self._temporary).st_mtime - _DAY)
        os.replace(self._temporary, self._path)

    def _remove_leftovers(self, before: float) -> None:
        """Remove what backups that were killed so long ago have left."""
        assert self._path is not None
        directory, name = os.path.split(self._path)
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith(name + b".tmp-") and entry.stat().st_mtime < before:
                    os.unlink(entry.path)

    def _flush(self) -> None:
        if self._pending:
            self._blocks.append(self._executor.submit(_pack_block, self._pending))
            self._pending, self._as_read = [], True
            self._write(leave=4)

    def _write(self, leave: int) -> None:
        while len(self._blocks) > leave:
            block = self._blocks.pop(0)
            head, lines = block.result() if isinstance(block, Future) else block
            self._put(_SIZES.pack(len(head), len(lines)) + head + lines)

    def _put(self, data: bytes) -> None:
        """Append to the file. An error waits for `commit`: a backup does not fail for its cache."""
        if self._error is not None:
            return
        try:
            if self._file is None:
                os.makedirs(os.path.dirname(self._temporary), mode=0o700, exist_ok=True)
                self._file = open(self._temporary, "xb")  # noqa: SIM115 - closed by commit or __exit__
                self._put(_MAGIC)
            self._file.write(data)
        except OSError as error:
            self._error = error
        self._size += len(data)
        self._checksum = zlib.crc32(data, self._checksum)


def _pack_block(segments: list[Cached]) -> tuple[bytes, bytes]:
    heads = [
        _Head(
            segment.id,
            segment.final,
            segment.packed_paths,
            segment.packed_stats,
            segment.rows,
            segment.keys,
            segment.lists,
            len(segment.lines),
            segment.counts,
            segment.odd,
        )
        for segment in segments
    ]
    return _pack(msgspec.msgpack.encode(heads)), _pack(b"".join(segment.lines for segment in segments))


def _pack(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(plain)
