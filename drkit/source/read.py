"""Reading one path of a source: content, extended attributes, and whether it held still meanwhile."""

from __future__ import annotations

import base64
import errno
import os
import stat

from msgspec import Struct

from drkit.format.limits import XATTRS_MAX
from drkit.model import show_path
from drkit.source.stats import AnyStatus

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_ATTEMPTS = 3
_NO_XATTRS = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODATA, errno.EPERM, errno.EACCES, errno.ENOENT})


class Still(Struct, gc=False):
    """A whole small file: its bytes, the stat that belongs to them, whether it changed while it was read."""

    data: bytes
    stat: os.stat_result
    xattrs: dict[str, str] | None
    changed: bool


class NotAFile(OSError):
    """What was a regular file when the directory was listed is none now."""


def open_file(full: bytes) -> tuple[int, os.stat_result]:
    """Open a regular file without following a link, and without changing its access time where that is allowed.

    NotAFile if something else stands there by now; OSError as open gives it. FIFOs never block.
    """
    fd = os.open(full, _FLAGS)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise NotAFile(errno.EINVAL, "it is no longer a regular file")
    return fd, status


def same(before: AnyStatus, after: os.stat_result) -> bool:
    """Whether a file held still between two stats of it."""
    return (
        before.st_ctime_ns == after.st_ctime_ns
        and before.st_mtime_ns == after.st_mtime_ns
        and before.st_size == after.st_size
        and before.st_ino == after.st_ino
    )


def same_file(one: os.stat_result, other: AnyStatus) -> bool:
    """Whether two stats are of one file."""
    return one.st_ino == other.st_ino and one.st_dev == other.st_dev


def read_still(
    full: bytes, seen: AnyStatus, left_out: list[str]
) -> tuple[bytes, os.stat_result, dict[str, str] | None] | None:
    """Read a small regular file that is as `seen` before and after: four calls, which is what most files need.

    None if it is not: then `read_small` looks closer. `left_out` as in `read_xattrs`. OSError as the file system
    gives it.
    """
    fd = os.open(full, _FLAGS)
    try:
        data = os.read(fd, seen.st_size + 1)
        xattrs = read_xattrs(fd, left_out)
        after = os.fstat(fd)
    finally:
        os.close(fd)
    if len(data) == seen.st_size and same(seen, after):
        return data, after, xattrs
    return None


def read_into(
    room: memoryview, full: bytes, seen: AnyStatus, left_out: list[str]
) -> tuple[bool, dict[str, str] | None]:
    """Read a small regular file as `read_still` does, into `room`, which has a byte more than the file.

    Return whether it was as `seen` before and after, and its extended attributes.
    """
    fd = os.open(full, _FLAGS)
    try:
        size = os.readv(fd, (room,))
        xattrs = read_xattrs(fd, left_out)
        after = os.fstat(fd)
    finally:
        os.close(fd)
    return size == seen.st_size and same(seen, after), xattrs


def read_small(full: bytes, limit: int, left_out: list[str]) -> Still | None:
    """Read a file of fewer than `limit` bytes, again if it changed meanwhile; None if it is larger by now.

    `stat.st_size` equals the length of the data unless it never held still. `left_out` as in `read_xattrs`. OSError
    as the file system gives it.
    """
    for attempt in range(_ATTEMPTS):
        fd, before = open_file(full)
        try:
            if before.st_size >= limit:
                return None
            data = os.read(fd, before.st_size + 1)
            while 0 < len(data) < before.st_size:  # a signal or a network file system may cut a read short
                more = os.read(fd, before.st_size + 1 - len(data))
                if not more:
                    break
                data += more
            xattrs = read_xattrs(fd, left_out)
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if len(data) == before.st_size and same(before, after):
            return Still(data, after, xattrs, changed=False)
        if attempt == _ATTEMPTS - 1:
            return Still(data, after, xattrs, changed=True)
    return None


def read_xattrs(path_or_fd: bytes | int, left_out: list[str]) -> dict[str, str] | None:
    """Return the extended attributes, values in base64, or None if there are none or the file system has none.

    `left_out` gains, in words, what is not among them: names that are not UTF-8, which JSON cannot hold, values for
    which an entry has no room, and all of them if the file system fails.
    """
    follow = isinstance(path_or_fd, int)
    try:
        names = os.listxattr(path_or_fd, follow_symlinks=follow)
        if not names:
            return None
        values: dict[str, str] = {}
        room = XATTRS_MAX
        for name in sorted(names):
            value = os.getxattr(path_or_fd, name, follow_symlinks=follow)
            raw = os.fsencode(name)
            if not _is_text(name):
                left_out.append(f"{show_path(raw)}, which is not UTF-8")
            elif len(raw) + len(value) > room:
                left_out.append(f"{show_path(raw)}, for which there is no room")
            else:
                room -= len(raw) + len(value)
                values[name] = base64.b64encode(value).decode()
    except OSError as error:
        if error.errno not in _NO_XATTRS:
            left_out.append(f"all of them: {error.strerror}")
        return None
    except AttributeError:
        return None  # this platform's Python has no calls for them
    return values or None


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
