"""The content of one file."""

from __future__ import annotations

from collections.abc import Iterator

from drkit.errors import UsageError
from drkit.model import Snapshot, show_path
from drkit.query.walk import clean, find_entry
from drkit.repo import Repository

_OTHER = {
    "d": "is a directory",
    "l": "is a symbolic link",
    "p": "is a FIFO",
    "c": "is a device",
    "b": "is a device",
}


def cat(repository: Repository, snapshot: Snapshot, path: bytes) -> Iterator[bytes]:
    """Yield the content of a file, blob by blob, each checked.

    UsageError if there is no such file, BlobLost where content is lost, possibly after some blobs.
    """
    path = clean(path)
    entry, places = find_entry(repository, snapshot, path)
    if entry.type != "f":
        what = _OTHER[entry.type] + (f" to {show_path(entry.raw_target)}" if entry.type == "l" else "")
        raise UsageError(f"{show_path(path)} {what} and has no content")
    yield from repository.reader().content(entry, places)
