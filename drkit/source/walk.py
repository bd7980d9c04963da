"""Walking a source in manifest order: depth first, names sorted by bytes, a directory before its content."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Final

from msgspec import Struct

from drkit.errors import UsageError
from drkit.model import FORMS, show_path
from drkit.source.globs import Globs
from drkit.source.stats import AnyStatus, Status

MAGIC = b"SQLite format 3\0"
"""How a SQLite database begins."""
STAGE = re.compile(rb"\.drkit-[0-9a-f]{16}(?:\.old)?")
"""Names of drkit's own staging directories, which are never part of a source."""
STAGE_FILE = re.compile(rb"\.drkit-[0-9a-f]{16}\.(?:journal|tmp)")
"""Names of the files that stand beside them while a restore works."""


class PluginRules(Struct, frozen=True):
    """What makes a directory a plugin: one of these files in it, or a path that one of these globs matches."""

    markers: tuple[str, ...] = (".claude-plugin/plugin.json",)
    globs: tuple[str, ...] = ()


class Seen(Struct, gc=False):
    """One path of the walk. `closes` marks the end of a plugin instead: everything below `path` has been seen.

    `whole` stands for a directory and everything below it.
    `database` is set where names alone say that there may be a SQLite database with a `-wal` or `-journal` beside it:
    to the database's path, for itself and for what lies beside it. Then a path's own stat does not tell everything.
    """

    path: bytes
    stat: AnyStatus
    kind: str
    plugin: bool = False
    closes: bool = False
    whole: bool = False
    database: bytes = b""


class Position(Struct, array_like=True, frozen=True):
    """How far a walk has come: up to `path`; `inside` if what that directory holds comes next.

    `plugins` are the paths of those that are open, each a directory above, or `path` itself.
    """

    path: bytes
    inside: bool
    plugins: frozenset[bytes]


_name = attrgetter("name")
BESIDE = (b"-wal", b"-journal", b"-shm")
"""How names of files end that belong to a SQLite database of the same name."""
KINDS = {form: letter for letter, form in FORMS.items()}
"""From the type bits of a mode to the letter of `Entry.type`."""


_Databases = dict[bytes, bytes]
"""Of one directory: name → name of the database that it is, or that it lies beside."""
_NONE: Final[_Databases] = {}
_Level = tuple[Iterator[os.DirEntry[bytes]], _Databases, bytes | None]
"""A directory that is being walked: what is left of it, and its path if it is a plugin."""
_NO_STATUS: Final = Status()


class Nested(UsageError):
    """A repository lies at a path of its own source."""

    def __init__(self, path: bytes) -> None:
        super().__init__(
            f"the repository lies inside the source, at {show_path(path)}",
            hint=f"keep it elsewhere, or leave it out with --exclude '/{show_path(path)}'",
        )
        self.path = path


class Walker:
    """Walks a source. Nothing is opened but directories; what cannot be read is given to `problem`; no sockets.

    `repository` is the (device, inode) of a directory that must not be met, by whatever name it is mounted in the
    source: UsageError, unless it is excluded.
    """

    def __init__(
        self,
        root: bytes,
        *,
        excludes: Globs,
        rules: PluginRules,
        problem: Callable[[bytes, OSError], None],
        repository: tuple[int, int] | None = None,
    ) -> None:
        self._root = root
        self._prefix = len(root.rstrip(b"/")) + 1
        self._excludes = excludes
        self._markers = [os.fsencode(marker) for marker in rules.markers]
        self._heads = frozenset(marker.split(b"/")[0] for marker in self._markers)
        self._plugin_globs = Globs(rules.globs)
        self._problem = problem
        self._repository = repository

    def root_is_plugin(self) -> bool:
        """Whether the source itself is a plugin."""
        return self._is_plugin(self._root, b"", self._list(self._root))

    def walk(self, untouched: Callable[[bytes], bool] | None = None, after: Position | None = None) -> Iterator[Seen]:
        """Yield every path below the root. A directory that cannot be listed is yielded without its content.

        A directory that is `untouched` is not looked into, but yielded as a whole. With `after`, go on where another
        walk of the same root was left.
        """
        stack = list(self._levels(after or Position(b"", inside=True, plugins=frozenset())))
        excluded = self._excludes.match if self._excludes else None
        repository, prefix, kinds, list_dir = self._repository, self._prefix, KINDS, self._list
        while stack:
            entries, databases, closing = stack[-1]
            for item in entries:
                full = item.path
                path = full[prefix:]
                if excluded is not None and excluded(path):
                    continue
                try:
                    status = item.stat(follow_symlinks=False)
                except OSError as error:
                    if databases.get(item.name, item.name) == item.name:  # journals come and go
                        self._problem(path, error)
                    continue
                kind = kinds.get(stat.S_IFMT(status.st_mode))
                if kind is None:
                    continue  # a socket: it is nothing without the process that listens
                name = item.name
                if name.startswith(b".drkit-") and (STAGE if kind == "d" else STAGE_FILE).fullmatch(name):
                    continue
                if kind != "d":
                    if databases and (database := databases.get(item.name)):
                        yield Seen(path, status, kind, database=path[: -len(item.name)] + database)
                    else:
                        yield Seen(path, status, kind)
                    continue
                if (status.st_dev, status.st_ino) == repository:
                    raise Nested(path)
                if untouched is not None and untouched(path):
                    yield Seen(path, status, kind, whole=True)
                    continue
                inner = list_dir(full)
                plugin = self._is_plugin(full, path, inner) if inner else False
                yield Seen(path, status, kind, plugin)
                if inner or plugin:
                    stack.append(
                        (iter(inner), _databases(inner) if len(inner) > 1 else _NONE, path if plugin else None)
                    )
                    break
            else:
                stack.pop()
                if closing is not None:
                    yield Seen(closing, _NO_STATUS, "d", plugin=True, closes=True)

    def _levels(self, after: Position) -> Iterator[_Level]:
        """Yield each directory on the way to a position, with what comes after it."""
        parts = after.path.split(b"/") if after.path else []
        for depth in range(len(parts) + after.inside):
            path = b"/".join(parts[:depth])
            listed = self._list(self._root.rstrip(b"/") + b"/" + path if path else self._root)
            left = [item for item in listed if depth == len(parts) or item.name > parts[depth]]
            yield iter(left), _databases(listed), path if path in after.plugins else None

    def _list(self, directory: bytes) -> list[os.DirEntry[bytes]]:
        try:
            with os.scandir(directory) as entries:
                listed = list(entries)
        except OSError as error:
            self._problem(directory[self._prefix :], error)
            return []
        if len(listed) > 1:
            listed.sort(key=_name)
        return listed

    def _is_plugin(self, full: bytes, path: bytes, listed: list[os.DirEntry[bytes]]) -> bool:
        if not self._heads.isdisjoint(map(_name, listed)):
            for marker in self._markers:
                if _is_file(full, marker):
                    return True
        return (
            bool(self._plugin_globs)
            and self._plugin_globs.match(path)
            and not self._plugin_globs.match(path.rpartition(b"/")[0])
        )


def _databases(listed: list[os.DirEntry[bytes]]) -> _Databases:
    joined = b"\0".join(map(_name, listed))
    if b"-wal" not in joined and b"-journal" not in joined:
        return _NONE
    names = set(map(_name, listed))
    found = {}
    for name in names:
        if name + b"-wal" in names or name + b"-journal" in names:
            found[name] = name
            found.update((name + suffix, name) for suffix in BESIDE)
    return found


def _is_file(directory: bytes, path: bytes) -> bool:
    """Whether there is a regular file at a path below a directory, reached through no link: one that is backed up."""
    parts = path.split(b"/")
    try:
        for number in range(1, len(parts)):
            if not stat.S_ISDIR(os.lstat(b"/".join((directory, *parts[:number]))).st_mode):
                return False
        return stat.S_ISREG(os.lstat(directory + b"/" + path).st_mode)
    except OSError:
        return False
