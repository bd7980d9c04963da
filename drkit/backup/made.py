"""The entries of a whole batch at once, in columns: what has to be made of each path is made in few steps for all."""

from __future__ import annotations

from msgspec import Struct, structs

from drkit.backup.cached import Counts
from drkit.format import nodes, treehash
from drkit.format.manifest import text_or_b64
from drkit.model import Entry
from drkit.source.ready import ROW, Batch
from drkit.source.stats import PACKED_NEVER, STAT

_STAT_SIZE = STAT.size


class Made(Struct):
    """Columns, with a row for each row of the batch. The content of files lies in `memory`."""

    paths: list[bytes]
    entries: list[Entry]
    rows: list[bytes]
    """Of the tree hash."""
    stats: list[bytes]
    """What the next backup may trust, packed."""
    sizes: list[int]
    """Of files; -1 for a directory."""
    ids: list[bytes]
    """SHA-256 of the content; nothing where there is no content."""
    places: list[int]
    """Where the content begins."""
    cuts: list[int]
    """Numbers of rows that a segment ends with, whatever its size."""
    memory: memoryview

    def content(self, number: int) -> bytes:
        """Return the content of a file."""
        place = self.places[number]
        return bytes(self.memory[place : place + self.sizes[number]])

    def counts(self, start: int, end: int) -> Counts:
        """Count a stretch of rows."""
        sizes = [size for size in self.sizes[start:end] if size >= 0]
        return Counts(len(sizes), end - start - len(sizes), 0, sum(sizes))


def make(batch: Batch, memory: memoryview, horizon_ns: int) -> Made:
    """Make the entries of a batch.

    What was written at `horizon_ns` or later may be written again and look the same: its stat is not to be trusted.
    """
    paths, rows = batch.paths, list(ROW.iter_unpack(batch.rows))
    entries = [
        Entry(text, b64, "f", mode & 0o7777, owner, group, mtime, size, digest.hex())
        if place >= 0
        else Entry(text, b64, "d", mode & 0o7777, owner, group, mtime)
        for (text, b64), (size, mtime, _, _, mode, owner, group, place, digest) in zip(_texts(paths), rows, strict=True)
    ]
    for number, xattrs in batch.xattrs.items():
        entries[number] = structs.replace(entries[number], xattrs=xattrs)
    tail = treehash.tail
    tails = [tail("f", row[4] & 0o7777, row[8]) if row[7] >= 0 else tail("d", row[4] & 0o7777, b"") for row in rows]
    packed, step = bytes(batch.rows), ROW.size
    return Made(
        paths,
        entries,
        list(map(treehash.row, paths, tails)),
        [
            packed[at : at + _STAT_SIZE] if row[1] < horizon_ns > row[2] else PACKED_NEVER
            for at, row in zip(range(0, len(packed), step), rows, strict=True)
        ],
        [row[0] if row[7] >= 0 else -1 for row in rows],
        [row[8] if row[0] and row[7] >= 0 else b"" for row in rows],
        [row[7] for row in rows],
        [number for number, path in enumerate(paths) if nodes.cuts_segment(path)],
        memory,
    )


def _texts(paths: list[bytes]) -> list[tuple[str, str]]:
    """Return `text_or_b64` of each path."""
    try:
        return [(text, "") for text in b"\0".join(paths).decode().split("\0")] if paths else []
    except UnicodeDecodeError:
        return list(map(text_or_b64, paths))
