"""What a permit's holder wants of a plugin: a view over what lies there, from which the changes follow."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Container, Iterable

from msgspec import Struct

from drkit.errors import GuardRefused
from drkit.guard.journal import DirTime, FileState, PathChange
from drkit.guard.tree import Item, Tree, written_state
from drkit.model import show_path, sort_key
from drkit.source.globs import Globs
from drkit.source.walk import STAGE, STAGE_FILE

_FILE_MODE = 0o644
_DIR_MODE = 0o755


class Wanted(Struct, frozen=True):
    """A path of the view: what lies at `origin` now, or, where that is None, something new (a file with `data`)."""

    item: Item
    origin: bytes | None
    data: bytes = b""


class Changes(Struct, frozen=True):
    """What is to be done: in manifest order, with the contents to be written by the changes' numbers."""

    paths: tuple[PathChange, ...]
    times: tuple[DirTime, ...]
    data: dict[int, bytes]


class Staging:
    """The view. Paths are relative to the plugin; `prefix` is its own in the source, for the excludes."""

    def __init__(self, tree: Tree, prefix: bytes, excludes: Globs, read: Callable[[bytes], bytes]) -> None:
        self._tree = tree
        self._prefix = prefix
        self._excludes = excludes
        self._read = read
        self._view = {path: Wanted(item, path) for path, item in tree.items.items()}

    def paths(self) -> list[bytes]:
        """Return the regular files of the view that snapshots have, in manifest order."""
        files = (path for path, one in self._view.items() if one.item.state.type == "f" and not one.item.opaque)
        return sorted(files, key=sort_key)

    def read(self, path: bytes) -> bytes:
        """Return a file's content as it will be. FileNotFoundError, IsADirectoryError; GuardRefused for a link."""
        path = _clean(path)
        self._check_way(path)
        one = self._view.get(path)
        if one is None:
            raise _error(errno.ENOENT, path)
        if one.item.state.type == "d":
            raise _error(errno.EISDIR, path)
        if one.item.state.type != "f":
            raise GuardRefused(f"{show_path(path)} is no regular file", hint=_ONLY_FILES)
        return one.data if one.origin is None else self._read(one.origin)

    def write(self, path: bytes, data: bytes, mode: int | None) -> None:
        """Set a file's content; see EditPermit.write."""
        path = _clean(path)
        self._check_writable(path)
        before = self._view.get(path)
        if before is not None and before.item.state.type == "d":
            raise _error(errno.EISDIR, path)
        if before is not None and before.item.state.type != "f":
            raise GuardRefused(f"{show_path(path)} is no regular file", hint=_ONLY_FILES)
        if mode is None:
            mode = before.item.state.mode if before else _FILE_MODE
        self._make_parents(path)
        self._view[path] = Wanted(Item(written_state(data, mode & 0o7777), 0), None, data)

    def move(self, old: bytes, new: bytes) -> None:
        """Give a file or directory another path; see EditPermit.move."""
        old, new = _clean(old), _clean(new)
        self._check_writable(new)
        self._check_way(old)
        if old not in self._view:
            raise _error(errno.ENOENT, old)
        if new in self._view:
            raise _error(errno.EEXIST, new)
        if new.startswith(old + b"/"):
            raise _error(errno.EINVAL, new)
        self._make_parents(new)
        for path in self._below(old):
            to = new + path[len(old) :]
            self._check_writable(to, excluded=self._view[path].item.opaque and self._view[path].item.state.type != "s")
            self._view[to] = self._view.pop(path)

    def delete(self, path: bytes) -> None:
        """Remove a path; see EditPermit.delete."""
        path = _clean(path)
        self._check_way(path)
        if path not in self._view:
            raise _error(errno.ENOENT, path)
        below = self._below(path)
        for one in below:
            if self._view[one].item.opaque:
                raise GuardRefused(f"{show_path(one)} is in no snapshot: nothing could bring it back", hint=_EXCLUDED)
        for one in below:
            del self._view[one]

    def changes(self) -> Changes:
        """Return what differs from what lies there. A directory that stays is no change, whatever moves within."""
        base = self._tree.items
        origins = {one.origin for path, one in self._view.items() if one.origin not in (None, path)}
        sides: dict[bytes, tuple[Item | None, Wanted | None]] = {}
        for path in base.keys() | self._view.keys():
            old, new = base.get(path), self._view.get(path)
            if not _stays(path, old, new, origins):
                sides[path] = old, new
        numbers = {path: number for number, path in enumerate(sorted(sides, key=sort_key))}
        targets: dict[bytes, int] = {}
        for path, number in numbers.items():
            new = sides[path][1]
            if new is not None and new.origin is not None and new.origin in numbers:
                targets[new.origin] = number
        found, data = [], {}
        for path, number in numbers.items():
            old, new = sides[path]
            origin = numbers.get(new.origin, -1) if new is not None and new.origin is not None else -1
            if new is not None and origin < 0 and new.item.state.type == "f":
                data[number] = self._content(new)
            opaque = bool((old and old.opaque) or (new and new.item.opaque))
            found.append(
                PathChange(
                    path,
                    old.state if old else None,
                    new.item.state if new else None,
                    origin,
                    targets.get(path, -1),
                    opaque,
                )
            )
        return Changes(tuple(found), self._times(found), data)

    def _content(self, one: Wanted) -> bytes:
        return one.data if one.origin is None else self._read(one.origin)

    def _times(self, changes: Iterable[PathChange]) -> tuple[DirTime, ...]:
        """Return the times of all directories in which something changes, of those that move, and of the plugin."""
        base = self._tree.items
        touched: dict[bytes, DirTime] = {b"": DirTime(b"", self._tree.mtime_ns, self._tree.mtime_ns)}
        for change in changes:
            above = change.path.rpartition(b"/")[0]
            before = base.get(above)
            old = self._tree.mtime_ns if not above else before.mtime_ns if before else None
            touched[above] = DirTime(above, old, None)
        for path, one in self._view.items():
            if one.item.state.type == "d" and one.origin not in (None, path) and not one.item.opaque:
                touched[path] = DirTime(path, None, one.item.mtime_ns)
        for path, item in base.items():
            if item.state.type == "d" and not item.opaque and (path in touched or not self._has_dir(path)):
                new = touched[path].new if path in touched else None
                touched[path] = DirTime(path, item.mtime_ns, new)
        return tuple(touched[path] for path in sorted(touched, key=sort_key))

    def _has_dir(self, path: bytes) -> bool:
        one = self._view.get(path)
        return one is not None and one.item.state.type == "d"

    def _below(self, path: bytes) -> list[bytes]:
        inside = path + b"/"
        return [one for one in self._view if one == path or one.startswith(inside)]

    def _make_parents(self, path: bytes) -> None:
        parts = path.split(b"/")[:-1]
        for depth in range(1, len(parts) + 1):
            above = b"/".join(parts[:depth])
            if above not in self._view:
                self._view[above] = Wanted(Item(FileState("d", _DIR_MODE, ""), 0), None)

    def _check_way(self, path: bytes) -> None:
        """Refuse a path that leads through a link, or through what is no directory."""
        parts = path.split(b"/")[:-1]
        for depth in range(1, len(parts) + 1):
            above = b"/".join(parts[:depth])
            one = self._view.get(above)
            if one is None:
                return
            if one.item.state.type == "l":
                raise GuardRefused(f"{show_path(above)} is a link", hint=_ONLY_FILES)
            if one.item.opaque:
                raise GuardRefused(f"{show_path(above)} is in no snapshot: nothing could bring it back", hint=_EXCLUDED)
            if one.item.state.type != "d":
                raise _error(errno.ENOTDIR, above)

    def _check_writable(self, path: bytes, *, excluded: bool = False) -> None:
        """Refuse paths that no snapshot would have; of what none has now, those that one would have."""
        self._check_way(path)
        if any(STAGE.fullmatch(name) or STAGE_FILE.fullmatch(name) for name in path.split(b"/")):
            raise GuardRefused(f"{show_path(path)} is a name that drkit keeps for itself")
        full = self._prefix + b"/" + path if self._prefix else path
        if self._excludes.match(full) != excluded:
            is_or_not = "not excluded" if excluded else "excluded"
            raise GuardRefused(f"{show_path(path)} is {is_or_not} from snapshots", hint=_EXCLUDED)


_ONLY_FILES = "name the file itself, by its path in the plugin"
_EXCLUDED = "look at the excludes in drkit.toml, and at --exclude"


def _stays(path: bytes, old: Item | None, new: Wanted | None, origins: Container[bytes | None]) -> bool:
    """Whether nothing changes at a path: its type, mode and content stay, and it is not moved to one of others."""
    if old is None or new is None:
        return old is None and new is None
    if new.origin == path or old.state.type == "d" == new.item.state.type:
        return True
    return old.state == new.item.state and path not in origins and not old.opaque and not new.item.opaque


def _clean(path: bytes) -> bytes:
    """Return a path as it is; GuardRefused for one that could lead out of the plugin or names no path in it."""
    parts = path.split(b"/")
    if b"\0" in path or any(part in (b"", b".", b"..") for part in parts):
        raise GuardRefused(f"{path!r} is no path in the plugin", hint="name it relative to the plugin, without '..'")
    return path


def _error(code: int, path: bytes) -> OSError:
    return OSError(code, os.strerror(code), path)
