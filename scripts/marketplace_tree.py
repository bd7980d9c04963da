"""Write and read whole trees: paths are bytes, modes and times are set, all that is written is counted."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable

_FIRST_SECOND = 1_451_606_400  # 2016-01-01
_SPAN_NS = 9 * 365 * 86_400 * 1_000_000_000
_REFUSALS = (errno.EILSEQ, errno.EINVAL, errno.ENAMETOOLONG, errno.ENOTSUP, errno.ENOSYS, errno.EPERM)


class Tree:
    """Writes below a root with modes and times of its own, and counts what it wrote."""

    def __init__(self, root: bytes, seed: int) -> None:
        os.makedirs(root, exist_ok=True)
        if os.listdir(root):
            raise FileExistsError(f"{os.fsdecode(root)} is not empty: name a new directory")
        self._root = root
        self._seed = seed
        self._paths: dict[bytes, int] = {}
        self.directories: set[bytes] = set()
        self.size = 0
        self.links = 0
        self.traps: dict[str, bytes] = {}
        self.skipped: list[str] = []

    @property
    def files(self) -> int:
        """How many names of regular files there are."""
        return len(self._paths) - self.links

    def absolute(self, path: bytes) -> bytes:
        """Return where a path of the tree is on disk."""
        return os.path.join(self._root, path)

    def directory(self, path: bytes) -> None:
        """Make a directory and those above it, with mode 0755."""
        if path and path not in self.directories:
            self.directory(os.path.dirname(path))
            os.mkdir(self.absolute(path))
            os.chmod(self.absolute(path), 0o755)
            self.directories.add(path)

    def file(self, path: bytes, content: str | bytes, mode: int = 0o644) -> None:
        """Write a new file."""
        data = content.encode() if isinstance(content, str) else content
        self.directory(os.path.dirname(path))
        with open(self.absolute(path), "xb") as handle:
            handle.write(data)
        os.chmod(self.absolute(path), mode)
        self._paths[path] = len(data)
        self.size += len(data)

    def symlink(self, path: bytes, target: bytes) -> None:
        """Make a symbolic link."""
        self.directory(os.path.dirname(path))
        os.symlink(target, self.absolute(path))
        self._paths[path] = 0
        self.links += 1

    def hardlink(self, path: bytes, existing: bytes) -> None:
        """Give a file of the tree a second name."""
        self.directory(os.path.dirname(path))
        os.link(self.absolute(existing), self.absolute(path))
        self._paths[path] = self._paths[existing]
        self.size += self._paths[existing]

    def xattr(self, path: bytes, name: str, value: bytes) -> None:
        """Set an extended attribute. OSError (ENOTSUP) where there are none."""
        if not hasattr(os, "setxattr"):
            raise OSError(errno.ENOTSUP, "no extended attributes here")
        os.setxattr(self.absolute(path), name, value)

    def trap(self, what: str, path: bytes, make: Callable[[], None]) -> None:
        """Make something that a file system may refuse, and remember where it is or that it is not."""
        try:
            make()
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            self.skipped.append(what)
        else:
            self.traps[what] = path

    def set_times(self, exceptions: dict[bytes, int]) -> None:
        """Give every path its time, directories last and the deepest first; `exceptions` in nanoseconds."""
        deepest_first = sorted(self.directories, key=lambda path: (-path.count(b"/"), path))
        for path in [*self._paths, *deepest_first]:
            digest = hashlib.sha256(b"%d:%s" % (self._seed, path)).digest()
            drawn = _FIRST_SECOND * 1_000_000_000 + int.from_bytes(digest[:8], "big") % _SPAN_NS
            when = exceptions.get(path, drawn)
            os.utime(self.absolute(path), ns=(when, when), follow_symlinks=False)


def read_tree(source: bytes) -> tuple[list[bytes], dict[bytes, tuple[bytes, int]], dict[bytes, bytes]]:
    """Return a tree's directories, its files with their modes, and its links; paths relative and in order."""
    directories: list[bytes] = [b""]
    files: dict[bytes, tuple[bytes, int]] = {}
    links: dict[bytes, bytes] = {}
    for directory in directories:
        with os.scandir(os.path.join(source, directory)) as scan:
            found = sorted(scan, key=lambda entry: entry.name)
        for entry in found:
            path = os.path.join(directory, entry.name)
            if entry.is_symlink():
                links[path] = os.readlink(entry.path)
            elif entry.is_dir():
                directories.append(path)
            elif entry.is_file():
                with open(entry.path, "rb") as handle:
                    files[path] = (handle.read(), stat.S_IMODE(entry.stat().st_mode))
    return directories, files, links
