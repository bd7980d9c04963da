"""Owner, mode, times and extended attributes: what this system and user can set, and setting it."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
from collections.abc import Mapping

from msgspec import Struct

from drkit.model import Entry
from drkit.restore.report import Outcome

UNSUPPORTED = frozenset({errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors that say that something cannot be set here; anything else is a failure."""
SET_ID = 0o6000
_SAFE_TIMES = range(2**31 * 10**9)
_PROBE = b"probe"
_PROBE_TIME = 1_000_000_000_123_456_789
_ACLS = ("system.posix_acl_default", "system.posix_acl_access")


class Host(Struct, frozen=True, gc=False):
    """What a new file in the stage gets by itself, and what may be set: found by making one.

    `reads_all` says that no mode keeps this process from reading; not every root may, for instance in a container.
    """

    uid: int
    gid: int
    umask: int
    root: bool
    reads_all: bool
    exact_times: bool


def probe(stage_fd: int) -> Host:
    """Make the stage inherit nothing from the directory it lies in, then return what a new file there gets."""
    for name in _ACLS:
        # Without it, an inherited default would stand on everything that is restored.
        with contextlib.suppress(OSError, AttributeError):
            os.removexattr(stage_fd, name)
    os.fchmod(stage_fd, 0o700)
    fd = os.open(_PROBE, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o777, dir_fd=stage_fd)
    try:
        os.utime(fd, ns=(_PROBE_TIME, _PROBE_TIME))
        found = os.fstat(fd)
        reads_all = _reads_unreadable(stage_fd, fd)
    finally:
        os.close(fd)
        os.unlink(_PROBE, dir_fd=stage_fd)
    return Host(
        uid=found.st_uid,
        gid=found.st_gid,
        umask=0o777 & ~found.st_mode,
        root=os.geteuid() == 0,
        reads_all=reads_all,
        exact_times=found.st_mtime_ns == _PROBE_TIME,
    )


def _reads_unreadable(stage_fd: int, fd: int) -> bool:
    with contextlib.suppress(OSError):  # a file system without modes
        os.fchmod(fd, 0)
    try:
        os.close(os.open(_PROBE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stage_fd))
    except PermissionError:
        return False
    return True


def held_mode(entry: Entry, mode: int, host: Host) -> int:
    """Return the mode under which the restorer can read it back: `mode` itself where modes do not hinder it."""
    needed = 0o500 if entry.type == "d" else 0o400
    return mode if host.reads_all else mode | needed


def set_owner(entry: Entry, host: Host, outcome: Outcome, path: bytes, fd: int, name: bytes | None = None) -> None:
    """Set the owner of `fd`, or of `name` in it.

    Where that is not allowed it becomes a note, and set-ID bits are left out: they would be another user's.
    """
    try:
        if not host.root:
            raise PermissionError(errno.EPERM, "not root")
        if name is None:
            os.fchown(fd, entry.uid, entry.gid)
        else:
            os.chown(name, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        outcome.unset.add("owner")
        if entry.mode & SET_ID:
            outcome.stripped.add(path)


def set_mode(mode: int, outcome: Outcome, fd: int) -> None:
    """Set the mode of `fd`. On a file system without modes it becomes a note."""
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        outcome.unset.add("mode")


def set_xattrs(xattrs: Mapping[str, str], outcome: Outcome, fd: int, name: bytes | None = None) -> None:
    """Set the extended attributes of `fd`, or of `name` in it. Those that are not allowed become notes."""
    where = fd if name is None else at(fd, name)
    for key, value in xattrs.items():
        try:
            if name is None:
                os.setxattr(where, key, base64.b64decode(value))
            else:
                os.setxattr(where, key, base64.b64decode(value), follow_symlinks=False)
        except OSError as error:
            # Too large for this file system's attributes looks like a full disk; a full disk will show again.
            if error.errno not in UNSUPPORTED | {errno.ENOSPC, errno.E2BIG, errno.ERANGE}:
                raise
            outcome.unset.add(f"xattr {key}")
        except AttributeError:  # this system has no such calls
            outcome.unset.add(f"xattr {key}")


def set_directory(fd: int, path: bytes, entry: Entry, host: Host, outcome: Outcome) -> None:
    """Give a directory, made with `filling_mode` and complete, what its entry says."""
    if entry.mode < 0:
        os.fchmod(fd, 0o777 & ~host.umask)
    else:
        if entry.uid != host.uid or entry.gid != host.gid:
            set_owner(entry, host, outcome, path, fd)
        if entry.xattrs:
            set_xattrs(entry.xattrs, outcome, fd)
        mode = outcome.mode(path, entry)
        held = held_mode(entry, mode, host)
        if held != mode:
            outcome.late.append((path, mode))
        if not path or entry.xattrs or held != filling_mode(entry) & ~host.umask:
            set_mode(held, outcome, fd)
    if entry.mtime_ns is not None:
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        if odd_time(entry.mtime_ns) and os.fstat(fd).st_mtime_ns != entry.mtime_ns:
            outcome.odd_times.add(path)


def filling_mode(entry: Entry) -> int:
    """Return the mode with which a directory is made that is to be filled."""
    return entry.mode & 0o777 | 0o700 if entry.mode >= 0 else 0o700


def get_xattr(key: str, fd: int, name: bytes | None = None) -> bytes | None:
    """Return an extended attribute of `fd`, or of `name` in it; None if there is none."""
    try:
        if name is None:
            return os.getxattr(fd, key)
        return os.getxattr(at(fd, name), key, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        return None


def at(fd: int, name: bytes) -> bytes:
    """Return a path for the calls that take no directory descriptor."""
    return b"/proc/self/fd/%d/%s" % (fd, name)


def odd_time(mtime_ns: int) -> bool:
    """Whether some file systems cannot store this time and take the nearest they can."""
    return mtime_ns not in _SAFE_TIMES
