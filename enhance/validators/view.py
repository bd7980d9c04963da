"""How the rules see a plugin: its files by path, read once, on demand; what cannot be read is remembered."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Mapping

from enhance.discover import SKILL, OnDisk, read_json
from enhance.frontmatter import Frontmatter, parse_frontmatter
from enhance.model import Plugin

Contents = Mapping[bytes, "bytes | Callable[[], bytes]"]
"""Files by path relative to the plugin: their bytes, or what returns them (`enhance.discover.OnDisk`)."""

TEXT_SUFFIXES = (b".md", b".markdown", b".txt", b".py", b".sh", b".js", b".ts", b".json", b".yaml", b".yml", b".toml")
READ_MAX = 1024 * 1024
"""A larger file is not looked into."""


class View:
    """A plugin's files as the rules look at them."""

    def __init__(self, plugin: Plugin, contents: Contents, profile: str) -> None:
        self.plugin = plugin
        self.profile = profile
        self.paths = tuple(sorted(contents))
        self.unreadable: dict[bytes, str] = {}
        self._contents = contents
        self._known = frozenset(contents)
        self._dirs: frozenset[bytes] | None = None
        self._skills: tuple[bytes, ...] | None = None
        self._data: dict[bytes, bytes] = {}
        self._heads: dict[bytes, Frontmatter] = {}

    def data(self, path: bytes) -> bytes:
        """Return a file's content; empty for one that cannot be read or is too large, which `unreadable` then names."""
        if path not in self._data:
            self._data[path] = self._read(self._contents[path], path)
        return self._data[path]

    def _read(self, content: bytes | Callable[[], bytes], path: bytes) -> bytes:
        if isinstance(content, OnDisk) and content.size > READ_MAX:
            self.unreadable[path] = f"it is over {READ_MAX} bytes"
            return b""
        try:
            data = content if isinstance(content, bytes) else content()
        except OSError as error:
            self.unreadable[path] = error.strerror or str(error)
            return b""
        if len(data) > READ_MAX:
            self.unreadable[path] = f"it is over {READ_MAX} bytes"
            return b""
        return data

    def size(self, path: bytes) -> int:
        """Return a file's size, without reading it where that can be."""
        content = self._contents[path]
        if isinstance(content, OnDisk):
            return content.size
        return len(content) if isinstance(content, bytes) else len(self.data(path))

    def text(self, path: bytes) -> str | None:
        """Return a file as text, None if it cannot be read or is not UTF-8."""
        data = self.data(path)
        if path in self.unreadable:
            return None
        try:
            return None if b"\0" in data else data.decode()
        except UnicodeDecodeError:
            return None

    def head(self, path: bytes) -> Frontmatter:
        """Return a Markdown file cut into head and body."""
        if path not in self._heads:
            self._heads[path] = parse_frontmatter(self.data(path))
        return self._heads[path]

    def json(self, path: bytes) -> tuple[dict[str, object], str]:
        """Return a JSON file's object and what is wrong with it."""
        data = self.data(path)
        if path in self.unreadable:
            return {}, f"it cannot be read: {self.unreadable[path]}"
        return read_json(data)

    def has(self, path: bytes) -> bool:
        """Whether there is a file, or a directory with files in it, at a path."""
        if self._dirs is None:
            self._dirs = frozenset(parent for name in self.paths for parent in parents(name))
        return path in self._known or path in self._dirs or path == b""

    def is_file(self, path: bytes) -> bool:
        """Whether there is a file at a path."""
        return path in self._known

    def below(self, directory: bytes) -> tuple[bytes, ...]:
        """Return the paths of the files below a directory, whole; all of them for the empty directory."""
        return _below(self.paths, directory)

    def skill_dirs(self) -> tuple[bytes, ...]:
        """Return the directories that are skills or should be: those with a SKILL.md, and all below `skills/`."""
        if self._skills is None:
            found = sorted({os.path.dirname(path) for path in self.paths if os.path.basename(path) == SKILL})
            inside = {path.split(b"/")[1] for path in self.below(b"skills") if path.count(b"/") > 1}
            meant = {b"skills/" + name for name in inside if not name.startswith(b".")}
            hollow = {path for path in meant if not _below(tuple(found), path)}
            self._skills = tuple(sorted({*found, *hollow}))
        return self._skills

    def resources(self, skill: bytes) -> list[bytes]:
        """Return the files of a skill besides its SKILL.md, without those of a skill inside it."""
        inner = tuple(other + b"/" for other in _below(self.skill_dirs(), skill) if other != skill)
        own = skill + b"/" + SKILL if skill else SKILL
        return [path for path in self.below(skill) if path != own and not path.startswith(inner)]


def _below(paths: tuple[bytes, ...], directory: bytes) -> tuple[bytes, ...]:
    """The sorted paths that lie below a directory: `0` is what follows `/`."""
    if not directory:
        return paths
    return paths[bisect_left(paths, directory + b"/") : bisect_left(paths, directory + b"0")]


def parents(path: bytes) -> list[bytes]:
    """Return the directories that a path lies in, outermost first."""
    parts = path.split(b"/")
    return [b"/".join(parts[:number]) for number in range(1, len(parts))]
