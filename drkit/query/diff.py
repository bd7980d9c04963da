"""What differs between two snapshots."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from drkit.errors import IntegrityError
from drkit.model import Entry, Snapshot, sort_key
from drkit.query.walk import Places, identity, segment_ids, walk
from drkit.repo import Repository


class Difference(Struct, frozen=True):
    """Raw paths of files, links and special files, never of directories, in manifest order.

    `modified` have another `identity`; times and owners do not count.
    """

    added: list[bytes]
    removed: list[bytes]
    modified: list[bytes]


class Change(Struct, frozen=True):
    """A path with two identities; None where there is nothing. `places` are of the old content's blobs."""

    path: bytes
    old: Entry | None
    new: Entry | None
    places: Places


def diff(repository: Repository, old: Snapshot, new: Snapshot) -> Difference:
    """Compare two snapshots, reading only the segments that they do not share.

    IntegrityError if one of those is lost: the answer would be a guess.
    """
    result = Difference([], [], [])
    for change in compare(repository, old, new):
        was = change.old is not None and change.old.type != "d"
        now = change.new is not None and change.new.type != "d"
        if was and now:
            result.modified.append(change.path)
        elif was:
            result.removed.append(change.path)
        elif now:
            result.added.append(change.path)
    return result


def compare(repository: Repository, old: Snapshot, new: Snapshot) -> Iterator[Change]:
    """Yield every path that differs, directories too, in manifest order. Errors as of `diff`."""
    shared = set(segment_ids(repository, old)).intersection(segment_ids(repository, new))
    left, right = _entries(repository, old, shared), _entries(repository, new, shared)
    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a[0] < b[0]):
            assert a is not None
            yield Change(a[1], a[2], None, a[3])
            a = next(left, None)
        elif a is None or b[0] < a[0]:
            yield Change(b[1], None, b[2], {})
            b = next(right, None)
        else:
            if identity(a[2]) != identity(b[2]):
                yield Change(a[1], a[2], b[2], a[3])
            a, b = next(left, None), next(right, None)


def _entries(
    repository: Repository, snapshot: Snapshot, skip: set[str]
) -> Iterator[tuple[bytes, bytes, Entry, Places]]:
    lost: list[str] = []
    for raw, entry, places in walk(repository, snapshot, lost, skip=skip):
        if lost:
            break
        yield sort_key(raw), raw, entry, places
    if lost:
        raise IntegrityError(f"cannot compare, a part of the snapshot of {snapshot.time} is lost: {lost[0]}")
