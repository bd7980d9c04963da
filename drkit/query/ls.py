"""What a snapshot holds."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime

from drkit.model import FORMS, Entry, Snapshot
from drkit.query.walk import clean, no_such_path, walk
from drkit.repo import Repository


def ls(repository: Repository, snapshot: Snapshot, lost: list[str], path: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
    """Yield path and entry of `path` and everything below it, in manifest order.

    UsageError if there is no such path. Damaged stretches are left out and described in `lost`.
    """
    path = clean(path)
    empty = True
    for raw, entry, _ in walk(repository, snapshot, lost, below=path):
        empty = False
        yield raw, entry
    if empty and path:
        raise no_such_path(path, lost)


def file_mode(entry: Entry) -> str:
    """Return type and permissions in the form of `ls -l`: `drwxr-xr-x`."""
    mode = 0o777 if entry.type == "l" else entry.mode
    return stat.filemode(FORMS[entry.type] | mode)


def modified(entry: Entry) -> str:
    """Return the modification time in UTC, to the second."""
    seconds = (entry.mtime_ns or 0) // 1_000_000_000
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
