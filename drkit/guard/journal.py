"""Journals: what somebody has begun to do to a source, durable before the first step, in the shared directory.

A journal is a file `<key of the source>-<random>.journal` that only its user may read. Its lines are records in JSON,
each whole in itself and durable before the steps that it announces; the last whole line counts. It is locked while
the process lives that wrote it, so whoever can lock one knows that it was left by somebody who died.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from typing import Literal, Self

import msgspec
from msgspec import Struct

from drkit import osutil
from drkit.errors import NoSpace, StoreError
from drkit.guard.process import Process
from drkit.guard.state import key, open_state_dir

_MAX = 64 << 20
_TRIES = 16


class FileState(Struct, frozen=True):
    """A path as it is: type letter of the manifest, mode, SHA-256 of a file's content or of what else identifies it."""

    type: str
    mode: int
    sha256: str


class PathChange(Struct, frozen=True):
    """What happens to one path of a plugin, relative to it. None where nothing was or will be.

    A change has two slots in the stage, by its number: `n<number>` for the new thing until it takes its place, and
    `k<number>` for the old one afterwards. `origin` is the number of the change from whose path the new thing is
    moved here, `target` that of the change to whose path the old one is moved; -1 for none. `opaque`: excluded from
    snapshots, moved as it is, never looked into.
    """

    path: bytes
    old: FileState | None
    new: FileState | None
    origin: int = -1
    target: int = -1
    opaque: bool = False


class DirTime(Struct, frozen=True):
    """A directory's modification time before and after, in nanoseconds; None where it comes as it comes."""

    path: bytes
    old: int | None
    new: int | None


class Edit(Struct, frozen=True, tag="edit"):
    """A permit's changes, being applied. `state` is "apply" until all of them are there and checked, then "done".

    `stage` is the name of a directory in the plugin's own.
    """

    state: Literal["apply", "done"]
    source: bytes
    plugin: bytes
    snapshot: str
    stage: bytes
    changes: tuple[PathChange, ...]
    times: tuple[DirTime, ...] = ()


class Command(Struct, frozen=True, tag="command"):
    """A command that works on a source under `guard exec`.

    "start" is written before there is a process, "run" with what it is known by
    before the command itself begins, "undo" before anything is put back, "done" when only the
    journal remains to be removed. `snapshot` is what is put back, from the store `store_url`.
    """

    state: Literal["start", "run", "undo", "done"]
    source: bytes
    plugins: tuple[bytes, ...]
    argv: tuple[bytes, ...]
    snapshot: str
    repository_id: str
    store_url: str
    excludes: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    globs: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    spare: tuple[bytes, ...] = ()
    """Paths in the source that are neither compared nor put back: the inventory in use."""
    cache_dir: bytes | None = None
    process: Process | None = None


Record = Edit | Command


class Journal:
    """An open, locked journal. The lock falls with the process; a journal that is not removed is recovered."""

    def __init__(self, state_fd: int, name: bytes, fd: int) -> None:
        self.name = name
        self._state_fd = state_fd
        self._fd = fd
        self._pid = os.getpid()

    @classmethod
    def create(cls, record: Record, *, random: Callable[[int], bytes] = os.urandom) -> Self:
        """Make a journal with its first record, durably."""
        state_fd = open_state_dir()
        try:
            for _ in range(_TRIES):
                name = key("journal", record.source) + b"-" + random(8).hex().encode() + b".journal"
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                try:
                    fd = os.open(name, flags, 0o600, dir_fd=state_fd)
                except FileExistsError:
                    continue
                journal = cls(state_fd, name, fd)
                if journal._lock():
                    break
                os.close(fd)  # somebody was quicker and took it for what a dead one left
            else:
                raise StoreError("the guard finds no free name for a journal")
        except OSError as error:
            os.close(state_fd)
            raise _unwritable(error) from error
        except BaseException:
            os.close(state_fd)
            raise
        try:
            journal.write(record)
            osutil.fsync_dir(state_fd)
        except OSError as error:
            journal.abandon()
            raise _unwritable(error) from error
        except BaseException:
            journal.abandon()
            raise
        return journal

    @classmethod
    def left(cls, source: bytes) -> list[Self]:
        """Take over the journals of this user about a source whose processes have died."""
        found = []
        for journal, locked in cls.opened(source):
            if locked:
                found.append(journal)
            else:
                journal.close()
        return found

    @classmethod
    def opened(cls, source: bytes) -> list[tuple[Self, bool]]:
        """Open all journals of this user about a source; with each, whether it was left by a dead one, and is ours now.

        The others may only be read.
        """
        found = []
        state_fd = open_state_dir()
        try:
            prefix = key("journal", source) + b"-"
            for name in sorted(map(os.fsencode, os.listdir(state_fd))):
                if name.startswith(prefix) and name.endswith(b".journal"):
                    journal = cls._open(state_fd, name)
                    if journal is not None:
                        found.append((journal, journal._lock()))
        finally:
            os.close(state_fd)
        return found

    @classmethod
    def _open(cls, state_fd: int, name: bytes) -> Self | None:
        try:
            fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=state_fd)
        except OSError:
            return None
        found = os.fstat(fd)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1
        if ours and not found.st_mode & 0o077:
            return cls(os.dup(state_fd), name, fd)
        os.close(fd)
        return None

    def _lock(self) -> bool:
        return osutil.lock(self._fd, self.name, self._state_fd)

    def read(self) -> Record | None:
        """Return the last whole record; None if there is none: then nothing was begun."""
        last: Record | None = None
        for line in os.pread(self._fd, _MAX, 0).splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            with contextlib.suppress(msgspec.MsgspecError):
                last = msgspec.json.decode(line, type=Record)
        return last

    def write(self, record: Record) -> None:
        """Append a record and make it durable. StoreError if that fails."""
        try:
            osutil.append(self._fd, msgspec.json.encode(record) + b"\n")
        except OSError as error:
            raise _unwritable(error) from error

    def remove(self) -> None:
        """Remove the file and let the lock go. Nothing happens in a child of a fork."""
        if self._fd >= 0 and self._pid == os.getpid():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.name, dir_fd=self._state_fd)
            self.close()

    def close(self) -> None:
        """Let the lock go and leave the journal to be recovered. Nothing happens in a child of a fork."""
        if self._fd >= 0 and self._pid == os.getpid():
            with contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_UN)  # a child of a fork may have the descriptor, too
            os.close(self._fd)
            os.close(self._state_fd)
            self._fd = self._state_fd = -1

    def abandon(self) -> None:
        """Remove the file if that is possible, and let the lock go: nothing is to be put back."""
        try:
            self.remove()
        except OSError:
            self.close()


def _unwritable(error: OSError) -> StoreError:
    what = f"the guard cannot write its journal: {error.strerror}"
    return NoSpace(what) if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError(what)
