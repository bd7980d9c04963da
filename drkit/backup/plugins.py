"""The plugin table of a backup: which entries belong to which plugin, and each plugin's tree hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

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

_FILE = ord("f")
MANIFEST = b".claude-plugin/plugin.json"

_Item = tuple[bytes, bytes, int] | tuple[Cached, int]
"""(path, row tail, size) of a new entry, or a segment of the previous backup and a number in it."""


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
        self.items: list[_Item] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    @property
    def innermost(self) -> bytes | None:
        """The path of the innermost plugin that is open."""
        return self._open[-1].path if self._open else None

    def opens(self, path: bytes, known: PluginRow | None) -> None:
        """A plugin's directory begins; its own entry, if it has one, is the next item."""
        prefix = path + b"/" if path else b""
        self._open.append(_Open(path, len(self.items), known, prefix + MANIFEST))

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
        items = self.items[plugin.first_item :]
        if not self._open:
            self.items = []
        if plugin.known is not None and not plugin.changed:
            return plugin.known
        cut = len(plugin.path) + 1 if plugin.path else 0
        rows = [item if len(item) == 3 else _recall(*item) for item in items]
        digest = hashlib.sha256(treehash.rows([path for path, _, _ in rows], [tail for _, tail, _ in rows], cut))
        sizes = [size for _, tail, size in rows if tail[4] == _FILE]
        name, version = self._name(plugin, (path for path, _, _ in rows))
        text, b64 = text_or_b64(plugin.path) if plugin.path else ("", "")
        return PluginRow(
            path=text,
            path_b64=b64,
            name=name,
            version=version,
            files=len(sizes),
            bytes=sum(sizes),
            tree_sha256=digest.hexdigest(),
        )

    def _name(self, plugin: _Open, paths: Iterable[bytes]) -> tuple[str, str]:
        """Return (name, version); a manifest that is missing, left out or wrong leaves the directory's name."""
        data = plugin.manifest
        if data is None and plugin.manifest_path in paths:
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


def _recall(segment: Cached, number: int) -> tuple[bytes, bytes, int]:
    path, tail = segment.row(number)
    return path, tail, segment.entry(number).size


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
