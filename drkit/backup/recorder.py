"""Turning entries into the segments of a manifest, the tree hash and the next stat cache, all in one pass."""

from __future__ import annotations

from drkit.backup.cached import Cached, Counts, is_odd
from drkit.backup.gather import Gatherer
from drkit.backup.made import Made
from drkit.backup.statcache import CacheWriter
from drkit.format import manifest, nodes, treehash
from drkit.model import Entry
from drkit.repo.packer import Packer
from drkit.repo.treewriter import TreeWriter
from drkit.source.stats import STAT, Stat


class Recorder:
    """Takes entries in manifest order: one by one, in columns, or whole segments of the previous backup at once."""

    def __init__(self, tree: TreeWriter, packer: Packer, cache: CacheWriter, gatherer: Gatherer) -> None:
        self.hash = treehash.TreeHash()
        self._gatherer = gatherer
        self._tree = tree
        self._packer = packer
        self._cache = cache
        self._start()

    def _start(self) -> None:
        self._paths: list[bytes] = []
        self._stats: list[bytes] = []
        self._rows: list[bytes] = []
        self._lines: list[bytes] = []
        self._blobs: dict[bytes, None] = {}
        self._lists: list[bytes] = []
        self._odd: list[bytes] = []
        self._files = self._dirs = 0
        self._bytes = 0
        self._size = 0

    @property
    def at_start(self) -> bool:
        """Whether a segment was just ended, so that a whole one of the previous backup may follow."""
        return not self._paths

    def add(self, entry: Entry, path: bytes, row: bytes, stat: Stat) -> None:
        """Append an entry, with its row of the tree hash, and what the next backup may trust."""
        line = manifest.encode_line(entry)
        self._paths.append(path)
        self._stats.append(STAT.pack(*stat))
        self._rows.append(row)
        self._lines.append(line)
        self._size += len(line)
        self._blobs.update(dict.fromkeys(map(bytes.fromhex, manifest.child_ids([entry]))))
        self._lists += map(bytes.fromhex, entry.lists)
        self._files += entry.type == "f"
        self._dirs += entry.type == "d"
        self._bytes += entry.size
        if is_odd(entry, path):
            self._odd.append(path)
        if nodes.cuts_segment(path) or nodes.is_full(len(self._paths), self._size):
            self._end_segment(final=False)

    def add_made(self, made: Made, start: int, end: int) -> None:
        """Append a stretch of rows."""
        for cut in made.cuts:
            if start <= cut < end:
                self._add_piece(made, start, cut + 1)
                if self._paths:
                    self._end_segment(final=False)
                start = cut + 1
        if start < end:
            self._add_piece(made, start, end)

    def _add_piece(self, made: Made, start: int, end: int) -> None:
        """Append rows, of which only the last may end a segment by its path."""
        lines = manifest.encode_lines(made.entries[start:end])
        if end - start > 1 and nodes.is_full(len(self._paths) + end - start, self._size + len(lines)):
            for number in range(start, end):
                self._add_piece(made, number, number + 1)
            return
        self._paths += made.paths[start:end]
        self._stats += made.stats[start:end]
        self._rows += made.rows[start:end]
        self._lines.append(lines)
        self._size += len(lines)
        self._blobs.update(dict.fromkeys(filter(None, made.ids[start:end])))
        counts = made.counts(start, end)
        self._files += counts.files
        self._dirs += counts.dirs
        self._bytes += counts.size
        if nodes.is_full(len(self._paths), self._size):
            self._end_segment(final=False)

    def reuse(self, segment: Cached, stats: list[Stat] | None, *, stored: bool) -> None:
        """Append a whole segment of the previous backup, unchanged but perhaps for its stats.

        `stored` says that the segment itself is known to be in the repository.
        """
        node_id = segment.id
        if stored or self._packer.has(node_id):
            self._tree.reuse(segment.first, node_id)
        else:
            children = manifest.child_ids(manifest.decode_entries(segment.lines))
            self._tree.segment(segment.first, segment.lines, tuple(map(bytes.fromhex, children)))
        self.hash.add_rows(segment.rows)
        self._cache.add(segment, stats)

    def finish(self) -> None:
        """End the last segment."""
        if self._paths:
            self._end_segment(final=True)

    def _end_segment(self, *, final: bool) -> None:
        blobs = tuple(self._blobs)
        self._gatherer.gather(blobs, self._lines)
        data = b"".join(self._lines)
        rows = b"".join(self._rows)
        node_id = self._tree.segment(self._paths[0], data, blobs)
        self.hash.add_rows(rows)
        self._cache.add(
            Cached(
                node_id,
                b"\0".join(self._paths),
                b"".join(self._stats),
                rows,
                b"".join([blob[:16] for blob in blobs]),
                b"".join(self._lists),
                final=final,
                counts=Counts(self._files, self._dirs, len(self._paths) - self._files - self._dirs, self._bytes),
                odd=b"\0".join(self._odd),
                lines=data,
            )
        )
        self._start()
