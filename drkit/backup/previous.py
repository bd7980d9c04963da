"""What the backup before saw, as a cursor that walks along with the scan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from drkit.backup.cached import Cached, count, find_odd
from drkit.backup.statcache import Previous
from drkit.errors import IntegrityError, StoreError
from drkit.format import manifest, nodes, treehash
from drkit.model import Snapshot
from drkit.repo import Repository
from drkit.source.stats import PACKED_NEVER


def from_manifest(repo: Repository, parent: Snapshot) -> Previous:
    """Return the parent's manifest where there is no cache: all files are read again, but segments are recognised.

    Without its plugins: of a plugin with a lost segment nobody can say that nothing was removed from it.
    """
    return Previous(_manifest_segments(repo, parent), {})


def _manifest_segments(repo: Repository, parent: Snapshot) -> Iterator[Cached]:
    try:
        for segment in repo.segments(parent):
            entries = segment.entries
            if not entries:
                continue
            paths = [entry.raw_path for entry in entries]
            lines = b"".join(manifest.encode_line(entry) for entry in entries)
            rows = treehash.rows(paths, treehash.entry_tails(entries))
            keys = b"".join(bytes.fromhex(child)[:16] for child in manifest.child_ids(entries))
            final = not (nodes.cuts_segment(paths[-1]) or nodes.is_full(len(paths), len(lines)))
            node_id = bytes.fromhex(segment.id)
            yield Cached(
                node_id,
                b"\0".join(paths),
                PACKED_NEVER * len(paths),
                rows,
                keys,
                b"",
                final=final,
                counts=count(entries),
                odd=find_odd(entries, paths),
                lines=lines,
            )
    except (IntegrityError, StoreError):
        return  # a damaged parent only costs speed


class Cursor:
    """Stands on the next entry of the previous backup that the scan has not passed yet."""

    def __init__(self, segments: Iterable[Cached]) -> None:
        self._segments = iter(segments)
        self.segment: Cached | None = None
        self.at = 0
        self.next_segment()

    def next_segment(self) -> None:
        """Step to the start of the next segment."""
        self.segment = next(self._segments, None)
        self.at = 0

    def step(self) -> None:
        """Move on by one entry."""
        self.at += 1
        if self.segment is not None and self.at >= len(self.segment.paths):
            self.next_segment()

    def path(self) -> bytes | None:
        """Return the path under the cursor, None at the end."""
        return self.segment.paths[self.at] if self.segment is not None else None
