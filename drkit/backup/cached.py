"""A segment of a manifest as a backup keeps it for the next one: with what `stat` said of each of its entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import zstandard
from msgspec import Struct

from drkit.format import manifest, treehash
from drkit.model import Entry
from drkit.source.stats import STAT, Stat, pack_stats
from drkit.source.walk import BESIDE


class Counts(Struct, array_like=True, frozen=True):
    """How many entries of each kind there are, and the sum of the files' sizes."""

    files: int = 0
    dirs: int = 0
    others: int = 0
    size: int = 0


NOTHING = Counts()


class Block:
    """Some segments as they stand in the file: heads in one zstd frame, lines in another, decoded when asked for."""

    def __init__(self, head: bytes, lines: bytes) -> None:
        self.packed = (head, lines)
        self.lengths: list[int] = []
        self._parts: list[bytes] = []

    def lines_of(self, number: int) -> bytes:
        """Return the bytes of one of the segments."""
        if not self._parts:
            plain = zstandard.ZstdDecompressor().decompress(self.packed[1])
            ends = list(accumulate(self.lengths, initial=0))
            # Assigned at once: the thread that packs the next cache may ask at the same time.
            self._parts = [plain[start:end] for start, end in pairwise(ends)]
        return self._parts[number]


class Cached:
    """One segment of a manifest, with what `stat` said of its entries.

    `paths` and `stats` run in step, and are decoded when first asked for; `odd` are those paths, between NULs, of
    which a stat alone does not say enough; `rows` are the tree hash's rows in one piece; `keys` are the first 16
    bytes of the ids of all its blobs and blob lists, `lists` the whole ids of the latter, each in one piece; `final`
    says that the manifest ended here, so that the cut is not one that its path asks for.
    """

    __slots__ = (
        "_entries",
        "_lines",
        "_rows",
        "block",
        "counts",
        "final",
        "id",
        "keys",
        "lists",
        "number",
        "odd",
        "packed_paths",
        "packed_stats",
        "paths",
        "rows",
        "stats",
    )

    paths: list[bytes]
    stats: list[Stat]

    def __init__(
        self,
        node_id: bytes,
        packed_paths: bytes,
        packed_stats: bytes,
        rows: bytes,
        keys: bytes,
        lists: bytes,
        *,
        final: bool,
        counts: Counts = NOTHING,
        odd: bytes = b"",
        lines: bytes | None = None,
        block: Block | None = None,
        number: int = 0,
    ) -> None:
        self.id = node_id
        self.packed_paths = packed_paths
        self.packed_stats = packed_stats
        self.counts = counts
        self.odd = odd
        self.rows = rows
        self.keys = keys
        self.lists = lists
        self.final = final
        self.block = block
        self.number = number
        self._lines = lines
        self._entries: list[Entry] | None = None
        self._rows: list[tuple[bytes, bytes]] | None = None

    def __getattr__(self, name: str) -> Any:
        """Decode what most segments are never asked for."""
        if name == "paths":
            self.paths = self.packed_paths.split(b"\0")
        elif name == "stats":
            self.stats = list(STAT.iter_unpack(self.packed_stats))
        else:
            raise AttributeError(name)
        return getattr(self, name)

    @property
    def first(self) -> bytes:
        """The first path."""
        return self.packed_paths.partition(b"\0")[0]

    @property
    def last(self) -> bytes:
        """The last path."""
        return self.packed_paths.rpartition(b"\0")[2]

    def set_stats(self, stats: list[Stat]) -> None:
        """Replace the stats."""
        self.stats, self.packed_stats = stats, pack_stats(stats)

    @property
    def lines(self) -> bytes:
        """The segment's bytes."""
        if self._lines is None:
            self._lines = self.block.lines_of(self.number) if self.block else b""
        return self._lines

    def entry(self, number: int) -> Entry:
        """Return one of its entries."""
        if self._entries is None:
            self._entries = manifest.decode_entries(self.lines)
        return self._entries[number]

    def row(self, number: int) -> tuple[bytes, bytes]:
        """Return (path, tail) of one row of the tree hash."""
        if self._rows is None:
            self._rows = treehash.split_rows(self.rows)
        return self._rows[number]


def count(entries: Sequence[Entry]) -> Counts:
    """Return the counts of a segment's entries."""
    kinds = [entry.type for entry in entries]
    files, dirs = kinds.count("f"), kinds.count("d")
    return Counts(files, dirs, len(kinds) - files - dirs, sum([entry.size for entry in entries]))


def find_odd(entries: Iterable[Entry], paths: Iterable[bytes]) -> bytes:
    """Return `Cached.odd`: names of one file that has several, and what may belong to a database."""
    return b"\0".join(path for entry, path in zip(entries, paths, strict=True) if is_odd(entry, path))


def is_odd(entry: Entry, path: bytes) -> bool:
    """Whether a stat alone does not say enough of an entry."""
    return entry.link > 0 or path.endswith(BESIDE)
