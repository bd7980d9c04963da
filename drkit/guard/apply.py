"""Applying the changes of a journaled edit, and putting them back from wherever they have come to.

The stage is a private directory `.drkit-<random>` in the plugin's own, which no snapshot has. Every new thing is made
there, everything old is moved there, and nothing is overwritten: a file that is replaced changes places with the new
one in one step. So whatever somebody else did in that moment is still there, is noticed, and goes back.

    take      what goes, and what moves, into the stage: files first, then the directories that are empty by then
    place     directories first, then files

`put_back` needs to know nothing of how far this came: it looks at what is where.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from drkit import osutil
from drkit.errors import GuardRefused
from drkit.guard.journal import Edit, FileState, PathChange
from drkit.guard.tree import parent_of, state_of, walk_down
from drkit.model import show_path
from drkit.restore.dirs import OPEN_DIR, lstat, remove
from drkit.restore.mirror import copy_attributes

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""Errors that say that a path is not there any more, or leads through something else."""
_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV})


class Applier:
    """An edit and its plugin, by the descriptor of its directory.

    Errors are OSErrors, those of GONE where somebody else has taken a path away, and GuardRefused.
    """

    def __init__(self, root_fd: int, edit: Edit) -> None:
        self._root = root_fd
        self._edit = edit
        self._changes = edit.changes
        self._stage = edit.stage

    # Forwards

    def apply(self, data: dict[int, bytes]) -> None:
        """Do everything, durably, and read it back. GuardRefused if somebody else changed one of the paths."""
        os.mkdir(self._stage, 0o700, dir_fd=self._root)
        for number, change in enumerate(self._changes):
            if change.new is not None and change.origin < 0:
                self._make(number, change, data)
        self._take()
        self._place()
        self._settle(forwards=True)
        self._check()

    def finish(self) -> None:
        """Remove the stage, with everything old in it."""
        remove(self._root, self._stage)
        for time in self._edit.times:
            if not time.path and time.new is not None:
                os.utime(self._root, ns=(time.new, time.new))

    def _make(self, number: int, change: PathChange, data: dict[int, bytes]) -> None:
        assert change.new is not None
        name = self._slot("n", number)
        if change.new.type == "d":
            os.mkdir(name, 0o700, dir_fd=self._root)
            with _opened(self._root, name, OPEN_DIR) as fd:
                os.fchmod(fd, change.new.mode)
            return
        with _opened(self._root, name, _NEW_FILE) as fd:
            view = memoryview(data[number])
            while view:
                view = view[os.write(fd, view) :]
            if change.old is not None and change.old.type == "f":
                self._dress_like(fd, change.path)
            os.fchmod(fd, change.new.mode)
            os.fsync(fd)

    def _dress_like(self, fd: int, path: bytes) -> None:
        """Give a new file the owner and the extended attributes of the one that it replaces; its times are its own."""
        now = os.fstat(fd)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with parent_of(self._root, path) as (above, name), _opened(above, name, flags) as old:
            copy_attributes(old, fd)
        os.utime(fd, ns=(now.st_atime_ns, now.st_mtime_ns))

    def _take(self) -> None:
        for number, change in enumerate(self._changes):
            if _file_like(change, change.old) and not self._replaced(change):
                self._take_one(number, change)
        for number, change in reversed(list(enumerate(self._changes))):
            if change.old is not None and not _file_like(change, change.old):
                self._take_one(number, change)

    def _take_one(self, number: int, change: PathChange) -> None:
        slot = self._old_slot(number, change)
        self._rename(change.path, slot)
        self._check_old(change, slot, change.path)

    def _place(self) -> None:
        for number, change in enumerate(self._changes):
            if change.new is not None and not _file_like(change, change.new):
                self._rename(self._slot("n", number), change.path)
        for number, change in enumerate(self._changes):
            if not _file_like(change, change.new):
                continue
            if self._replaced(change):
                self._replace(number, change)
            else:
                self._rename(self._slot("n", number), change.path)

    def _replace(self, number: int, change: PathChange) -> None:
        new, kept = self._slot("n", number), self._slot("k", number)
        try:
            self._exchange(new, change.path)
        except OSError as error:
            if error.errno not in _NO_EXCHANGE:
                raise
            self._rename(change.path, kept)
            self._check_old(change, kept, change.path)
            self._rename(new, change.path)
        else:
            if self._state(new, change) != change.old:
                self._exchange(new, change.path)
                if self._state(new, change) != change.new:  # and once more, in this very moment: the later work stays
                    self._exchange(new, change.path)
                raise _changed(change.path)
            self._rename(new, kept)

    def _check_old(self, change: PathChange, slot: bytes, path: bytes) -> None:
        """Make sure that what was taken is what was there before; else it goes back at once."""
        if self._state(slot, change) != change.old or (not _file_like(change, change.old) and self._holds_any(slot)):
            self._rename(slot, path)
            raise _changed(path)

    def _check(self) -> None:
        for change in self._changes:
            if self._state(change.path, change) != change.new:
                raise _changed(change.path)

    # Backwards

    def put_back(self) -> list[bytes]:
        """Put everything back as it was before, durably, and remove the stage; return the paths left alone.

        These are neither as they were before nor as the edit would have them: they are somebody's later work. May be
        done again at any point where it was interrupted.
        """
        if lstat(self._root, self._stage) is None:  # nothing was begun, or everything is put back
            if all(self._state(change.path, change) == change.old for change in self._changes):
                self._set_own_time()
            return []
        alone: list[bytes] = []
        for number, change in enumerate(self._changes):
            if _file_like(change, change.new):
                self._take_back(number, change, alone)
        for number, change in reversed(list(enumerate(self._changes))):
            if change.new is not None and not _file_like(change, change.new):
                self._take_back(number, change, alone)
        for number, change in enumerate(self._changes):
            if change.old is not None and not _file_like(change, change.old):
                self._bring_back(number, change, alone)
        for number, change in enumerate(self._changes):
            if _file_like(change, change.old):
                self._bring_back(number, change, alone)
        self._settle(forwards=False)
        remove(self._root, self._stage)
        if not alone:
            self._set_own_time()
        return sorted(set(alone))

    def _set_own_time(self) -> None:
        """Give the plugin's directory the time that it had before there was a stage in it."""
        for time in self._edit.times:
            if not time.path and time.old is not None:
                os.utime(self._root, ns=(time.old, time.old))

    def _take_back(self, number: int, change: PathChange, alone: list[bytes]) -> None:
        """Take the new thing away, if it is there."""
        live = self._state(change.path, change)
        if live is None or (live == change.old and live != change.new):
            return
        new, kept = self._slot("n", number), self._slot("k", number)
        if live != change.new or (not _file_like(change, change.new) and self._holds_any(change.path)):
            alone.append(change.path)
            return
        if self._replaced(change):
            for slot in (kept, new):
                if self._state(slot, change) == change.old:
                    self._exchange_back(slot, change, alone)
                    return
        elif lstat(self._root, self._stage) is not None and self._state(new, change) is None:
            self._rename(change.path, new)
            if self._state(new, change) != change.new:
                self._rename(new, change.path)
                alone.append(change.path)

    def _exchange_back(self, slot: bytes, change: PathChange, alone: list[bytes]) -> None:
        try:
            self._exchange(slot, change.path)
        except OSError as error:
            if error.errno not in _NO_EXCHANGE:
                raise
            spare = self._stage + b"/" + b"s" + slot.rpartition(b"/")[2]
            self._rename(change.path, spare)
            self._rename(slot, change.path)
            self._rename(spare, slot)
        if self._state(slot, change) != change.new:
            self._exchange(slot, change.path)
            alone.append(change.path)

    def _bring_back(self, number: int, change: PathChange, alone: list[bytes]) -> None:
        """Let the old thing take its place again, if nothing is there."""
        live = self._state(change.path, change)
        if live is not None:
            if live != change.old:
                alone.append(change.path)
            return
        slots = [self._old_slot(number, change), self._slot("k", number), self._slot("n", number)]
        for slot in slots:
            if self._state(slot, change) == change.old:
                try:
                    self._rename(slot, change.path)
                except OSError as error:  # somebody removed the directory above
                    if error.errno not in GONE:
                        raise
                    alone.append(change.path)
                return
        alone.append(change.path)

    # Both ways

    def _replaced(self, change: PathChange) -> bool:
        """Whether a file takes the place of another in one step."""
        return change.target < 0 and _file_like(change, change.old) and _file_like(change, change.new)

    def _slot(self, kind: str, number: int) -> bytes:
        return self._stage + f"/{kind}{number}".encode()

    def _old_slot(self, number: int, change: PathChange) -> bytes:
        return self._slot("k", number) if change.target < 0 else self._slot("n", change.target)

    def _state(self, path: bytes, change: PathChange) -> FileState | None:
        return state_of(self._root, path, opaque=change.opaque)

    def _holds_any(self, path: bytes) -> bool:
        """Whether a directory holds something."""
        fd = walk_down(self._root, path)
        try:
            return bool(os.listdir(fd))
        finally:
            os.close(fd)

    def _rename(self, old: bytes, new: bytes) -> None:
        """Move something to where nothing is. GuardRefused if something is there, or nothing is to be moved."""
        with parent_of(self._root, old) as (old_fd, name), parent_of(self._root, new) as (new_fd, to):
            try:
                osutil.rename_noreplace(old_fd, name, new_fd, to)
            except FileExistsError:
                raise _changed(new) from None

    def _exchange(self, slot: bytes, path: bytes) -> None:
        with parent_of(self._root, slot) as (slot_fd, name), parent_of(self._root, path) as (fd, last):
            osutil.rename_exchange(slot_fd, name, fd, last)

    def _settle(self, *, forwards: bool) -> None:
        """Set the times of directories, and make everything durable."""
        for time in reversed(self._edit.times):
            mtime = time.new if forwards else time.old
            try:
                fd = walk_down(self._root, time.path)
            except OSError as error:
                if error.errno not in GONE:
                    raise
                continue
            try:
                if mtime is not None:
                    os.utime(fd, ns=(mtime, mtime))
                osutil.fsync_dir(fd)
            finally:
                os.close(fd)


def _file_like(change: PathChange, state: FileState | None) -> bool:
    """Whether this is moved as one thing: everything but directories that snapshots have."""
    return state is not None and (state.type != "d" or change.opaque)


def _changed(path: bytes) -> GuardRefused:
    return GuardRefused(
        f"somebody else changed {show_path(path)} meanwhile: nothing was written", hint="look at it, then try again"
    )


@contextlib.contextmanager
def _opened(dir_fd: int, name: bytes, flags: int) -> Iterator[int]:
    fd = os.open(name, flags, 0o600, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)
