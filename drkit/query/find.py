"""Which snapshots hold a path, and in which versions."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from drkit.model import Entry, Snapshot, SnapshotId, sort_key
from drkit.query.walk import identity, lost_stretch, segment_ids
from drkit.repo import Repository, SnapshotRef
from drkit.source.globs import Globs


class Match(Struct, frozen=True):
    """One version of a path, as its first snapshot has it, and all snapshots that hold it, oldest first."""

    path: bytes
    entry: Entry
    snapshots: list[SnapshotId]


def find(
    repository: Repository, snapshots: Iterable[tuple[SnapshotRef, Snapshot]], pattern: str, lost: list[str]
) -> list[Match]:
    """Return the versions of all paths that match, in manifest order, then oldest first.

    A pattern without `/` is compared with names, one with `/` with whole paths, where a directory that matches
    brings everything below it (see `Globs`). A segment that several snapshots share is read once. What is damaged
    is left out and described in `lost`.
    """
    globs = Globs([pattern])
    by_name = "/" not in pattern
    known: dict[str, list[tuple[bytes, Entry]]] = {}
    versions: dict[tuple[object, ...], Match] = {}
    for ref, snapshot in snapshots:
        for segment in repository.segments(snapshot, skip=known):
            if segment.lost and segment.id not in known:
                lost.append(lost_stretch(segment))
            named = ((entry.raw_path, entry) for entry in segment.entries)
            known[segment.id] = [
                (raw, entry) for raw, entry in named if globs.match(raw.rpartition(b"/")[2] if by_name else raw)
            ]
        for segment_id in segment_ids(repository, snapshot):
            for raw, entry in known[segment_id]:
                match = versions.setdefault((raw, *identity(entry)), Match(raw, entry, []))
                match.snapshots.append(ref.id)
    return sorted(versions.values(), key=lambda match: sort_key(match.path))
