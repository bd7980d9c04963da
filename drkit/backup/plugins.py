"""The plugin table of a backup: which entries belong to which plugin, and each plugin's tree hash."""

from __future__ import annotations

import hashlib
import os

import msgspec
from msgspec import Struct

from drkit.backup.cached import Cached
from drkit.format import treehash
from drkit.format.limits import PLUGIN_MANIFEST_MAX
from drkit.format.manifest import encode_line, text_or_b64
from drkit.format.nodes import cuts_segment, is_full
from drkit.model import PluginRow
from drkit.repo.treewriter import TreeWriter
from drkit.source.read import read_small

MANIFEST = b".claude-plugin/plugin.json"

_Rows = tuple[list[bytes], list[bytes], int, int]
"""Paths and rows of the tree hash, and how many files and bytes they are."""


class _Open(Struct):
    path: bytes
    first_item: int
    known: PluginRow | None
    manifest_path: bytes
    manifest: bytes | None = None
    changed: bool = False


class PluginTracker:
    """Follows the walk into and out of plugins. A plugin in which nothing changed keeps its row of last time."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._open: list[_Open] = []
        self._items: list[_Rows | tuple[Cached, int]] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    @property
    def innermost(self) -> bytes | None:
        """The path of the innermost plugin that is open."""
        return self._open[-1].path if self._open else None

    def opens(self, path: bytes, known: PluginRow | None) -> None:
        """A plugin's directory begins; its own entry, if it has one, is the next item."""
        prefix = path + b"/" if path else b""
        self._open.append(_Open(path, len(self._items), known, prefix + MANIFEST))

    def add(self, paths: list[bytes], rows: list[bytes], files: int, size: int) -> None:
        """Some entries that come next are new: their rows of the tree hash, and how many files and bytes they are."""
        if self._open:
            self._items.append((paths, rows, files, size))
            self.changed()

    def add_known(self, segment: Cached, number: int) -> None:
        """The entry that comes next is one of the previous backup."""
        if self._open:
            self._items.append((segment, number))

    def saw_file(self, path: bytes, data: bytes) -> None:
        """Keep the content of the plugin's manifest when it comes by."""
        for plugin in self._open:
            if plugin.manifest_path == path:
                plugin.manifest = data

    def changed(self) -> None:
        """Something in the plugins that are open now is not as it was."""
        for plugin in self._open:
            plugin.changed = True

    def closes(self) -> PluginRow:
        """The innermost plugin ends; return its row."""
        plugin = self._open.pop()
        items = self._items[plugin.first_item :]
        if not self._open:
            self._items = []
        if plugin.known is not None and not plugin.changed:
            return plugin.known
        cut = len(plugin.path) + 1 if plugin.path else 0
        digest = hashlib.sha256()
        files = size = 0
        named = False
        for item in items:
            paths, rows, more_files, more = item if len(item) == 4 else _recall(*item)
            digest.update(treehash.cut_rows(paths, rows, cut))
            named = named or plugin.manifest_path in paths
            files += more_files
            size += more
        name, version = self._name(plugin, named=named)
        text, b64 = text_or_b64(plugin.path) if plugin.path else ("", "")
        return PluginRow(
            path=text,
            path_b64=b64,
            name=name,
            version=version,
            files=files,
            bytes=size,
            tree_sha256=digest.hexdigest(),
        )

    def _name(self, plugin: _Open, *, named: bool) -> tuple[str, str]:
        """Return (name, version), if its manifest is among the entries; else, or if it is wrong, the directory's."""
        data = plugin.manifest
        if data is None and named:
            try:
                still = read_small(os.path.join(self._source, plugin.manifest_path), PLUGIN_MANIFEST_MAX, [])
                data = still.data if still else None
            except OSError:
                data = None  # vanished since, or no file
        name = version = None
        if data is not None and len(data) <= PLUGIN_MANIFEST_MAX:
            try:
                content = msgspec.json.decode(data)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                content = None
            if isinstance(content, dict):
                name, version = content.get("name"), content.get("version")
        fallback = os.path.basename(plugin.path or self._source).decode("utf-8", "backslashreplace")
        return (
            name if isinstance(name, str) and name else fallback,
            version if isinstance(version, str) else "",
        )


def _recall(segment: Cached, number: int) -> _Rows:
    path, tail = segment.row(number)
    entry = segment.entry(number)
    return [path], [treehash.row(path, tail)], int(entry.type == "f"), entry.size


def write_plugin_table(rows: list[PluginRow], table: TreeWriter) -> None:
    """Give the rows, in order, to the writer of their tree, cut like a manifest."""
    lines: list[bytes] = []
    first = b""
    size = 0
    for row in rows:
        path = row.raw_path
        if not lines:
            first = path
        lines.append(encode_line(row))
        size += len(lines[-1])
        if cuts_segment(path) or is_full(len(lines), size):
            table.segment(first, b"".join(lines), ())
            lines, size = [], 0
    if lines:
        table.segment(first, b"".join(lines), ())
