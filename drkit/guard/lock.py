"""Locks on directories of the machine: who holds one on a directory excludes all locks above and below it.

A lock is a flock on a file in the shared directory, named by the hash of the real path: it leaves nothing in the
source, holds whatever the repository, inventory or user, survives the swap of the directory, and falls with its
process. Exclusive means: exclusive on the directory's own file, shared on those of all directories above it.

    with TreeLock.plugin(source, path): ...       # an edit of one plugin; others may edit other plugins meanwhile
    with TreeLock.exclusive(source): ...          # guard exec: nobody else in the whole source

All wanted files are taken or none, so that two who wait never wait for each other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from msgspec import Struct

from drkit.config import state_dir
from drkit.errors import LockedError, StoreError
from drkit.guard.state import key, open_state_dir
from drkit.model import show_path

_STEP_S = 0.02
_TRIES = 100
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Waiting(Struct, frozen=True):
    """How long to wait for a lock, and by which clock."""

    timeout_s: float = 60.0
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class TreeLock:
    """A lock on one or more directories, by their absolute real paths. A context manager; not reentrant.

    Entering waits as `waiting` says, then LockedError. A child that a fork made while the lock is held neither
    has it nor lets it go; a child that outlives its parent keeps others out until it ends.
    """

    def __init__(self, paths: Iterable[bytes], *, exclusive: bool, waiting: Waiting | None = None) -> None:
        self.paths = tuple(paths)
        self.is_exclusive = exclusive
        wanted: dict[bytes, bool] = {}
        for path in self.paths:
            for above in _above(path):
                wanted.setdefault(above, False)
        if exclusive:
            wanted.update(dict.fromkeys(self.paths, True))
        self._wanted = sorted(wanted.items())
        self.waiting = waiting or Waiting()
        self._state_fd = -1
        self._held: list[tuple[int, bytes]] = []
        """Descriptors, each with the name of its file if the lock on it is exclusive."""
        self._pid = 0

    @classmethod
    def shared(cls, source: bytes, waiting: Waiting | None = None) -> Self:
        """Keep others from taking the whole source. An edit of the source itself as a plugin is kept out, too."""
        return cls((source,), exclusive=False, waiting=waiting)

    @classmethod
    def exclusive(cls, source: bytes, waiting: Waiting | None = None) -> Self:
        """Keep everybody else out of the whole source."""
        return cls((source,), exclusive=True, waiting=waiting)

    @classmethod
    def plugin(cls, source: bytes, path: bytes, waiting: Waiting | None = None) -> Self:
        """Share the source, and keep everybody else out of one plugin of it, by its path."""
        return cls((os.path.join(source, path) if path else source,), exclusive=True, waiting=waiting)

    @property
    def held(self) -> bool:
        """Whether this process holds the lock through this object."""
        return self._pid == os.getpid()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock, waiting for it. LockedError when that takes too long, StoreError if it cannot be had."""
        assert not self._held, "a TreeLock is taken once at a time"
        waiting = self.waiting
        self._state_fd = open_state_dir()
        try:
            until = waiting.monotonic() + waiting.timeout_s
            while (busy := self._try()) is not None:
                left = until - waiting.monotonic()
                if left <= 0:
                    raise LockedError(f"somebody else is working in {show_path(busy)}")
                waiting.sleep(min(_STEP_S, left))
        except BaseException:
            self._let_go()
            raise
        self._pid = os.getpid()

    def release(self) -> None:
        """Let the lock go. Nothing happens if it is not held, or in a child of a fork."""
        if self.held:
            self._pid = 0
            self._let_go()

    def _try(self) -> bytes | None:
        """Take all files, or none and return the path that somebody else has."""
        for path, exclusive in self._wanted:
            name = key("lock", path) + b".lock"
            try:
                fd = _open(self._state_fd, name)
                if fd >= 0:
                    self._held.append((fd, b""))
                if fd < 0 or not self._take(fd, name, exclusive=exclusive):
                    self._unlock()
                    return path
            except OSError as error:
                raise StoreError(
                    f"the guard's lock of {show_path(path)} cannot be had: {error.strerror}",
                    hint=f"look at {show_path(name)} in {show_path(state_dir())}: drkit did not make it like this",
                ) from error
        return None

    def _take(self, fd: int, name: bytes, *, exclusive: bool) -> bool:
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not _still_named(self._state_fd, name, fd):  # removed by who had it before
            return False
        if exclusive:
            self._held[-1] = fd, name
        return True

    def _let_go(self) -> None:
        self._unlock()
        if self._state_fd >= 0:
            os.close(self._state_fd)
            self._state_fd = -1

    def _unlock(self) -> None:
        """Unlock. The file of an exclusive lock is removed first, while nobody else can have it, if that is allowed."""
        while self._held:
            fd, name = self._held.pop()
            if name:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self._state_fd)
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)  # a child of a fork may have the descriptor, too
            os.close(fd)


def _above(path: bytes) -> list[bytes]:
    """Return an absolute path and all above it."""
    parts = [part for part in path.split(b"/") if part]
    return [b"/" + b"/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _open(state_fd: int, name: bytes) -> int:
    """Open a lock's file, whoever made it; -1 if that is not possible yet. OSError if it is no plain file."""
    for _ in range(_TRIES):
        try:
            # Not O_CREAT where it is there: kernels refuse that for others' files in a sticky directory.
            fd = os.open(name, _OPEN, dir_fd=state_fd)
        except FileNotFoundError:
            try:
                fd = os.open(name, _OPEN | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=state_fd)
            except FileExistsError:
                continue
            os.fchmod(fd, 0o644)
        except PermissionError:  # somebody is just making it
            return -1
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
            return fd
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a plain file")
    return -1


def _still_named(state_fd: int, name: bytes, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(name, dir_fd=state_fd, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False
