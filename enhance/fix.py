"""What can be mended without a model: names of skills and their directories, unknown keys, the form of allowed-tools.

The repairs are planned on a picture of the plugin and repeated until nothing is left to do, so that a second run
never finds anything. No body loses a byte; the only text that changes outside of a head is the path of a skill's own
directory where that moves.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from msgspec import Struct

from enhance.discover import SKILL, Discovery, OnDisk, join
from enhance.frontmatter import Frontmatter, rewrite_frontmatter, to_string
from enhance.model import Finding, Plugin
from enhance.validators import standards
from enhance.validators.skill_frontmatter import KEBAB, allowed_keys, split_tools
from enhance.validators.view import Contents, View, parents

FIXABLE = frozenset({"SK004", "SK005", "SK006", "SK012", "SK016"})
"""The rules whose findings may be mended here."""
_REFERRING = (b".md", b".markdown", b".json")


class Write(Struct, frozen=True, tag="write"):
    """Write a file, whole. The path is relative to the plugin."""

    path: bytes
    data: bytes


class Move(Struct, frozen=True, tag="move"):
    """Move a directory with all that is in it, times kept. Both paths are relative to the plugin."""

    old: bytes
    new: bytes


Edit = Write | Move
"""One step of a repair, to be made in order: moves come first, and writes name the paths after them."""


def fixes(
    source: bytes, plugin: Plugin, findings: Sequence[Finding], profile: str, *, named: Collection[bytes] = ()
) -> list[Edit]:
    """Return the repairs of a plugin as it lies on the disk; nothing if no finding is of the rules in `FIXABLE`.

    `named` are the skill directories, relative to the source, that files outside of their plugin name: see
    `named_skills`. They are not moved.
    """
    if not any(finding.rule in FIXABLE for finding in findings):
        return []
    top = join(source.rstrip(b"/"), plugin.path)
    files = {path: OnDisk(join(top, path), _size(join(top, path)), 0) for path in plugin.files}

    def blocked(old: bytes, new: bytes) -> bool:
        if join(plugin.path, old) in named or os.path.lexists(join(top, new)):
            return True
        inside = {path for path in plugin.files if path.startswith(old + b"/")}
        return os.path.lexists(join(top, old)) and any(path not in inside for path in _regular_files(top, old))

    return repair(files, plugin, profile, blocked=blocked)


def _size(full: bytes) -> int:
    try:
        return os.lstat(full).st_size
    except OSError:
        return 0


def _regular_files(top: bytes, directory: bytes) -> list[bytes]:
    """The files below a directory of the disk, those of nested plugins too, relative to `top`."""
    cut = len(top) + 1
    found = []
    for where, _, names in os.walk(join(top, directory)):
        found += [
            full[cut:] for name in names if not os.path.islink(full := join(where, name)) and os.path.isfile(full)
        ]
    return found


def repair(
    files: Contents, plugin: Plugin, profile: str, *, blocked: Callable[[bytes, bytes], bool] | None = None
) -> list[Edit]:
    """Return the repairs of a plugin that consists of `files`, by paths relative to it.

    `blocked` says that a directory must not become another for a reason that the files do not show.
    """
    picture = _Picture(View(plugin, files, profile))
    moves: list[Edit] = []
    while (move := picture.next_move(blocked or (lambda _old, _new: False))) is not None:
        moves.append(move)
        picture.move(move)
    after = View(plugin, picture.contents(files), profile)
    writes: list[Edit] = []
    for path in after.paths:
        data = _mended(after, path) if os.path.basename(path) == SKILL else None
        if data is not None or path in picture.changed:
            writes.append(Write(path, picture.changed[path] if data is None else data))
    return [*moves, *writes]


class _Picture:
    """A plugin while its directories are moved about: where each file came from, and whose text follows a move."""

    def __init__(self, before: View) -> None:
        self._before = before
        self._origin = {path: path for path in before.paths}
        self._wanted = {path: _wanted(before, path) for path in before.paths if os.path.basename(path) == SKILL}
        self._named: dict[bytes, bool] = {}
        self.changed: dict[bytes, bytes] = {}

    def contents(self, files: Contents) -> Contents:
        """Return the files as they are now."""
        return {path: self.changed.get(path, files[origin]) for path, origin in self._origin.items()}

    def next_move(self, blocked: Callable[[bytes, bytes], bool]) -> Move | None:
        """Return a move that a skill's name asks for and that nothing forbids. Each one makes a directory right."""
        taken = {*self._origin, *(parent for path in self._origin for parent in parents(path))}
        for path, origin in self._origin.items():
            old, wanted = os.path.dirname(path), self._wanted.get(origin)
            if not old or not wanted:
                continue
            new = join(os.path.dirname(old), wanted)
            if new != old and new not in taken and not self._is_named(old) and not blocked(old, new):
                return Move(old, new)
        return None

    def _data(self, path: bytes) -> bytes:
        return self.changed[path] if path in self.changed else self._before.data(self._origin[path])

    def _is_named(self, directory: bytes) -> bool:
        """Whether a file names a skill's directory in a way that cannot be changed along with a move."""
        if directory not in self._named:
            pattern = _path_pattern(directory)
            self._named[directory] = any(
                directory in self._data(path) and pattern.search(self._data(path)) is not None
                for path in self._origin
                if not (path.startswith(directory + b"/") and path.lower().endswith(_REFERRING))
            )
        return self._named[directory]

    def move(self, move: Move) -> None:
        """Make a move; the Markdown and JSON that moves follows it where it names its own path."""
        pattern = _path_pattern(move.old)
        origins: dict[bytes, bytes] = {}
        changed: dict[bytes, bytes] = {}
        for path, origin in self._origin.items():
            inside = path.startswith(move.old + b"/")
            where = move.new + path[len(move.old) :] if inside else path
            origins[where] = origin
            data = self._data(path) if inside and path.lower().endswith(_REFERRING) else b""
            if move.old in data and (new := pattern.sub(lambda _: move.new, data)) != data:
                changed[where] = new
            elif path in self.changed:
                changed[where] = self.changed[path]
        self._origin, self.changed = origins, changed


def _wanted(view: View, path: bytes) -> bytes | None:
    """The name that a skill's directory should have by its head, None where that is not to be said."""
    name = view.head(path).mapping.get("name")
    if not isinstance(name, str) or _is_reserved(name) or not _is_good(kebab(name)):
        return None
    return kebab(name).encode()


def _path_pattern(directory: bytes) -> re.Pattern[bytes]:
    after = rb"(?![\w-])" if b"/" in directory else rb"(?=/)"
    return re.compile(rb"(?<![\w-])" + re.escape(directory) + after)


def kebab(text: str) -> str:
    """Return the kebab-case form of a name: at most 64 characters, cut at a word; empty if nothing is left."""
    plain = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    words = re.sub(r"[^a-z0-9]+", "-", re.sub(r"['’]", "", plain.lower())).strip("-")
    if len(words) > standards.NAME_MAX:
        cut = words[: standards.NAME_MAX + 1].rpartition("-")[0] or words[: standards.NAME_MAX]
        words = cut.strip("-")
    return words


def _is_good(name: str) -> bool:
    return KEBAB.fullmatch(name) is not None and len(name) <= standards.NAME_MAX and not _is_reserved(name)


def _is_reserved(name: str) -> bool:
    return any(word in unicodedata.normalize("NFKC", name).lower() for word in standards.RESERVED_WORDS)


def _directory(view: View, path: bytes) -> str:
    """The name of the directory that a SKILL.md lies in; empty where that is not known."""
    return os.path.basename(os.path.dirname(join(view.plugin.path, path))).decode("utf-8", "surrogateescape")


def _mended(view: View, path: bytes) -> bytes | None:
    """Return a SKILL.md with its head mended; None where there is nothing to mend."""
    head = view.head(path)
    mapping = _mended_head(view, path, head) if head.mapping else head.mapping
    return None if mapping == head.mapping else rewrite_frontmatter(view.data(path), mapping)


def _mended_head(view: View, path: bytes, head: Frontmatter) -> dict[str, Any]:
    mapping = dict(head.mapping)
    name = _mended_name(mapping.get("name"), _directory(view, path))
    if name is not None:
        mapping["name"] = name
    tools = mapping.get("allowed-tools")
    if isinstance(tools, list):
        mapping["allowed-tools"] = " ".join(to_string(tool) for tool in tools)
    elif isinstance(tools, str) and "," in re.sub(r"\([^)]{0,300}\)", "", tools):
        mapping["allowed-tools"] = " ".join(split_tools(tools))
    unknown = [key for key in mapping if key not in allowed_keys(view.profile)]
    metadata = mapping.get("metadata")
    if unknown and (metadata in (None, "", []) or isinstance(metadata, dict)):
        kept = {
            to_string(key): head.texts.get(("metadata", str(key)), to_string(value))
            for key, value in (metadata or {}).items()
        }
        for key in unknown:
            value = to_string(mapping.pop(key))
            value = head.texts.get((key,), value)
            kept[_free(kept, key, value)] = value
        mapping["metadata"] = kept
    return mapping


def _free(taken: Mapping[str, str], key: str, value: str) -> str:
    """Return a key under which a value can stand without replacing another."""
    name, number = key, 2
    while taken.get(name, value) != value:
        name, number = f"{key}-{number}", number + 1
    return name


def _mended_name(name: object, directory: str) -> str | None:
    """Return what a skill's name becomes where its directory stays; None if it stays too."""
    if isinstance(name, str) and (_is_reserved(name) or name == directory):
        return None
    if _is_good(directory):
        return directory
    wanted = kebab(name) if isinstance(name, str) else ""
    return wanted if wanted and wanted != name and _is_good(wanted) else None


# What the rest of a source says of a plugin's skills

_MENTION = re.compile(rb"[\w./@+-]{0,300}?[\w.+@-]{1,200}/skills/[\w.+@-]{1,200}")


def named_skills(discovery: Discovery) -> frozenset[bytes]:
    """Return the skill directories, relative to the source, that files of other plugins or of none name.

    A mention is a path that ends in the plugin's directory, `skills`, and the skill's. Every text is read once: call
    it once for a run.
    """
    skills: dict[bytes, list[bytes]] = {}
    for path in discovery.skills():
        directory = os.path.dirname(path)
        parts = directory.split(b"/")
        if len(parts) >= 3 and parts[-2] == b"skills":
            skills.setdefault(b"/".join(parts[-3:]), []).append(directory)
    found: set[bytes] = set()
    for path, content in discovery.files.items():
        data = _read(content)
        if b"/skills/" not in data:
            continue
        for match in _MENTION.finditer(data):
            tail = b"/".join(match[0].rstrip(b".").split(b"/")[-3:])
            for directory in skills.get(tail, ()):
                top = os.path.dirname(os.path.dirname(directory))
                if not path.startswith(top + b"/"):
                    found.add(directory)
    return frozenset(found)


def _read(file: OnDisk) -> bytes:
    if file.size > 1024 * 1024:
        return b""
    try:
        return file()
    except OSError:
        return b""
