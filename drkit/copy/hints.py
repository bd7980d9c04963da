"""What tells readers of a copy where things lie. Nobody needs it, so nothing fails for it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from drkit.errors import IntegrityError, ObjectNotFound, StoreCorrupt, StoreError
from drkit.repo import Repository, SnapshotRef
from drkit.repo.newest import Find, survey, write_newest
from drkit.repo.roots import NAME as ROOTS
from drkit.store.base import Store


def copy_roots(source: Store, target: Store) -> None:
    """Copy the places of roots that a prune here has moved: they are the same there."""
    try:
        data = source.get(ROOTS)
    except (ObjectNotFound, StoreCorrupt):
        return
    with contextlib.suppress(ObjectNotFound, StoreCorrupt):
        if target.get(ROOTS) == data:
            return
    with contextlib.suppress(StoreError):  # an append-only store keeps those it has
        target.put(ROOTS, data, overwrite=True)


def give_newest(source: Repository, target: Store, copied: Sequence[SnapshotRef], find: Find) -> None:
    """Give readers of a target far away the nodes of the newest snapshot at once; `find` says where they lie."""
    if copied and target.directory is None:
        with contextlib.suppress(IntegrityError):
            newest = max(copied, key=lambda ref: ref.name)
            write_newest(target, *survey(source, source.load(newest)), find)
