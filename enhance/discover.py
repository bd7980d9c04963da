"""Which plugins a source holds, and which file belongs to which: its innermost one. Nothing is read but manifests."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from drkit.errors import UsageError
from drkit.model import show_path
from drkit.source import Globs, PluginRules, Walker, open_file
from enhance.model import Finding, Plugin

MANIFEST = b".claude-plugin/plugin.json"
MARKETPLACE = b".claude-plugin/marketplace.json"
MAX_JSON = 4 * 1024 * 1024
IGNORED = (".git", "__pycache__")
"""Names that are nobody's content: not listed, not validated, in no hash."""
RESOURCES = (b"scripts", b"references", b"assets")
SKILL = b"SKILL.md"


class OnDisk(Struct, frozen=True):
    """A file that is read when it is called for. OSError as the file system gives it; a link or FIFO is never read."""

    full: bytes
    size: int
    mode: int

    def __call__(self) -> bytes:
        """Return the whole content, as it is now."""
        with open(open_file(self.full)[0], "rb") as file:
            return file.read()


class Discovery(Struct, frozen=True):
    """What there is below a source. `files` holds every regular file by its path relative to the source.

    `plugins` are sorted by path, nested ones included. `loose` are the files that belong to no plugin. `links` are
    the paths of what is neither file nor directory. `findings` are those that concern no plugin: what cannot be
    listed. `marketplaces` are the paths of marketplace files.
    """

    source: bytes
    plugins: tuple[Plugin, ...]
    files: Mapping[bytes, OnDisk]
    loose: tuple[bytes, ...] = ()
    links: frozenset[bytes] = frozenset()
    marketplaces: tuple[bytes, ...] = ()
    findings: tuple[Finding, ...] = ()

    def contents(self, plugin: Plugin) -> dict[bytes, OnDisk]:
        """Return a plugin's files by their paths relative to it, to be read on demand."""
        return {path: self.files[join(plugin.path, path)] for path in plugin.files}

    def skills(self) -> tuple[bytes, ...]:
        """Return the paths of all SKILL.md files, inside plugins and outside."""
        return tuple(sorted(path for path in self.files if os.path.basename(path) == SKILL))


def join(directory: bytes, path: bytes) -> bytes:
    """Return a path below a directory, both relative; either may be empty."""
    return directory + b"/" + path if directory and path else directory or path


def shown(plugin: Plugin, path: bytes) -> str:
    """Return a path relative to a plugin as findings name it: relative to the source, for people."""
    return show_path(join(plugin.path, path)) or "."


def discover(source: bytes, rules: PluginRules | None = None, excludes: Sequence[str] = ()) -> Discovery:
    """Walk a source and return what is in it. UsageError if there is no such directory.

    Bad manifests, links in place of files and directories that cannot be listed are findings, never errors. Links
    are not followed. The names in `IGNORED` are left out besides `excludes`, which are globs as drkit has them.
    """
    if not os.path.isdir(source):
        raise UsageError(f"{show_path(source)} is not a directory", hint="name the directory that holds the plugins")
    return _Walk(source, rules or PluginRules(), excludes).discovery()


class _Walk:
    """One walk: who owns what, in lists that grow with it."""

    def __init__(self, source: bytes, rules: PluginRules, excludes: Sequence[str]) -> None:
        self.source = source
        self.files: dict[bytes, OnDisk] = {}
        self.owned: dict[bytes, list[bytes]] = {}
        self.dirs: dict[bytes, list[bytes]] = {}
        self.links: dict[bytes, bytes | None] = {}
        self.loose: list[bytes] = []
        self.unlisted: list[tuple[bytes, bytes | None, str]] = []
        self.stack: list[bytes] = []
        self.walker = Walker(source, excludes=Globs((*IGNORED, *excludes)), rules=rules, problem=self._problem)

    def _owner(self) -> bytes | None:
        return self.stack[-1] if self.stack else None

    def _problem(self, path: bytes, error: OSError) -> None:
        self.unlisted.append((path, self._owner(), error.strerror or "unknown error"))

    def discovery(self) -> Discovery:
        if self.walker.root_is_plugin():
            self._opens(b"")
        prefix = self.source.rstrip(b"/") + b"/"
        for seen in self.walker.walk():
            if seen.closes:
                self.stack.pop()
            elif seen.plugin:
                self._opens(seen.path)
            elif seen.kind == "f":
                self.files[seen.path] = OnDisk(prefix + seen.path, seen.stat.st_size, seen.stat.st_mode & 0o7777)
                owner = self._owner()
                (self.loose if owner is None else self.owned[owner]).append(seen.path)
            elif seen.kind == "d":
                if self.stack:
                    self.dirs[self.stack[-1]].append(seen.path)
            else:
                self.links[seen.path] = self._owner()
        marketplaces = tuple(
            sorted(path for path in self.files if path == MARKETPLACE or path.endswith(b"/" + MARKETPLACE))
        )
        categories = self._categories(marketplaces)
        plugins = tuple(self._plugin(path, categories) for path in sorted(self.owned))
        return Discovery(
            source=self.source,
            plugins=plugins,
            files=self.files,
            loose=tuple(sorted(self.loose)),
            links=frozenset(self.links),
            marketplaces=marketplaces,
            findings=tuple(_unlisted(path, why) for path, owner, why in self.unlisted if owner is None),
        )

    def _opens(self, path: bytes) -> None:
        self.stack.append(path)
        self.owned[path] = []
        self.dirs[path] = []

    def _plugin(self, path: bytes, categories: Mapping[bytes, str]) -> Plugin:
        cut = len(path) + 1 if path else 0
        files = tuple(sorted(file[cut:] for file in self.owned[path]))
        manifest: Mapping[str, Any] = {}
        if MANIFEST in files:
            manifest = load_json(self.files[join(path, MANIFEST)])[0]
        name = manifest.get("name")
        own = os.path.basename(path or self.source.rstrip(b"/")).decode("utf-8", "backslashreplace")
        category = categories.get(path, "") or os.path.basename(os.path.dirname(path)).decode(
            "utf-8", "backslashreplace"
        )
        plugin = Plugin(path, name if isinstance(name, str) and name else own, category, manifest, files)
        return structs.replace(plugin, problems=tuple(self._problems(plugin)))

    def _problems(self, plugin: Plugin) -> list[Finding]:
        cut = len(plugin.path) + 1 if plugin.path else 0
        found = []
        if MANIFEST in plugin.files and (message := load_json(self.files[join(plugin.path, MANIFEST)])[1]):
            found.append(Finding("PM001", "error", shown(plugin, MANIFEST), message))
        for link in sorted(link for link, owner in self.links.items() if owner == plugin.path):
            path = link[cut:]
            if path == MANIFEST:
                found.append(Finding("PM001", "error", show_path(link), "it is not a regular file, and is not read"))
            elif os.path.basename(path) == SKILL:
                where = show_path(os.path.dirname(link)) or "."
                found.append(Finding("SK001", "error", where, "its SKILL.md is not a regular file, and is not read"))
        full = {parent for file in plugin.files for parent in _parents(file)}
        listed = [link[cut:] for link, owner in self.links.items() if owner == plugin.path]
        full |= {parent for link in listed for parent in _parents(link)}
        for directory in self.dirs[plugin.path]:
            parts = directory[cut:].split(b"/")
            if parts[0] != b"skills" or directory[cut:] in full:
                continue
            if len(parts) == 2:
                found.append(Finding("SK001", "error", show_path(directory), "the skill directory is empty"))
            elif len(parts) == 3 and parts[2] in RESOURCES:
                found.append(Finding("SK025", "warning", show_path(directory), "the directory is empty"))
        found += [_unlisted(path, why) for path, owner, why in self.unlisted if owner == plugin.path]
        return found

    def _categories(self, marketplaces: tuple[bytes, ...]) -> dict[bytes, str]:
        """The categories that marketplaces give, by plugin path; an inner marketplace outdoes an outer one."""
        found: dict[bytes, str] = {}
        for path in marketplaces:
            content, _ = load_json(self.files[path])
            for entry, where in local_entries(content, path):
                category = entry.get("category")
                if isinstance(category, str) and category:
                    found[where] = category
        return found


def _unlisted(path: bytes, why: str) -> Finding:
    return Finding("PM001", "error", show_path(path) or ".", f"the directory cannot be listed: {why}")


def _parents(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:number]) for number in range(1, len(parts))]


def load_json(file: OnDisk) -> tuple[dict[str, Any], str]:
    """Return a JSON file's object, empty where it is none, and what is wrong with it, empty where nothing is."""
    if file.size > MAX_JSON:
        return {}, f"it is over {MAX_JSON} bytes"
    try:
        return read_json(file())
    except OSError as error:
        return {}, f"it cannot be read: {error.strerror or error}"


def read_json(data: bytes) -> tuple[dict[str, Any], str]:
    """Return the object in some JSON, empty where it is none, and what is wrong, empty where nothing is."""
    import msgspec

    if len(data) > MAX_JSON:
        return {}, f"it is over {MAX_JSON} bytes"
    try:
        content = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
        return {}, f"it is not valid JSON: {error}"
    return (content, "") if isinstance(content, dict) else ({}, "it is not a JSON object")


def local_entries(content: Mapping[str, Any], marketplace: bytes) -> list[tuple[Mapping[str, Any], bytes]]:
    """Return the entries of a marketplace file that name a directory here, each with its path below the source.

    A source that leaves the marketplace's directory is not among them. `metadata.pluginRoot` stands before sources
    that do not begin with `./`.
    """
    entries, meta = content.get("plugins"), content.get("metadata")
    root = meta.get("pluginRoot") if isinstance(meta, dict) else None
    top = os.path.dirname(os.path.dirname(marketplace))
    found = []
    for entry in entries if isinstance(entries, list) else []:
        where = entry.get("source") if isinstance(entry, dict) else None
        if not isinstance(where, str) or not where or "://" in where or where.startswith("/") or "\0" in where:
            continue
        if isinstance(root, str) and not where.startswith("./"):
            where = f"{root}/{where}"
        if ".." not in where.split("/"):
            path = os.path.normpath(where.encode("utf-8", "surrogatepass"))
            found.append((entry, join(top, b"" if path == b"." else path)))
    return found
