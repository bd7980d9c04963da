"""Where drills restore to: a new directory that goes away again, whatever modes its content has."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from drkit.restore.dirs import remove


@contextmanager
def scratch(parent: bytes | None) -> Iterator[bytes]:
    """Make an empty directory that only its owner may enter, below `parent` or where the system keeps such things."""
    path = tempfile.mkdtemp(prefix=b"drkit-drill-", dir=parent)
    try:
        yield path
    finally:
        above = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove(above, os.path.basename(path))
        finally:
            os.close(above)


def first_file_at(root: bytes) -> float | None:
    """Return when the first file with content below `root` was complete, in seconds since the epoch.

    That is the least change time, so what was linked or changed later counts as later. None if there is no such file.
    """
    first: int | None = None
    for directory, _, names in os.walk(root):
        for name in names:
            with suppress(FileNotFoundError):
                found = os.lstat(os.path.join(directory, name))
                if stat.S_ISREG(found.st_mode) and found.st_size and (first is None or found.st_ctime_ns < first):
                    first = found.st_ctime_ns
    return None if first is None else first / 1e9


def evict(directory: bytes) -> None:
    """Ask the system to forget the content of every file below a directory, so that reading it meets the disk."""
    for folder, _, names in os.walk(directory, followlinks=True):
        for name in names:
            with suppress(FileNotFoundError, PermissionError):
                fd = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(fd)
