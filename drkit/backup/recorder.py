"""Turning entries into the segments of a manifest, the tree hash and the next stat cache, all in one pass."""

from __future__ import annotations

from drkit.backup.cached import Cached, Stat, count, find_odd
from drkit.backup.gather import Gatherer
from drkit.backup.statcache import CacheWriter
from drkit.format import manifest, nodes, treehash
from drkit.model import Entry
from drkit.repo.packer import Packer
from drkit.repo.treewriter import TreeWriter


class Recorder:
    """Takes entries in manifest order, one by one or whole segments of the previous backup at once."""

    def __init__(self, tree: TreeWriter, packer: Packer, cache: CacheWriter, gatherer: Gatherer) -> None:
        self.hash = treehash.TreeHash()
        self._gatherer = gatherer
        self._tree = tree
        self._packer = packer
        self._cache = cache
        self._paths: list[bytes] = []
        self._stats: list[Stat] = []
        self._rows: list[bytes] = []
        self._lines: list[bytes] = []
        self._entries: list[Entry] = []
        self._size = 0

    @property
    def at_start(self) -> bool:
        """Whether a segment was just ended, so that a whole one of the previous backup may follow."""
        return not self._lines

    def add(self, entry: Entry, path: bytes, tail: bytes, stat: Stat) -> None:
        """Append an entry; `tail` is the end of its row of the tree hash, `stat` what the next backup may trust."""
        line = manifest.encode_line(entry)
        self._paths.append(path)
        self._stats.append(stat)
        self._rows.append(treehash.row(path, tail))
        self._lines.append(line)
        self._entries.append(entry)
        self._size += len(line)
        if nodes.cuts_segment(path) or nodes.is_full(len(self._lines), self._size):
            self._end_segment(final=False)

    def reuse(self, segment: Cached, stats: list[Stat] | None, *, stored: bool) -> None:
        """Append a whole segment of the previous backup, unchanged but perhaps for its stats.

        `stored` says that the segment itself is known to be in the repository.
        """
        node_id = segment.id
        if stored or self._packer.has(node_id):
            self._tree.reuse(segment.first, node_id)
        else:
            entries = manifest.decode_entries(segment.lines)
            self._tree.segment(segment.first, segment.lines, _blobs(entries))
        self.hash.add_rows(segment.rows)
        self._cache.add(segment, stats)

    def finish(self) -> None:
        """End the last segment."""
        if self._lines:
            self._end_segment(final=True)

    def _end_segment(self, *, final: bool) -> None:
        self._gatherer.gather(self._paths, self._entries)
        data = b"".join(self._lines)
        rows = b"".join(self._rows)
        blobs = _blobs(self._entries)
        node_id = self._tree.segment(self._paths[0], data, blobs)
        self.hash.add_rows(rows)
        keys = b"".join(blob[:16] for blob in blobs)
        lists = b"".join(bytes.fromhex(blob_list) for entry in self._entries for blob_list in entry.lists)
        self._cache.add(
            Cached.fresh(
                node_id,
                self._paths,
                self._stats,
                rows,
                keys,
                lists,
                final=final,
                counts=count(self._entries),
                odd=find_odd(self._entries, self._paths),
                lines=data,
            )
        )
        self._paths, self._stats, self._rows, self._lines, self._entries = [], [], [], [], []
        self._size = 0


def _blobs(entries: list[Entry]) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(child) for child in manifest.child_ids(entries))
