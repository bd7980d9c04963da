"""What differs between two snapshots: the one definition, that of `drkit diff`."""

from __future__ import annotations

import os
from collections.abc import Container
from typing import Literal

from msgspec import Struct

from drkit.guard.site import Site
from drkit.model import sort_key
from drkit.query.diff import diff
from drkit.repo import Repository, SnapshotRef

_BESIDE = (b"", b"-wal", b"-shm", b"-journal")


class Difference(Struct, frozen=True):
    """A path, relative to the source, that is not the same in two snapshots; never a directory."""

    path: bytes
    kind: Literal["added", "removed", "modified"]


def differences(
    repo: Repository, before: SnapshotRef, after: SnapshotRef, *, spare: Container[bytes] = ()
) -> list[Difference]:
    """Return the files, links and special files of which type, mode, target or content differs, in manifest order.

    Left out are the paths in `spare`: see `in_use_paths`. IntegrityError if a part of a snapshot is lost.
    """
    found = diff(repo, repo.load(before), repo.load(after))
    told: list[Difference] = [Difference(path, "added") for path in found.added]
    told += [Difference(path, "removed") for path in found.removed]
    told += [Difference(path, "modified") for path in found.modified]
    return sorted((one for one in told if one.path not in spare), key=lambda one: sort_key(one.path))


def in_use_paths(site: Site) -> frozenset[bytes]:
    """Return the paths in the source, relative to it, of the databases that this process has open, and beside them.

    They change by being used: the guard neither compares nor puts back any of them.
    """
    top = site.source.rstrip(b"/") + b"/"
    paths = [os.path.realpath(database.path) for database in site.in_use]
    return frozenset(path[len(top) :] + suffix for path in paths if path.startswith(top) for suffix in _BESIDE)
