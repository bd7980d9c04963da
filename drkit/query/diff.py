"""What differs between two snapshots."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from drkit.errors import IntegrityError
from drkit.model import Entry, Snapshot, sort_key
from drkit.query.walk import identity, segment_ids, walk
from drkit.repo import Repository


class Difference(Struct, frozen=True):
    """Raw paths of files, links and special files, never of directories, in manifest order.

    `modified` have another `identity`; times and owners do not count.
    """

    added: list[bytes]
    removed: list[bytes]
    modified: list[bytes]


def diff(repository: Repository, old: Snapshot, new: Snapshot) -> Difference:
    """Compare two snapshots, reading only the segments that they do not share.

    IntegrityError if one of those is lost: the answer would be a guess.
    """
    result = Difference([], [], [])
    shared = set(segment_ids(repository, old)).intersection(segment_ids(repository, new))
    left, right = _entries(repository, old, shared), _entries(repository, new, shared)
    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a[0] < b[0]):
            assert a is not None
            result.removed.append(a[1].raw_path)
            a = next(left, None)
        elif a is None or b[0] < a[0]:
            result.added.append(b[1].raw_path)
            b = next(right, None)
        else:
            if identity(a[1]) != identity(b[1]):
                result.modified.append(b[1].raw_path)
            a, b = next(left, None), next(right, None)
    return result


def _entries(repository: Repository, snapshot: Snapshot, skip: set[str]) -> Iterator[tuple[bytes, Entry]]:
    lost: list[str] = []
    for raw, entry, _ in walk(repository, snapshot, lost, skip=skip):
        if lost:
            break
        if entry.type != "d":
            yield sort_key(raw), entry
    if lost:
        raise IntegrityError(f"cannot compare, a part of the snapshot of {snapshot.time} is lost: {lost[0]}")
