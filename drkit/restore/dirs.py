"""Directories by descriptor: walking down and up without ever following a link, and removing whole trees."""

from __future__ import annotations

import errno
import os
import stat

OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = 128


class DirStack:
    """The directories from a root down to where a walk is, by descriptor and path below the root.

    Only the nearest 128 descriptors stay open, so that no depth exhausts them; a far one is opened again through
    `..`, and only if that is the same directory. The root's descriptor belongs to the caller.
    """

    def __init__(self, root_fd: int) -> None:
        self.fds = [root_fd]
        self.paths = [b""]
        self._closed: list[tuple[int, int]] = []

    def push(self, name: bytes, path: bytes) -> int:
        """Go down into the directory `name`, which must not be a link, and return its descriptor."""
        fd = os.open(name, OPEN_DIR, dir_fd=self.fds[-1])
        self.fds.append(fd)
        self.paths.append(path)
        far = len(self.fds) - 1 - _KEPT
        if far > 0 and self.fds[far] >= 0:  # after a few steps up, those that are far away are closed already
            found = os.fstat(self.fds[far])
            self._closed.append((found.st_dev, found.st_ino))
            os.close(self.fds[far])
            self.fds[far] = -1
        return fd

    def pop(self) -> None:
        """Go up to the directory above. OSError(ESTALE) if that is not the one that the walk came through."""
        fd = self.fds.pop()
        self.paths.pop()
        try:
            if self.fds[-1] < 0:
                self.fds[-1] = above = os.open(b"..", OPEN_DIR, dir_fd=fd)
                found = os.fstat(above)
                if (found.st_dev, found.st_ino) != self._closed.pop():
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), self.paths[-1])
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close everything but the root's descriptor."""
        while len(self.fds) > 1:
            fd = self.fds.pop()
            if fd >= 0:
                os.close(fd)


def lstat(dir_fd: int, name: bytes) -> os.stat_result | None:
    """Return what stands under a name, or None if nothing does."""
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def remove(dir_fd: int, name: bytes) -> None:
    """Remove what stands under a name, a directory with everything below it; nothing there is no error.

    Never crosses into another file system: OSError(EXDEV) instead.
    """
    found = lstat(dir_fd, name)
    if found is None:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=dir_fd)
        return
    stack = DirStack(dir_fd)
    names = [name]
    waiting: list[list[bytes]] = [[]]
    try:
        _enter(stack, name, found.st_dev, waiting)
        while True:
            if waiting[-1]:
                names.append(waiting[-1].pop())
                _enter(stack, names[-1], found.st_dev, waiting)
                continue
            stack.pop()
            waiting.pop()
            os.rmdir(names.pop(), dir_fd=stack.fds[-1])
            if not names:
                return
    finally:
        stack.close()


def _enter(stack: DirStack, name: bytes, device: int, waiting: list[list[bytes]]) -> None:
    """Go down into a directory, remove what is no directory there, and note the directories."""
    try:
        fd = stack.push(name, name)
    except PermissionError:
        # Only its owner gets this far, and may make it passable.
        os.chmod(name, 0o700, dir_fd=stack.fds[-1])
        fd = stack.push(name, name)
    found = os.fstat(fd)
    if found.st_dev != device:
        raise OSError(errno.EXDEV, "another file system is mounted here", name)
    if found.st_mode & 0o300 != 0o300:
        os.fchmod(fd, 0o700)
    with os.scandir(fd) as scan:
        entries = list(scan)
    below: list[bytes] = []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            below.append(os.fsencode(entry.name))
        else:
            os.unlink(entry.name, dir_fd=fd)
    waiting.append(below)
