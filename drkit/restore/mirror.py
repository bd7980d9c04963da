"""Making one directory equal to another file by file, where a whole directory cannot be swapped.

Every name below the destination is the old thing or the new thing at each moment, and running it again after an
interruption ends in the same state: the source stays whole. Files are hard-linked where that is possible.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection

from drkit.format.limits import MIB
from drkit.restore.attrs import UNSUPPORTED, at
from drkit.restore.dirs import DirStack, lstat, remove
from drkit.restore.writer import NEW_FILE

_NOT_LINKABLE = UNSUPPORTED | {errno.EMLINK, errno.EXDEV}


def mirror(source_fd: int, target_fd: int, temporary: bytes, *, spare: Collection[bytes] = ()) -> None:
    """Make the directory `target_fd` equal to `source_fd`, content and metadata, and remove what is extra.

    `temporary` is a name that may be used, and is removed, in each directory of the target. Names in `spare` at
    the top of either are left alone.
    """
    source, target = DirStack(source_fd), DirStack(target_fd)
    make_passable(target_fd)
    try:
        waiting = [_level(source_fd, target_fd, temporary, spare)]
        while True:
            if waiting[-1]:
                name = waiting[-1].pop()
                source_dir, target_dir = source.push(name, name), _push(target, name)
                waiting.append(_level(source_dir, target_dir, temporary, ()))
                continue
            waiting.pop()
            copy_attributes(source.fds[-1], target.fds[-1])
            if not waiting:
                return
            source.pop()
            target.pop()
    finally:
        source.close()
        target.close()


def _push(stack: DirStack, name: bytes) -> int:
    """Go down into a directory of the target, which only its owner may have to make passable."""
    try:
        fd = stack.push(name, name)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=stack.fds[-1])
        fd = stack.push(name, name)
    make_passable(fd)
    return fd


def make_passable(fd: int) -> None:
    """Let the owner work in a directory that protects itself."""
    if os.fstat(fd).st_mode & 0o700 != 0o700:
        os.fchmod(fd, 0o700)


def _level(source_fd: int, target_fd: int, temporary: bytes, spare: Collection[bytes]) -> list[bytes]:
    """Make one directory's own names equal; return the names of the directories in it."""
    names = [name for name in map(os.fsencode, os.listdir(source_fd)) if name not in spare]
    wanted = {*names, *spare}
    for name in map(os.fsencode, os.listdir(target_fd)):
        if name not in wanted:
            remove(target_fd, name)
    below: list[bytes] = []
    for name in names:
        found = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
        there = lstat(target_fd, name)
        if stat.S_ISDIR(found.st_mode):
            if there is not None and not stat.S_ISDIR(there.st_mode):
                os.unlink(name, dir_fd=target_fd)
                there = None
            if there is None:
                os.mkdir(name, 0o700, dir_fd=target_fd)
            below.append(name)
        elif there is None or (there.st_dev, there.st_ino) != (found.st_dev, found.st_ino):
            if there is not None and stat.S_ISDIR(there.st_mode):
                remove(target_fd, name)
            place(source_fd, target_fd, name, temporary, found)
    return below


def place(source_fd: int, target_fd: int, name: bytes, temporary: bytes, found: os.stat_result) -> None:
    """Let `name` in the target be what it is in the source, no directory, in one step.

    `found` is its status there; `temporary` is a free name in the target.
    """
    try:
        os.link(name, temporary, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NOT_LINKABLE:
            raise
        _copy(source_fd, target_fd, name, temporary, found)
    try:
        os.rename(temporary, name, src_dir_fd=target_fd, dst_dir_fd=target_fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=target_fd)
        raise


def _copy(source_fd: int, target_fd: int, name: bytes, temporary: bytes, found: os.stat_result) -> None:
    if stat.S_ISREG(found.st_mode):
        _copy_file(source_fd, target_fd, name, temporary)
        return
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source_fd), temporary, dir_fd=target_fd)
    elif stat.S_ISFIFO(found.st_mode):
        os.mkfifo(temporary, 0o600, dir_fd=target_fd)
    else:
        os.mknod(temporary, found.st_mode, found.st_rdev, dir_fd=target_fd)
    if os.geteuid() == 0:
        os.chown(temporary, found.st_uid, found.st_gid, dir_fd=target_fd, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(temporary, found.st_mode & 0o7777, dir_fd=target_fd)
    _copy_xattrs(at(source_fd, name), at(target_fd, temporary), follow=False)
    times = (found.st_atime_ns, found.st_mtime_ns)
    os.utime(temporary, ns=times, dir_fd=target_fd, follow_symlinks=False)


def _copy_file(source_fd: int, target_fd: int, name: bytes, temporary: bytes) -> None:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source_fd)
    try:
        target = os.open(temporary, NEW_FILE, 0o600, dir_fd=target_fd)
        try:
            while data := os.read(source, MIB):
                view = memoryview(data)
                while view:
                    view = view[os.write(target, view) :]
            copy_attributes(source, target)
            os.fsync(target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def copy_attributes(source: int, target: int) -> None:
    """Give the file or directory `target` the owner, extended attributes, mode and times of `source`.

    Without being root the owner stays who it is.
    """
    found = os.fstat(source)
    there = os.fstat(target)
    if (there.st_uid, there.st_gid) != (found.st_uid, found.st_gid) and os.geteuid() == 0:
        os.fchown(target, found.st_uid, found.st_gid)
    _copy_xattrs(source, target)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _copy_xattrs(source: int | bytes, target: int | bytes, *, follow: bool = True) -> None:
    """Make the extended attributes equal, as far as they may be set."""
    if not hasattr(os, "listxattr"):
        return
    try:
        wanted = os.listxattr(source, follow_symlinks=follow)
        present = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return
    for key in {*present} - {*wanted}:
        with contextlib.suppress(PermissionError):
            os.removexattr(target, key, follow_symlinks=follow)
    for key in wanted:
        value = os.getxattr(source, key, follow_symlinks=follow)
        try:
            os.setxattr(target, key, value, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
