"""Reading a restored tree back and comparing it with the manifest, field by field."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable

from msgspec import Struct

from drkit.errors import RestoreMismatch
from drkit.format.limits import MIB
from drkit.format.treehash import TreeHash
from drkit.model import FORMS, Entry, show_path
from drkit.progress import Progress
from drkit.restore.attrs import Host, get_xattr, held_mode
from drkit.restore.contents import Contents
from drkit.restore.dirs import DirStack, lstat
from drkit.restore.report import Outcome
from drkit.restore.select import Batch

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SHOWN = 10
_COARSE = 2 * 10**9


class Checked(Struct, frozen=True):
    """What was read back: counts as in a report, and the tree hash of it."""

    files: int
    dirs: int
    links: int
    others: int
    bytes: int
    tree_sha256: str


def check_tree(
    root_fd: int,
    batches: Iterable[Batch],
    host: Host,
    outcome: Outcome,
    *,
    spare: frozenset[bytes] = frozenset(),
    final: bool = False,
    apart: bool = False,
    progress: Progress | None = None,
) -> Checked:
    """Compare what lies below `root_fd` with the manifest: nothing missing, nothing extra, every field equal.

    Left out is what the outcome says is lost, skipped or cannot be set; `spare` are names at the top that are not
    looked at. `final` expects the modes that the outcome holds back until the check is over. `apart` lets a second
    process read the contents meanwhile. RestoreMismatch names the first paths that differ.
    """
    contents = _second_process(root_fd) if apart else None
    checker = _Checker(root_fd, host, outcome, spare, final, contents)
    try:
        for batch in batches:
            for path, entry, first in batch.items:
                checker.item(path, entry, first)
            if len(checker.wrong) >= _SHOWN:
                checker.fail()
            if progress is not None:
                progress.advance(len(batch.items), sum(entry.size for _, entry, _ in batch.items))
        checker.close()
        if contents is not None:
            checker.wrong += (f"{show_path(path)} has another content" for path in contents.finish())
    finally:
        checker.stack.close()
        if contents is not None:
            contents.close()
    if checker.wrong:
        checker.fail()
    return Checked(
        checker.counts["f"],
        checker.counts["d"],
        checker.counts["l"],
        checker.counts["p"] + checker.counts["c"] + checker.counts["b"],
        checker.bytes,
        checker.hash.hexdigest(),
    )


def _second_process(root_fd: int) -> Contents | None:
    try:
        return Contents(root_fd)
    except OSError:
        return None  # then this one reads all by itself


class _Checker:
    def __init__(
        self,
        root_fd: int,
        host: Host,
        outcome: Outcome,
        spare: frozenset[bytes],
        final: bool,
        contents: Contents | None,
    ) -> None:
        self.stack = DirStack(root_fd)
        self.hash = TreeHash()
        self.counts = dict.fromkeys("fdlpcb", 0)
        self.bytes = 0
        self.wrong: list[str] = []
        self._host = host
        self._outcome = outcome
        self._missing = outcome.lost.keys() | outcome.skipped
        self._spare = spare
        self._final = final
        self._contents = contents
        self._expected = [0]  # names that were found in each directory of the stack
        self._inodes: dict[bytes, int] = {}
        self._buffer = bytearray(MIB)

    def item(self, path: bytes, entry: Entry, first: bytes | None) -> None:
        """Check one selected item."""
        kind = entry.type
        if not path:
            self._compare(path, entry, os.fstat(self.stack.fds[0]), stat.S_IFDIR, self.stack.fds[0])
            self._count(path, entry, b"", os.fstat(self.stack.fds[0]).st_mode)
            return
        if self._missing and path in self._missing:
            return
        parent, _, name = path.rpartition(b"/")
        paths = self.stack.paths
        while paths[-1] != parent:
            if len(paths) == 1 or parent.startswith(paths[-1] + b"/"):
                self.wrong.append(f"{show_path(path)} is missing")
                return
            self._up()
        self._expected[-1] += 1
        try:
            if kind == "f":
                self._file(path, name, entry, first)
            elif kind == "d":
                fd = self.stack.push(name, path)
                self._expected.append(0)
                found = os.fstat(fd)
                self._compare(path, entry, found, stat.S_IFDIR, fd)
                self._count(path, entry, b"", found.st_mode)
            else:
                self._special(path, name, entry)
        except FileNotFoundError:
            self._expected[-1] -= 1
            self.wrong.append(f"{show_path(path)} is missing")
        except OSError as error:
            self.wrong.append(f"{show_path(path)} cannot be read back: {error.strerror}")

    def close(self) -> None:
        """Check what only shows at the end: names that are too many."""
        while len(self.stack.paths) > 1:
            self._up()
        self._extra()

    def fail(self) -> None:
        """Raise RestoreMismatch with what is wrong."""
        shown = "; ".join(self.wrong[:_SHOWN])
        raise RestoreMismatch(f"what was read back differs from the snapshot: {shown}")

    def _up(self) -> None:
        self._extra()
        self._expected.pop()
        self.stack.pop()

    def _extra(self) -> None:
        fd = self.stack.fds[-1]
        names = os.listdir(fd)
        spare = 0
        if len(self.stack.paths) == 1 and self._spare:
            spare = sum(os.fsencode(name) in self._spare for name in names)
        if len(names) - spare != self._expected[-1]:
            where = show_path(self.stack.paths[-1]) or "the restored directory"
            self.wrong.append(f"{where} has {len(names) - spare} entries instead of {self._expected[-1]}")

    def _file(self, path: bytes, name: bytes, entry: Entry, first: bytes | None) -> None:
        if self._contents is not None and self._contents.takes(path):
            self._file_apart(path, name, entry, first, self._contents)
            return
        fd = os.open(name, _READ, dir_fd=self.stack.fds[-1])
        try:
            found = os.fstat(fd)
            self._compare(path, entry, found, stat.S_IFREG, fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size:
                if stat.S_ISREG(found.st_mode):
                    self.wrong.append(f"{show_path(path)} has {found.st_size} bytes instead of {entry.size}")
                return
            digest = self._digest(fd, entry.size)
        finally:
            os.close(fd)
        if digest.hex() != entry.sha256:
            self.wrong.append(f"{show_path(path)} has another content")
        if entry.link:
            self._linked(path, first, found)
        self.bytes += entry.size
        self._count(path, entry, digest, found.st_mode)

    def _file_apart(self, path: bytes, name: bytes, entry: Entry, first: bytes | None, contents: Contents) -> None:
        """Check all of a file but its content, which the other process reads."""
        dir_fd = self.stack.fds[-1]
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        self._compare(path, entry, found, stat.S_IFREG, dir_fd, name)
        if found.st_size != entry.size:
            self.wrong.append(f"{show_path(path)} has {found.st_size} bytes instead of {entry.size}")
        digest = bytes.fromhex(entry.sha256)
        contents.expect(path, digest)
        if entry.link:
            self._linked(path, first, found)
        self.bytes += entry.size
        self._count(path, entry, digest, found.st_mode)

    def _digest(self, fd: int, size: int) -> bytes:
        if size <= MIB:
            data = os.read(fd, size + 1)
            while len(data) < size and (more := os.read(fd, size)):
                data += more
            return hashlib.sha256(data).digest()
        digest = hashlib.sha256()
        view = memoryview(self._buffer)
        while count := os.readv(fd, [view]):
            digest.update(view[:count])
        return digest.digest()

    def _linked(self, path: bytes, first: bytes | None, found: os.stat_result) -> None:
        """Compare hard links: a name that could be linked to the first one must be."""
        if first is None:
            self._inodes[path] = found.st_ino
        elif "links" not in self._outcome.unset and self._inodes.get(first) != found.st_ino:
            self.wrong.append(f"{show_path(path)} is no hard link to {show_path(first)}")

    def _special(self, path: bytes, name: bytes, entry: Entry) -> None:
        dir_fd = self.stack.fds[-1]
        found = lstat(dir_fd, name)
        if found is None:
            raise FileNotFoundError
        self._compare(path, entry, found, FORMS[entry.type], dir_fd, name)
        content = b""
        if entry.type == "l":
            content = os.readlink(name, dir_fd=dir_fd) if stat.S_ISLNK(found.st_mode) else b""
            if content != entry.raw_target:
                self.wrong.append(f"{show_path(path)} links to another target")
        elif entry.type in "cb":
            content = b"%d" % found.st_rdev
            if found.st_rdev != entry.rdev:
                self.wrong.append(f"{show_path(path)} is another device")
        self._count(path, entry, content, found.st_mode)

    def _count(self, path: bytes, entry: Entry, content: bytes, mode: int) -> None:
        """Count what was found; the modes held back for the check go into the hash as they will be."""
        self.counts[entry.type] += 1
        if entry.mode >= 0 and "mode" not in self._outcome.unset:
            mode = self._outcome.mode(path, entry)
        self.hash.add(path, entry.type, mode & 0o7777, content)

    def _compare(
        self, path: bytes, entry: Entry, found: os.stat_result, form: int, fd: int, name: bytes | None = None
    ) -> None:
        """Compare type, mode, owner, time and extended attributes."""
        if stat.S_IFMT(found.st_mode) != form:
            self.wrong.append(f"{show_path(path)} is of another type")
            return
        if entry.mode < 0:
            return  # made up for a lost part of the manifest
        outcome = self._outcome
        if form != stat.S_IFLNK and "mode" not in outcome.unset:
            mode = outcome.mode(path, entry)
            if form in _HELD and not self._final:
                mode = held_mode(entry, mode, self._host)
            if found.st_mode & 0o7777 != mode:
                self.wrong.append(f"{show_path(path)} has mode {found.st_mode & 0o7777:o} instead of {mode:o}")
        if found.st_mtime_ns != entry.mtime_ns:
            self._time(path, entry, found)
        if (found.st_uid != entry.uid or found.st_gid != entry.gid) and "owner" not in outcome.unset:
            self.wrong.append(f"{show_path(path)} belongs to {found.st_uid}:{found.st_gid}")
        if entry.xattrs:
            self._xattrs(path, entry.xattrs, fd, name)

    def _time(self, path: bytes, entry: Entry, found: os.stat_result) -> None:
        if entry.mtime_ns is None or path in self._outcome.odd_times:
            return
        if not self._host.exact_times and abs(found.st_mtime_ns - entry.mtime_ns) <= _COARSE:
            self._outcome.unset.add("times")
            return
        self.wrong.append(f"{show_path(path)} has another modification time")

    def _xattrs(self, path: bytes, xattrs: dict[str, str], fd: int, name: bytes | None) -> None:
        import base64

        for key, value in xattrs.items():
            if f"xattr {key}" in self._outcome.unset:
                continue
            if get_xattr(key, fd, name) != base64.b64decode(value):
                self.wrong.append(f"{show_path(path)} lacks the extended attribute {key}, or has another value")


_HELD = (stat.S_IFREG, stat.S_IFDIR)
