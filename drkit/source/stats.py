"""What `stat` says of a path, as a backup sends it between its processes and keeps it for the next one."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from msgspec import Struct


class Status(Struct, array_like=True, gc=False):
    """What a backup needs of an `os.stat_result`, in a form that can be sent."""

    st_mode: int = 0
    st_ino: int = 0
    st_dev: int = 0
    st_nlink: int = 0
    st_uid: int = 0
    st_gid: int = 0
    st_size: int = 0
    st_mtime_ns: int = 0
    st_ctime_ns: int = 0
    st_rdev: int = 0


AnyStatus = os.stat_result | Status

Stat = tuple[int, int, int, int]
"""size, mtime_ns, ctime_ns, inode: what the next backup compares"""
NEVER: Stat = (-1, 0, 0, 0)
"""Equals no file's stat: the file is read again."""
STAT = struct.Struct("<qqqQ")
"""A Stat as it stands in files and messages."""
PACKED_NEVER = STAT.pack(*NEVER)


def stat_of(status: AnyStatus) -> Stat:
    """Return what is kept of a stat."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def pack_stats(stats: Iterable[Stat]) -> bytes:
    """Return stats in one piece. struct.error if a time has no place in 64 bits."""
    return b"".join([STAT.pack(*stat) for stat in stats])
