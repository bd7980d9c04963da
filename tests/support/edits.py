"""Edits of a tree on disk, as hypothesis draws them: whatever people and programs do to a source between backups.

An edit is (what, a, b, c); the numbers choose among the paths that there are, names and contents, so that every
edit can be done to every tree, and a failing list of them shrinks well.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from hypothesis import strategies as st

NAMES = (b"a", b"b", b"c", b"a-b", b"a.b", b"\xff\xfe", "é".encode(), b"line\nfeed", b"SKILL.md", b"z" * 40)
MODES = (0o644, 0o600, 0o755, 0o4711, 0o1777, 0)
SIZES = (0, 1, 5, 300, 2047, 2048, 2049, 5000, 60_000)
"""Around 2,048, from where on files are cut when SMALL_CHUNKS is in use; the last has over 64 chunks then."""
ROOT = os.geteuid() == 0
TIMES = (0, 1, 999_999_999, 1_000_000_000_123_456_789, -1, 1_500_000_000_000_000_000)

Edit = tuple[str, int, int, int]


def data(number: int) -> bytes:
    """Content that repeats nowhere, of one of the sizes."""
    size = SIZES[number % len(SIZES)]
    block = b"".join(b"%d:%d;" % (number, i * i) for i in range(size // 4 + 1))
    return block[:size]


class Tree:
    """The tree below `root`, and the edits that can be done to it."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)

    def edit(self, edits: Sequence[Edit]) -> None:
        for what, a, b, c in edits:
            getattr(self, what)(a, b, c)

    def all(self) -> list[bytes]:
        found = []
        for directory, names, files in os.walk(self.root):
            found += [os.path.join(directory, name) for name in (*names, *files)]
        return sorted(found)

    def some(self, number: int, test: Callable[[int], bool] = lambda mode: True) -> bytes | None:
        """One of the paths of which the mode passes, None if there is none."""
        found = [path for path in self.all() if test(os.lstat(path).st_mode)]
        return found[number % len(found)] if found else None

    def file(self, number: int) -> bytes | None:
        return self.some(number, stat.S_ISREG)

    def place(self, a: int, b: int) -> bytes | None:
        """A path that is free, in a directory that is there."""
        directory = self.some(a, stat.S_ISDIR) if a % 4 else None
        path = os.path.join(directory or self.root, NAMES[b % len(NAMES)])
        return None if os.path.lexists(path) else path

    # The edits

    def add(self, a: int, b: int, c: int) -> None:
        if path := self.place(a, b):
            write(path, data(c))

    def mkdir(self, a: int, b: int, c: int) -> None:
        if path := self.place(a, b):
            os.mkdir(path)
            if c % 2:
                write(path + b"/" + NAMES[c % len(NAMES)], data(c))

    def symlink(self, a: int, b: int, c: int) -> None:
        if path := self.place(a, b):
            os.symlink((b"a", b"../b", b"/nowhere", b"\xff")[c % 4], path)

    def fifo(self, a: int, b: int, c: int) -> None:
        if path := self.place(a, b):
            os.mkfifo(path)

    def socket(self, a: int, b: int, c: int) -> None:
        if path := self.place(a, b):
            make_socket(path)

    def hardlink(self, a: int, b: int, c: int) -> None:
        old, new = self.some(a, lambda mode: not stat.S_ISDIR(mode)), self.place(b, c)
        if old and new:
            os.link(old, new, follow_symlinks=False)

    def plugin(self, a: int, b: int, c: int) -> None:
        """Make a directory a plugin, or rename the plugin that it is."""
        directory = self.some(a, stat.S_ISDIR) if a % 4 else self.root
        if directory is None or os.path.basename(directory) == b".claude-plugin":
            return
        texts = (b"{}", b'{"name":"x"}', b'{"name":"y","version":"1"}', b"[1]", b"{", b'{"name":7}')
        marker = directory + b"/.claude-plugin/plugin.json"
        if os.path.lexists(os.path.dirname(marker)) and not os.path.isdir(os.path.dirname(marker)):
            remove(os.path.dirname(marker))
        os.makedirs(os.path.dirname(marker), exist_ok=True)
        if os.path.lexists(marker):
            remove(marker)
        write(marker, texts[b % len(texts)])

    def unplug(self, a: int, b: int, c: int) -> None:
        found = [path for path in self.all() if path.endswith(b"plugin.json")]
        if found:
            remove(found[a % len(found)])

    def modify(self, a: int, b: int, c: int) -> None:
        if path := self.file(a):
            write(path, data(b))

    def append(self, a: int, b: int, c: int) -> None:
        if path := self.file(a):
            with open(path, "ab") as file:
                file.write(b"more")

    def modify_in_secret(self, a: int, b: int, c: int) -> None:
        """The size and the mtime stay; only the ctime tells."""
        if path := self.file(a):
            status = os.stat(path)
            with open(path, "r+b") as file:
                first = file.read(1)
                file.seek(0)
                file.write(bytes(byte ^ 1 for byte in first))
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def copy_over(self, a: int, b: int, c: int) -> None:
        """Another inode with the same content, mode and mtime, as editors and `cp -p` leave it."""
        if path := self.file(a):
            temporary = self.root + b"/.copy"
            shutil.copy2(path, temporary)
            os.replace(temporary, path)

    def touch(self, a: int, b: int, c: int) -> None:
        if path := self.some(a):
            time = TIMES[b % len(TIMES)]
            os.utime(path, ns=(time, time), follow_symlinks=False)

    def chmod(self, a: int, b: int, c: int) -> None:
        if path := self.some(a, lambda mode: not stat.S_ISLNK(mode)):
            os.chmod(path, MODES[b % len(MODES)] | (0 if ROOT else 0o700))

    def chown(self, a: int, b: int, c: int) -> None:
        if ROOT and (path := self.some(a)):
            os.chown(path, b % 3, c % 3, follow_symlinks=False)

    def xattr(self, a: int, b: int, c: int) -> None:
        if path := self.some(a, lambda mode: stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            with suppress(OSError):  # not every file system has them
                os.setxattr(path, (b"user.a", b"user.b")[b % 2], data(c)[:500])

    def rename(self, a: int, b: int, c: int) -> None:
        old, new = self.some(a), self.place(b, c)
        if old and new and not new.startswith(old + b"/"):
            os.rename(old, new)

    def swap(self, a: int, b: int, c: int) -> None:
        one, two = self.some(a), self.some(b)
        if one and two and not (one + b"/").startswith(two + b"/") and not (two + b"/").startswith(one + b"/"):
            spare = self.root + b"/.swap"
            os.rename(one, spare)
            os.rename(two, one)
            os.rename(spare, two)

    def delete(self, a: int, b: int, c: int) -> None:
        if path := self.some(a):
            remove(path)

    def retype(self, a: int, b: int, c: int) -> None:
        """Something else stands where something stood."""
        path = self.some(a)
        if path is None:
            return
        remove(path)
        kind = b % 5
        if kind == 0:
            write(path, data(c))
        elif kind == 1:
            os.mkdir(path)
            write(path + b"/a", data(c))
        elif kind == 2:
            os.symlink(b"elsewhere", path)
        elif kind == 3:
            os.mkfifo(path)
        else:
            make_socket(path)


def write(path: bytes, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def remove(path: bytes) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def make_socket(path: bytes) -> None:
    """Make a socket, by a short name: the kernel takes no more than 107 bytes."""
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(b"/proc/self/fd/%d/%s" % (directory, os.path.basename(path)))
    finally:
        os.close(directory)


_EDITS = [name for name, value in vars(Tree).items() if callable(value) and not name.startswith("_")]
for _name in ("edit", "all", "some", "file", "place"):
    _EDITS.remove(_name)

_number = st.integers(0, 60)
edits = st.lists(st.tuples(st.sampled_from(_EDITS), _number, _number, _number), max_size=8)
"""Strategy: some edits."""


def start(tree: Tree) -> None:
    """Make a tree with something of everything to begin with."""
    for number, path in enumerate((b"a", b"b", b"b/c", b"b/c/a", b"c", b"c/b")):
        os.mkdir(tree.root + b"/" + path)
        for more in range(number % 3 + 1):
            write(tree.root + b"/" + path + b"/f%d" % more, data(number + 10 * more))
    tree.edit([("plugin", 1, 1, 0), ("plugin", 3, 2, 0), ("plugin", 0, 3, 0), ("plugin", 9, 2, 0)])
    tree.edit(
        [("hardlink", 5, 2, 3), ("hardlink", 9, 6, 1), ("symlink", 2, 1, 0), ("fifo", 3, 2, 0), ("socket", 1, 4, 0)]
    )
