"""Which entries of a manifest a restore takes, and under which paths.

The plan, the writing and the check each read the manifest through `select`, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from drkit.errors import FormatError
from drkit.model import Entry, Place, show_path
from drkit.repo.repository import Segment
from drkit.restore.report import Lost
from drkit.source.globs import Globs

Item = tuple[bytes, Entry, bytes | None]
"""Path below the restored directory (empty for that directory itself), entry, first name of its hard-link group.

The third is None for an entry with content of its own. A directory that was lost with a part of the manifest, but
is needed for what lies below it, comes as an entry of mode -1 without a time.
"""


class Batch(Struct):
    """The selected items of a segment, the places of its blobs, and the segment itself if it is lost."""

    items: list[Item]
    places: Mapping[str, Place]
    lost: Lost | None = None


def select(
    segments: Iterable[Segment], *, below: bytes = b"", include: Sequence[str] = (), again: bool = False
) -> Iterator[Batch]:
    """Yield what is selected, in manifest order, each directory before its content.

    `below` takes a directory and everything below it, with paths relative to it; `include` only what matches one
    of the patterns, and the directories above it. FormatError for names that could leave the target, a wrong
    order, and entries that do not lie in a directory; not of what another pass has seen before this one (`again`).
    """
    selector = _Selector(below, include)
    quick = again and not below and not include
    for segment in segments:
        if segment.lost:
            yield Batch([], {}, selector.gap(segment))
        else:
            take = selector.take_all if quick else selector.take
            yield Batch(take(segment), segment.places)


class _Selector:
    """The state of one pass: the directories that the walk is in, and the hard-link groups seen."""

    def __init__(self, below: bytes, include: Sequence[str]) -> None:
        self._below = below
        self._prefix = below + b"/" if below else b""
        self._match = Globs(include).match if include else None
        self._chain: list[tuple[bytes, Entry | None]] = [(b"", None)]
        self._taken = 1  # how many of the chain were given out; the root always counts as such
        self._links: dict[int, tuple[bytes, Entry]] = {}
        self._partial = False

    def gap(self, segment: Segment) -> Lost:
        """Take note that entries are missing here."""
        self._partial = True
        prefix, until = self._prefix, segment.until
        first = segment.first.removeprefix(prefix) if segment.first.startswith(prefix) else b""
        upto = show_path(until.removeprefix(prefix)) if until is not None and until.startswith(prefix) else ""
        stretch = f"to before {upto}" if upto else "to the end"
        return Lost(show_path(first), f"everything from here {stretch}: {segment.lost}", upto)

    def take(self, segment: Segment) -> list[Item]:
        """Return the selected items of a segment."""
        items: list[Item] = []
        chain, match, below, prefix = self._chain, self._match, self._below, self._prefix
        for path, entry in zip(segment.paths, segment.entries, strict=True):
            if below:
                if path == below:
                    items.append(self._root(entry))
                    continue
                if not path.startswith(prefix):
                    continue
                path = path[len(prefix) :]  # noqa: PLW2901
            parent, _, name = path.rpartition(b"/")
            if name in (b"", b".", b"..") or b"\0" in name or path.startswith(b"/"):
                raise FormatError(f"the path {path[:200]!r} is not allowed in a manifest")
            if chain[-1][0] != parent:
                self._climb(parent)
            chosen = match is None or match(path)
            if chosen and self._taken < len(chain):
                items += ((above, made, None) for above, made in chain[self._taken :] if made is not None)
                self._taken = len(chain)
            if entry.type == "d":
                chain.append((path, entry))
                self._taken += chosen
            if chosen:
                items.append((path, entry, self._first(path, entry) if entry.link else None))
        return items

    def take_all(self, segment: Segment) -> list[Item]:
        """Return what `take` does where all is selected, and was checked in another pass."""
        if self._partial or not segment.entries:
            return self.take(segment)
        pairs = zip(segment.paths, segment.entries, strict=True)
        items: list[Item] = [(path, entry, self._first(path, entry) if entry.link else None) for path, entry in pairs]
        path, last, _ = items[-1]
        parts = path.split(b"/") if last.type == "d" else path.split(b"/")[:-1]
        self._chain[1:] = [(b"/".join(parts[: depth + 1]), None) for depth in range(len(parts))]
        self._taken = len(self._chain)
        return items

    def _root(self, entry: Entry) -> Item:
        if entry.type != "d":
            raise FormatError(f"{show_path(self._below)} is no directory in this snapshot")
        return b"", entry, None

    def _climb(self, parent: bytes) -> None:
        """Go up to `parent`, or, where a part of the manifest is lost, make up what is missing above it."""
        chain = self._chain
        while len(chain) > 1 and parent != chain[-1][0] and not parent.startswith(chain[-1][0] + b"/"):
            chain.pop()
        self._taken = min(self._taken, len(chain))
        here = chain[-1][0]
        if here == parent:
            return
        if not self._partial:
            raise FormatError(f"the path {parent[:200]!r} is no directory of the manifest")
        for part in parent[len(here) + bool(here) :].split(b"/"):
            here = here + b"/" + part if here else part
            chain.append((here, Entry(type="d")))

    def _first(self, path: bytes, entry: Entry) -> bytes | None:
        """Return the first selected name of the entry's hard-link group if the two may be linked."""
        if entry.type != "f":
            return None
        first, other = self._links.setdefault(entry.link, (path, entry))
        same = first != path and all(getattr(entry, name) == getattr(other, name) for name in _LINKED)
        return first if same else None


_LINKED = ("sha256", "size", "mode", "mtime_ns", "uid", "gid", "xattrs")
