"""The entries of a manifest with their raw paths, and what of it could not be read."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

from drkit.errors import IntegrityError, UsageError
from drkit.model import Entry, Place, Snapshot, show_path
from drkit.repo import Repository, Segment

Places = Mapping[str, Place]


def clean(path: bytes) -> bytes:
    """Return a path as manifests write it: `./a/b/` is `a/b`, and the source itself is empty."""
    parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
    return b"/".join(parts)


def walk(
    repository: Repository,
    snapshot: Snapshot,
    lost: list[str],
    *,
    below: bytes = b"",
    skip: Container[str] = (),
) -> Iterator[tuple[bytes, Entry, Places]]:
    """Yield path, entry and the places of its segment's blobs, in manifest order.

    With `below`, only that path and what lies under it. Segments with an id in `skip` are left out unread; what is
    damaged is left out and described in `lost`.
    """
    inside = below + b"/"
    for segment in repository.segments(snapshot, below=below, skip=skip):
        if segment.lost:
            lost.append(lost_stretch(segment))
        for entry in segment.entries:
            raw = entry.raw_path
            if not below or raw == below or raw.startswith(inside):
                yield raw, entry, segment.places


def find_entry(repository: Repository, snapshot: Snapshot, path: bytes) -> tuple[Entry, Places]:
    """Return the entry of exactly this path. UsageError if there is none, IntegrityError if its part is lost."""
    lost: list[str] = []
    for raw, entry, places in walk(repository, snapshot, lost, below=path):
        if raw == path:
            return entry, places
    raise no_such_path(path, lost)


def lost_stretch(segment: Segment) -> str:
    """Return what is to be said of a segment that could not be read."""
    return f"unknown from {show_path(segment.first)} {segment.stretch}: {segment.lost}"


def identity(entry: Entry) -> tuple[object, ...]:
    """Return what makes two entries of a path the same version: type, mode, content, link target, device number."""
    return entry.type, entry.mode, entry.sha256, entry.raw_target, entry.rdev


def segment_ids(repository: Repository, snapshot: Snapshot) -> list[str]:
    """Return the ids of a manifest's segments in order. Equal ids mean equal entries; lost lists are left out."""
    return [
        node.id for node in repository.leaves(repository.reader(), snapshot.manifest) if not isinstance(node, Segment)
    ]


def no_such_path(path: bytes, lost: list[str]) -> UsageError | IntegrityError:
    """Return the error for a path that was not found: it may be in a part that is lost."""
    if lost:
        return IntegrityError(f"the part of the manifest that would hold {show_path(path)} is lost: {lost[0]}")
    return UsageError(f"there is no {show_path(path)} in this snapshot", hint="list what is there with 'drkit ls'")
