"""What a drill does around a restore: it has the disk read, and sees when the first file was there."""

from __future__ import annotations

import os
import stat
from contextlib import suppress


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
