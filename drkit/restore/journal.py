"""The journal of a stage: a locked file beside it that says how far a swap has come.

The lock tells whether the process that made the stage is alive. Records are JSON lines, each durable before the
step that it announces; the last whole line counts.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import Self

import msgspec
from msgspec import Struct

from drkit import osutil

_NAME = re.compile(rb"(\.drkit-[0-9a-f]{16})\.journal")
_MAX = 1 << 20


def is_journal(name: bytes) -> bool:
    """Whether a file of this name can be the journal of a stage."""
    return _NAME.fullmatch(name) is not None


class Record(Struct, frozen=True, omit_defaults=True):
    """A state of a stage. What `recover` makes of it stands in `drkit.restore.recover`.

    `live` is the name, in base64, of what is replaced, in the directory of the journal; empty where the stage
    lies inside of the directory that it replaces. `new` and `old` are (device, inode) of the two trees before
    the swap; `old` is None where there was nothing. `mode` and `mtime_ns` are the new
    tree's own, `old_mtime_ns` that of the directory in which a stage lies that replaces its content.
    """

    state: str
    live: str = ""
    method: str = ""
    new: tuple[int, int] | None = None
    old: tuple[int, int] | None = None
    mode: int = -1
    mtime_ns: int | None = None
    old_mtime_ns: int | None = None


class Journal:
    """An open, locked journal. The lock falls with the process."""

    def __init__(self, dir_fd: int, stage: bytes, fd: int) -> None:
        self.stage = stage
        self._dir_fd = dir_fd
        self._fd = fd

    @classmethod
    def create(cls, dir_fd: int, stage: bytes) -> Self | None:
        """Make the journal of a stage of this name; None if the name is taken."""
        name = stage + b".journal"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, 0o600, dir_fd=dir_fd)
        except FileExistsError:
            return None
        journal = cls(dir_fd, stage, fd)
        if not journal.take():
            os.close(fd)
            return None
        return journal

    @classmethod
    def open(cls, dir_fd: int, name: bytes) -> Self | None:
        """Take over the journal of a process that died; None if it lives, or if this is no journal of ours."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        try:
            fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
        except OSError:
            return None
        journal = cls(dir_fd, match[1], fd)
        found = os.fstat(fd)
        # Anybody may put a file of this name into a shared directory: only what we wrote ourselves is believed.
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1
        if not ours or found.st_mode & 0o022 or not journal.take():
            os.close(fd)
            return None
        return journal

    def take(self) -> bool:
        """Lock the file; false if somebody else has it, or if it is not under its name any more."""
        return osutil.lock(self._fd, self.stage + b".journal", self._dir_fd)

    def read(self) -> Record | None:
        """Return the last whole record, or None if there is none."""
        last: Record | None = None
        for line in os.pread(self._fd, _MAX, 0).splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            with contextlib.suppress(msgspec.MsgspecError):
                last = msgspec.json.decode(line, type=Record)
        return last

    def write(self, record: Record) -> None:
        """Append a record and make it durable."""
        osutil.append(self._fd, msgspec.json.encode(record) + b"\n")

    def remove(self) -> None:
        """Remove the file and let the lock go."""
        os.unlink(self.stage + b".journal", dir_fd=self._dir_fd)
        self.close()

    def close(self) -> None:
        """Let the lock go; a journal that was not removed is for the next run to recover."""
        os.close(self._fd)
