"""Reading a plugin as it lies there, by descriptors that follow no link."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator

from msgspec import Struct

from drkit.errors import GuardRefused
from drkit.format import treehash
from drkit.format.limits import MIB
from drkit.guard.journal import FileState
from drkit.model import show_path
from drkit.restore.dirs import OPEN_DIR, DirStack, lstat
from drkit.source.globs import Globs
from drkit.source.walk import KINDS, STAGE, STAGE_FILE

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Item(Struct, frozen=True):
    """A path of a plugin. What is `opaque` is excluded from snapshots: neither read nor, a directory, entered."""

    state: FileState
    mtime_ns: int
    opaque: bool = False


class Tree(Struct, frozen=True):
    """A plugin's items by path, in manifest order, and the tree hash of those that snapshots have."""

    items: dict[bytes, Item]
    sha256: str
    mtime_ns: int


def open_dir(source: bytes, path: bytes) -> int:
    """Open a directory below a source. GuardRefused if it is missing, no directory, or reached through a link."""
    fd = os.open(source, OPEN_DIR)
    try:
        return walk_down(fd, path)
    except FileNotFoundError:
        raise GuardRefused(f"there is no {show_path(path)} in {show_path(source)}", hint=_LIST) from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise GuardRefused(f"{show_path(path)} is a link or no directory, or lies below one", hint=_LIST) from error
    finally:
        os.close(fd)


_LIST = "list the plugins with 'drkit plugins'; one that was just made is there after the next 'drkit backup'"


def walk_down(root_fd: int, path: bytes) -> int:
    """Open the directory at a path below another (itself if empty), following no link. OSError as it comes."""
    fd = os.dup(root_fd)
    for name in path.split(b"/") if path else ():
        try:
            below = os.open(name, OPEN_DIR, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


@contextlib.contextmanager
def parent_of(root_fd: int, path: bytes) -> Iterator[tuple[int, bytes]]:
    """Open the directory above a path, for a block; yield its descriptor and the last name."""
    above, _, name = path.rpartition(b"/")
    fd = walk_down(root_fd, above)
    try:
        yield fd, name
    finally:
        os.close(fd)


def read_tree(root_fd: int, prefix: bytes, excludes: Globs) -> Tree:
    """Read a plugin. `prefix` is its path in the source, with which the globs match. OSError for what cannot be read.

    The hash is that of a snapshot's plugin table if the plugin is as it was then.
    """
    items: dict[bytes, Item] = {}
    digest = treehash.TreeHash()
    root = os.fstat(root_fd)
    if prefix:
        digest.add(b"", "d", stat.S_IMODE(root.st_mode), b"")
    stack = DirStack(root_fd)
    pending = [_names(root_fd)]
    try:
        while pending:
            name = next(pending[-1], None)
            if name is None:
                pending.pop()
                if pending:
                    stack.pop()
                continue
            fd = stack.fds[-1]
            path = stack.paths[-1] + b"/" + name if stack.paths[-1] else name
            found = lstat(fd, name)
            if found is None:
                continue  # it went away: whoever compares the hash will notice
            kind = KINDS.get(stat.S_IFMT(found.st_mode), "s")
            if (STAGE if kind == "d" else STAGE_FILE).fullmatch(name):
                continue
            opaque = kind == "s" or excludes.match(prefix + b"/" + path if prefix else path)
            state, content = FileState(kind, _mode(kind, found), ""), b""
            if not opaque:
                state, content = _read(fd, name, found)
                digest.add(path, kind, state.mode, content)
            items[path] = Item(state, found.st_mtime_ns, opaque)
            if kind == "d" and not opaque:
                pending.append(_names(stack.push(name, path)))
    finally:
        stack.close()
    return Tree(items, digest.hexdigest(), root.st_mtime_ns)


def state_of(root_fd: int, path: bytes, *, opaque: bool = False) -> FileState | None:
    """Return what is at a path below a directory, None if nothing is. What lies behind a link is not there."""
    try:
        with parent_of(root_fd, path) as (fd, name):
            found = lstat(fd, name)
            if found is None:
                return None
            kind = KINDS.get(stat.S_IFMT(found.st_mode), "s")
            return FileState(kind, _mode(kind, found), "") if opaque else _read(fd, name, found)[0]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def written_state(data: bytes, mode: int) -> FileState:
    """Return the state of a file with this content."""
    return FileState("f", mode, hashlib.sha256(data).hexdigest())


def read_file(root_fd: int, path: bytes) -> bytes:
    """Return the content of a regular file below a directory; OSError for anything else."""
    with parent_of(root_fd, path) as (fd, name):
        file = os.open(name, _READ, dir_fd=fd)
        with open(file, "rb") as opened:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file", path)
            return opened.read()


def _names(fd: int) -> Iterator[bytes]:
    return iter(sorted(map(os.fsencode, os.listdir(fd))))


def _mode(kind: str, found: os.stat_result) -> int:
    return 0 if kind == "l" else stat.S_IMODE(found.st_mode)


def _read(fd: int, name: bytes, found: os.stat_result) -> tuple[FileState, bytes]:
    """Return the state of what is under a name, and its content as the tree hash has it."""
    kind = KINDS.get(stat.S_IFMT(found.st_mode), "s")
    if kind == "f":
        digest, mode = _hash(fd, name)
        return FileState("f", mode, digest.hex()), digest
    if kind == "l":
        content = os.readlink(name, dir_fd=fd)
    elif kind in "cb":
        content = b"%d" % found.st_rdev
    else:
        return FileState(kind, _mode(kind, found), ""), b""
    return FileState(kind, _mode(kind, found), hashlib.sha256(content).hexdigest()), content


def _hash(dir_fd: int, name: bytes) -> tuple[bytes, int]:
    file = os.open(name, _READ, dir_fd=dir_fd)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EAGAIN, "it changes while it is read", name)
        digest = hashlib.sha256()
        while data := os.read(file, MIB):
            digest.update(data)
        return digest.digest(), stat.S_IMODE(found.st_mode)
    finally:
        os.close(file)
