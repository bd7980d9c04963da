"""A staged tree: letting it take the place of the live one, and putting the old one back.

There are four ways. Each is written so that it can begin at any point where an interruption may have left it: the
same code swaps, finishes after a crash, and undoes.

exchange   one system call; the stage's name then holds the old tree
rename     two: the old tree to `<stage>.old`, the new one to its place (only the second if there is no old one)
files      the old tree is copied to `<stage>.old`, then the live one is changed file by file
move       the stage lies inside of an empty directory: what it holds moves up
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Self

import msgspec

from drkit import osutil
from drkit.errors import LockedError, StoreError
from drkit.model import show_path
from drkit.restore.dirs import OPEN_DIR, lstat, remove
from drkit.restore.journal import Journal, Record, is_journal
from drkit.restore.mirror import copy_attributes, make_passable, mirror
from drkit.restore.site import LOST_AND_FOUND, Site

_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})
_PROTECTED = frozenset({errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS})
"""A directory may not be renamed: a mount point, of an overlay's lower layer, or it or the one above is protected."""
_TRIES = 16


class Unclear(StoreError):
    """Somebody else has changed what an interrupted swap left: nothing is touched."""


class Stage:
    """A private directory `.drkit-<random>` in a site, with its journal.

    While its journal says "staging" the live tree is untouched; "swap" is written before the swap begins, "undo"
    before it is undone, "done" when the live tree was checked and only the old one remains to be removed.
    """

    def __init__(self, site: Site, journal: Journal, record: Record) -> None:
        self.site = site
        self.name = journal.stage
        self.record = record
        self._journal = journal
        self._old = self.name + b".old"
        self._moved: list[bytes] = []
        self._before = self._live_id()

    @classmethod
    def create(cls, site: Site, random: Callable[[int], bytes]) -> Self:
        """Make the stage; the journal comes first, so that a stage without one is never ours.

        LockedError if another process restores inside of the same directory.
        """
        if site.inside and any(is_journal(name) for name in map(os.fsencode, os.listdir(site.dir_fd))):
            raise LockedError(f"another restore is working in {show_path(site.path)}")
        record = Record(
            "staging",
            live=base64.b64encode(site.live).decode(),
            old_mtime_ns=os.fstat(site.dir_fd).st_mtime_ns if site.inside else None,
        )
        for _ in range(_TRIES):
            journal = Journal.create(site.dir_fd, b".drkit-" + random(8).hex().encode())
            if journal is not None:
                break
        else:
            raise StoreError(f"cannot find a free name for a stage beside {show_path(site.path)}")
        stage = cls(site, journal, record)
        try:
            journal.write(record)
            osutil.fsync_dir(site.dir_fd)
            os.mkdir(stage.name, 0o700, dir_fd=site.dir_fd)
        except BaseException:
            stage.abandon()
            raise
        return stage

    @contextlib.contextmanager
    def open(self) -> Iterator[int]:
        """Open the staged directory."""
        with _opened(self.site.dir_fd, self.name) as fd:
            yield fd

    @property
    def spare(self) -> frozenset[bytes]:
        """Names at the top of the live directory that are no part of the live tree."""
        if not self.site.inside:
            return frozenset()
        own = {self.name, self._old, self.name + b".journal"}
        with self.open() as fd:
            return frozenset(own if lstat(fd, LOST_AND_FOUND) else {*own, LOST_AND_FOUND})

    # Swapping

    def swap(self) -> str:
        """Let the stage take its place, durably; return the way for the report.

        OSError if no way worked, Unclear if the live name stands for something else than when the stage was made:
        `abandon` then leaves the live tree as it was. The live tree is to be checked now, and then `finish` or
        `abandon` be called.
        """
        live = self._before
        if self._live_id() != live:
            raise Unclear(f"somebody else changed {show_path(self.site.path)} meanwhile")
        new = os.stat(self.name, dir_fd=self.site.dir_fd, follow_symlinks=False)
        base = msgspec.structs.replace(
            self.record,
            state="swap",
            new=(new.st_dev, new.st_ino),
            old=live,
            mode=new.st_mode & 0o7777,
            mtime_ns=new.st_mtime_ns,
        )
        if self.site.inside:
            with self.site.open_live() as live_fd:
                empty = not {*map(os.fsencode, os.listdir(live_fd))} - self.spare
            way = "move" if empty else "files"
        else:
            way = "exchange" if live else "rename"
        while True:
            if way == "files":
                self._save_old(base)
            self._write(msgspec.structs.replace(base, method=way))
            try:
                self._do()
            except OSError as error:
                if way == "exchange" and error.errno in _NO_EXCHANGE:
                    way = "rename"
                elif way != "files" and live and error.errno in _PROTECTED:
                    way = "files"
                else:
                    raise
                self.undo()
                continue
            if way in ("exchange", "rename") and self._live_id() != base.new:
                raise Unclear(f"somebody else changed {show_path(self.site.path)} meanwhile")
            return "rename" if way == "move" else way

    def _save_old(self, base: Record) -> None:
        """Keep a copy of the live tree, durably, before it is changed file by file."""
        self._write(msgspec.structs.replace(base, state="staging"))
        os.mkdir(self._old, 0o700, dir_fd=self.site.dir_fd)
        with self.site.open_live() as live, _opened(self.site.dir_fd, self._old) as old:
            mirror(live, old, self._temporary, spare=self.spare)
            osutil.syncfs(old)

    @property
    def _temporary(self) -> bytes:
        return self.name + b".tmp"

    def _write(self, record: Record) -> None:
        self._journal.write(record)
        self.record = record

    def _do(self) -> None:
        """Do the swap that the record announces, durably."""
        way = self.record.method
        if way == "exchange":
            if self._live_id() == self.record.old:
                osutil.rename_exchange(self.site.dir_fd, self.name, self.site.dir_fd, self.site.live)
        elif way == "rename":
            self._replace()
        elif way == "files":
            self._mirror(self.name)
        elif way == "move":
            self._move_up()
        self._sync()

    def settle(self) -> None:
        """Finish a swap in whose middle its process died. One that had not begun is not begun now."""
        way = self.record.method
        if way == "rename":
            staged, _, old = self._there()
            if staged and old:
                self._replace()
        elif way in ("files", "move"):
            self._do()
        self._sync()

    def undo(self) -> None:
        """Put the old tree back, from whatever point of the swap, durably."""
        way = self.record.method
        if way == "exchange":
            if self._live_id() == self.record.new:
                osutil.rename_exchange(self.site.dir_fd, self.name, self.site.dir_fd, self.site.live)
        elif way == "rename":
            self._replace_back()
        elif way == "files":
            self._mirror(self._old)
        elif way == "move":
            with self.open() as stage:
                while self._moved:
                    osutil.rename_noreplace(self.site.dir_fd, self._moved[-1], stage, self._moved[-1])
                    self._moved.pop()
        self._sync()

    def _replace(self) -> None:
        staged, live, old = self._there()
        if staged and live and old:
            raise Unclear(f"somebody made {show_path(self.site.path)} anew while it was being replaced")
        if staged and live and self.record.old is not None:
            self._rename(self.site.live, self._old)
            live = False
        if staged and not live:
            self._rename(self.name, self.site.live)

    def _replace_back(self) -> None:
        staged, live, old = self._there()
        if staged and live and old:
            raise Unclear(f"somebody made {show_path(self.site.path)} anew while it was being replaced")
        if live and not staged and self._live_id() == self.record.new:
            self._rename(self.site.live, self.name)
            live = False
        if old and not live:
            self._rename(self._old, self.site.live)

    def _there(self) -> tuple[bool, bool, bool]:
        fd = self.site.dir_fd
        staged, live, old = (lstat(fd, name) is not None for name in (self.name, self.site.live, self._old))
        return staged, live, old

    def _rename(self, name: bytes, to: bytes) -> None:
        osutil.rename_noreplace(self.site.dir_fd, name, self.site.dir_fd, to)

    def _mirror(self, source: bytes) -> None:
        with _opened(self.site.dir_fd, source) as fd, self.site.open_live() as live:
            mirror(fd, live, self._temporary, spare=self.spare)

    def _move_up(self) -> None:
        record, live = self.record, self.site.dir_fd
        with self.open() as stage:
            make_passable(stage)
            for name in map(os.fsencode, os.listdir(stage)):
                osutil.rename_noreplace(stage, name, live, name)
                self._moved.append(name)
            copy_attributes(stage, live)
        if record.mode >= 0 and record.mtime_ns is not None:  # the stage's own have changed since
            os.fchmod(live, record.mode)
            os.utime(live, ns=(record.mtime_ns, record.mtime_ns))

    def _live_id(self) -> tuple[int, int] | None:
        found = self.site.live_stat()
        return (found.st_dev, found.st_ino) if found else None

    def _sync(self) -> None:
        if self.record.method in ("exchange", "rename"):
            osutil.fsync_dir(self.site.dir_fd)
        else:
            osutil.syncfs(self.site.dir_fd)

    # Ending

    def finish(self) -> str:
        """Remove the old tree, now that the live one was checked; return a note if it could not be removed."""
        try:
            self.drop()
        except OSError as error:
            self._journal.close()
            above = self.site.path if self.site.inside else os.path.dirname(self.site.path)
            where = show_path(os.path.join(above, self.name))
            return f"the old tree was left in {where}: {error.strerror}; the next restore there removes it"
        return ""

    def abandon(self) -> None:
        """Leave the live tree as it was, and remove the stage.

        StoreError if a swap that began cannot be undone: the next restore in the same directory tries again.
        """
        try:
            if self.record.state == "swap":
                self.record = msgspec.structs.replace(self.record, state="undo")
                with contextlib.suppress(OSError):
                    # Without this line a crash in the middle of undoing would be finished the other way: whole, too.
                    self._journal.write(self.record)
                self.undo()
        except (OSError, Unclear) as error:
            self._journal.close()
            raise StoreError(
                f"the old content of {show_path(self.site.path)} could not be put back: {error}",
                hint="run the restore again: it first ends what was interrupted",
            ) from error
        try:
            self.drop()
        except OSError:
            self._journal.close()  # what is left is inert, and the next restore in this directory removes it

    def drop(self) -> None:
        """Remove the stage, the copy of the old tree, and at last the journal."""
        record = self.record
        mtime = record.mtime_ns if record.state == "swap" else record.old_mtime_ns
        if record.state in ("swap", "undo") and record.method in ("files", "move"):
            # From here on neither tree in the stage is whole: nothing may be finished from it, or undone.
            self._write(msgspec.structs.replace(record, state="done", old_mtime_ns=mtime))
        remove(self.site.dir_fd, self.name)
        remove(self.site.dir_fd, self._old)
        self._journal.remove()
        if self.site.inside and mtime is not None:  # making and removing the stage has changed it
            os.utime(self.site.dir_fd, ns=(mtime, mtime))

    def leave(self) -> None:
        """Leave everything as it is for the next run."""
        self._journal.close()


@contextlib.contextmanager
def staged(site: Site, random: Callable[[int], bytes]) -> Iterator[Stage]:
    """Make a stage for a `with` block; if the block fails, the live tree is as it was and the stage is gone."""
    stage = Stage.create(site, random)
    try:
        yield stage
    except BaseException:
        stage.abandon()
        raise


@contextlib.contextmanager
def _opened(dir_fd: int, name: bytes) -> Iterator[int]:
    fd = os.open(name, OPEN_DIR, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)
