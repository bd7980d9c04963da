"""Where a restored tree goes: the directory that it replaces or becomes, and where it is staged."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from msgspec import Struct

from drkit import osutil
from drkit.errors import DrkitError, NoSpace, StoreError, UsageError
from drkit.model import show_path
from drkit.restore.dirs import OPEN_DIR, lstat

LOST_AND_FOUND = b"lost+found"
"""Belongs to the file system, not to the tree: neither counted nor touched at the top of a target."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG)


class Site(Struct):
    """An open directory in which a stage is made, and the name in it that the stage is for.

    The stage lies beside what it replaces (`live` is that name), or, where the directory above is on another
    file system or may not be written, inside of it: `live` is then empty and `dir_fd` is the directory itself.
    """

    dir_fd: int
    live: bytes
    path: bytes

    @property
    def inside(self) -> bool:
        """Whether the stage lies in the directory that it replaces."""
        return not self.live

    def live_stat(self) -> os.stat_result | None:
        """Return what stands under the live name, or None."""
        return os.fstat(self.dir_fd) if self.inside else lstat(self.dir_fd, self.live)

    @contextlib.contextmanager
    def open_live(self) -> Iterator[int]:
        """Open the live directory."""
        fd = os.open(b"." if self.inside else self.live, OPEN_DIR, dir_fd=self.dir_fd)
        try:
            yield fd
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the directory."""
        os.close(self.dir_fd)


def open_site(parent_fd: int, name: bytes, path: bytes) -> Site:
    """Return the site of `name` in the directory `parent_fd`, which is used up; `path` is its real, whole path.

    UsageError if something is mounted below it, which a swap would take along or delete.
    """
    try:
        mounts = osutil.mount_points()
        if below := sorted(mount for mount in mounts if mount.startswith(path.rstrip(b"/") + b"/")):
            raise UsageError(f"{show_path(below[0])} is mounted inside of {show_path(path)}", hint="unmount it first")
        found = lstat(parent_fd, name) if name else os.fstat(parent_fd)
        if found is not None and stat.S_ISDIR(found.st_mode):
            mounted = not name or path in mounts or found.st_dev != os.fstat(parent_fd).st_dev
            if mounted or not _writable(parent_fd):
                fd = os.open(name or b".", OPEN_DIR, dir_fd=parent_fd)
                os.close(parent_fd)
                return Site(fd, b"", path)
        return Site(parent_fd, name, path)
    except BaseException:
        os.close(parent_fd)
        raise


def open_target(target: bytes, *, make_parents: bool) -> Site | None:
    """Return the site of a directory that a user named. Links on the way to it are followed, as the user meant.

    Missing parents are made, or else None is returned. UsageError if it, or a part of its path, is no directory.
    """
    path = os.path.realpath(target)
    parent, _, name = path.rpartition(b"/")
    parent = parent or b"/"
    if name and os.path.lexists(path) and not os.path.isdir(path):
        raise UsageError(f"{show_path(path)} is not a directory")
    if not make_parents and not os.path.isdir(parent):
        return None
    if not os.path.isdir(parent):
        os.makedirs(parent, exist_ok=True)
    return open_site(os.open(parent, OPEN_DIR), name, path)


def check_apart(path: bytes, repository: bytes | None) -> None:
    """Refuse to restore to a real path that is, holds, or lies in the repository that is restored from.

    `repository` is its real path, None for one that is not in the file system.
    """
    if repository is None:
        return
    ours, its = path.rstrip(b"/") + b"/", repository.rstrip(b"/") + b"/"
    if ours.startswith(its) or its.startswith(ours):
        how = "is" if ours == its else "lies in" if ours.startswith(its) else "holds"
        raise UsageError(
            f"{show_path(path)} {how} the repository that is restored from",
            hint="restore to a directory apart from it with --target",
        )


def _writable(fd: int) -> bool:
    return os.access(b".", os.W_OK | os.X_OK, dir_fd=fd, effective_ids=True)


def is_empty(fd: int, spare: frozenset[bytes] = frozenset()) -> bool:
    """Whether a directory holds nothing of its user's; names in `spare` do not count."""
    return not {os.fsencode(name) for name in os.listdir(fd)} - spare - {LOST_AND_FOUND}


@contextlib.contextmanager
def os_errors(path: bytes) -> Iterator[None]:
    """Turn what the system says while a restore works on `path` into errors that say what to do."""
    try:
        yield
    except OSError as error:
        raise _explained(error, path) from error


def _explained(error: OSError, path: bytes) -> DrkitError:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return NoSpace(
            f"restoring to {show_path(path)} ended early: {reason}",
            hint="free some space, or restore elsewhere with --target; the target is as it was",
        )
    if error.errno in _REFUSED:
        about = os.fsencode(error.filename) if isinstance(error.filename, (str, bytes)) else b""
        return UsageError(
            f"cannot restore to {show_path(path)}: {reason}" + (f" ({show_path(about)})" if about else ""),
            hint="check who may write there, or restore elsewhere with --target",
        )
    return StoreError(f"restoring to {show_path(path)} failed: {reason}", hint="check the disk of the target")
