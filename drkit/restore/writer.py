"""Writing a tree into an empty private directory, in manifest order."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from drkit import osutil
from drkit.errors import IntegrityError
from drkit.format.limits import MIB
from drkit.model import Entry
from drkit.progress import Progress
from drkit.restore.attrs import (
    UNSUPPORTED,
    Host,
    filling_mode,
    held_mode,
    odd_time,
    set_directory,
    set_mode,
    set_owner,
    set_xattrs,
)
from drkit.restore.dirs import DirStack
from drkit.restore.feed import Content
from drkit.restore.report import Lost, Outcome
from drkit.restore.select import Item

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HOLE = 65536
_ZEROS = bytes(_HOLE)
_UNABLE = UNSUPPORTED | {errno.EEXIST, errno.ENAMETOOLONG, errno.EILSEQ, errno.EFBIG, errno.EOVERFLOW}
"""Errors that concern one name only, such as one that this file system does not allow."""
_UNLINKABLE = UNSUPPORTED | {errno.EMLINK, errno.EXDEV}
_TOLD = 256


class Writer:
    """Makes everything below a directory that nobody else can enter.

    Every name is made relative to the descriptor of its directory, none may exist before, and no link is ever
    followed. What cannot be made goes to the outcome; a file is there whole or not at all. OSError for what
    concerns everything, such as a full disk.

    Directories that are `shared` with another writer are there already; what their entries say is left to whoever
    knows that both are done, in `left`.
    """

    def __init__(
        self,
        root_fd: int,
        host: Host,
        outcome: Outcome,
        progress: Progress,
        *,
        sync_each: bool,
        shared: Sequence[bytes] = (),
    ) -> None:
        self.left: dict[bytes, Entry] = {}
        self._root_fd = root_fd
        self._host = host
        self._outcome = outcome
        self._progress = progress
        self._sync_each = sync_each
        self._shared = frozenset(shared)
        self._stack = DirStack(root_fd)
        self._entries: list[Entry] = []  # of the stack's directories, the root's excluded
        self._dead: tuple[bytes, str] | None = None

    def go_down(self, directories: Sequence[bytes]) -> None:
        """Begin in the last of these shared directories, each of which lies in the one before."""
        for path in directories:
            self._stack.push(os.path.basename(path), path)
            self._entries.append(Entry(type="d"))

    def run(self, feed: Iterable[tuple[Item, Content | None] | Lost]) -> Entry | None:
        """Write everything; return the root's own entry, if the manifest has one."""
        root: Entry | None = None
        paths = self._stack.paths
        files = size = 0
        try:
            for message in feed:
                if isinstance(message, Lost):
                    self._outcome.gaps.append(message)
                    continue
                (path, entry, first), content = message
                if not path:
                    root = entry
                    continue
                parent, _, name = path.rpartition(b"/")
                while paths[-1] != parent and not (self._dead and path.startswith(self._dead[0])):
                    self._leave()
                self._make(path, name, entry, first, content)
                files += 1
                size += entry.size
                if files >= _TOLD or size >= MIB:
                    self._progress.advance(files, size)
                    files = size = 0
            while self._entries:
                self._leave()
        finally:
            self._stack.close()
        self._progress.advance(files, size)
        return root

    def _make(self, path: bytes, name: bytes, entry: Entry, first: bytes | None, content: Content | None) -> None:
        if self._dead is not None:
            if path.startswith(self._dead[0]):
                self._outcome.lost[path] = self._dead[1]
                return
            self._dead = None
        try:
            kind = entry.type
            if kind == "d":
                self._enter(path, name, entry)
            elif kind == "f":
                self._file_or_link(path, name, entry, first, content)
            else:
                self._special(path, name, entry)
        except OSError as error:
            if error.errno not in _UNABLE:
                raise
            self._unable(path, entry, f"cannot be made here: {error.strerror}")

    def _unable(self, path: bytes, entry: Entry, reason: str) -> None:
        self._outcome.lost[path] = reason
        if entry.type == "d":
            self._dead = path + b"/", reason

    # Directories

    def _enter(self, path: bytes, name: bytes, entry: Entry) -> None:
        if path in self._shared:
            os.fchmod(self._stack.push(name, path), filling_mode(entry) & ~self._host.umask)
        else:
            os.mkdir(name, filling_mode(entry), dir_fd=self._stack.fds[-1])
            self._stack.push(name, path)
        self._entries.append(entry)

    def _leave(self) -> None:
        entry = self._entries.pop()
        stack = self._stack
        if stack.paths[-1] in self._shared:
            self.left[stack.paths[-1]] = entry
        else:
            set_directory(stack.fds[-1], stack.paths[-1], entry, self._host, self._outcome)
            if self._sync_each:
                os.fsync(stack.fds[-1])
        stack.pop()

    # Files

    def _file_or_link(
        self, path: bytes, name: bytes, entry: Entry, first: bytes | None, content: Content | None
    ) -> None:
        if first is not None:
            if first in self._outcome.lost:
                self._outcome.lost[path] = self._outcome.lost[first]
                return
            if self._link(first, name):
                return
            content = self._read_first(first)
        if isinstance(content, str):
            self._outcome.lost[path] = content
            return
        try:
            self._file(path, name, entry, content or b"")
        except IntegrityError as error:
            self._outcome.lost[path] = str(error)

    def _link(self, first: bytes, name: bytes) -> bool:
        if "links" in self._outcome.unset:
            return False
        try:
            os.link(
                first,
                name,
                src_dir_fd=self._root_fd,
                dst_dir_fd=self._stack.fds[-1],
                follow_symlinks=False,
            )
        except OSError as error:
            if error.errno not in _UNLINKABLE:
                raise
            self._outcome.unset.add("links")
            return False
        return True

    def _read_first(self, first: bytes) -> Iterator[bytes]:
        fd = os.open(first, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root_fd)
        try:
            while data := os.read(fd, MIB):
                yield data
        finally:
            os.close(fd)

    def _file(self, path: bytes, name: bytes, entry: Entry, content: bytes | Iterator[bytes]) -> None:
        host, outcome = self._host, self._outcome
        dir_fd = self._stack.fds[-1]
        owned = entry.uid == host.uid and entry.gid == host.gid
        plain = owned and not entry.xattrs
        first_mode = entry.mode & 0o777 if plain else 0o600
        fd = os.open(name, NEW_FILE, first_mode, dir_fd=dir_fd)
        try:
            if isinstance(content, bytes):
                _write(fd, content)
            else:
                _write_pieces(fd, content, entry.size)
            if not owned:
                set_owner(entry, host, outcome, path, fd)
            if entry.xattrs:
                set_xattrs(entry.xattrs, outcome, fd)
            mode = outcome.mode(path, entry)
            held = held_mode(entry, mode, host)
            if held != mode:
                outcome.late.append((path, mode))
            if not plain or held != first_mode & ~host.umask:
                set_mode(held, outcome, fd)
            mtime = entry.mtime_ns
            if mtime is not None:
                os.utime(fd, ns=(mtime, mtime))
                if odd_time(mtime) and os.fstat(fd).st_mtime_ns != mtime:
                    outcome.odd_times.add(path)
            if self._sync_each:
                os.fsync(fd)
        except BaseException:
            os.unlink(name, dir_fd=dir_fd)
            raise
        finally:
            os.close(fd)

    # Everything else

    def _special(self, path: bytes, name: bytes, entry: Entry) -> None:
        host, outcome = self._host, self._outcome
        dir_fd = self._stack.fds[-1]
        kind = entry.type
        if kind == "l":
            os.symlink(entry.raw_target, name, dir_fd=dir_fd)
        elif kind == "p":
            os.mkfifo(name, 0o600, dir_fd=dir_fd)
        else:
            form = stat.S_IFCHR if kind == "c" else stat.S_IFBLK
            try:
                os.mknod(name, form | 0o600, entry.rdev, dir_fd=dir_fd)
            except PermissionError:
                outcome.skipped.add(path)
                return
        if entry.uid != host.uid or entry.gid != host.gid:
            set_owner(entry, host, outcome, path, dir_fd, name)
        if entry.xattrs:
            set_xattrs(entry.xattrs, outcome, dir_fd, name)
        if kind != "l":
            # Made a moment ago by us, in a directory that only we can enter: it is no link.
            os.chmod(name, outcome.mode(path, entry), dir_fd=dir_fd)
        mtime = entry.mtime_ns
        if mtime is not None:
            os.utime(name, ns=(mtime, mtime), dir_fd=dir_fd, follow_symlinks=False)
            if odd_time(mtime) and os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mtime_ns != mtime:
                outcome.odd_times.add(path)


def _write(fd: int, data: bytes) -> None:
    if data and (done := os.write(fd, data)) != len(data):
        view = memoryview(data)
        while done < len(view):
            done += os.write(fd, view[done:])


def _write_pieces(fd: int, pieces: Iterator[bytes], size: int) -> None:
    """Write a large file piece by piece; long runs of zeros become holes. IntegrityError if a piece is lost."""
    at = 0
    for piece in pieces:
        at = _write_sparse(fd, piece, at)
    os.ftruncate(fd, size)


def _write_sparse(fd: int, data: bytes, at: int) -> int:
    """Write `data` at an offset without its runs of 64 KiB and more of zeros; return the offset behind it."""
    start = 0
    view = memoryview(data)
    while (run := data.find(_ZEROS, start)) >= 0:
        osutil.write_at(fd, view[start:run], at + start)
        start = run + _HOLE
        while data[start : start + _HOLE] == _ZEROS:
            start += _HOLE
        start += len(data[start : start + _HOLE]) - len(data[start : start + _HOLE].lstrip(b"\0"))
    osutil.write_at(fd, view[start:], at + start)
    return at + len(data)
