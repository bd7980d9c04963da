"""Verifying the trees of a snapshot: that every node can be read, every blob has a place, every hash comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from msgspec import Struct

from drkit.errors import IntegrityError
from drkit.format import manifest, treehash
from drkit.model import Entry, Finding, PackId, PluginRow, Snapshot, show_path
from drkit.repo import BlobLost, BlobReader, Repository, Segment
from drkit.repo.repository import Node
from drkit.verify.packs import REPAIR

_EMPTY = hashlib.sha256().hexdigest()
ELSEWHERE = "restore from another snapshot ('drkit snapshots'), and back up again"


class Counts(Struct):
    """What a snapshot says of how much it holds, to be counted again."""

    files: int = 0
    dirs: int = 0
    others: int = 0
    plugins: int = 0
    bytes: int = 0

    def add(self, entry: Entry) -> None:
        """Count an entry."""
        if entry.type == "f":
            self.files += 1
            self.bytes += entry.size
        elif entry.type == "d":
            self.dirs += 1
        else:
            self.others += 1


class _OpenPlugin:
    """A plugin that the walk is in: everything from its root on that starts with `prefix`."""

    def __init__(self, prefix: bytes, row: PluginRow) -> None:
        self.prefix = prefix
        self.row = row
        self.hash = treehash.TreeHash()
        self.files = self.bytes = 0

    def add(self, entry: Entry, path: bytes, tail: bytes) -> None:
        """Take an entry, the plugin's root first, which the slice leaves without a path."""
        self.hash.add_rows(treehash.row(path[len(self.prefix) :], tail))
        if entry.type == "f":
            self.files += 1
            self.bytes += entry.size


class TreeVerifier:
    """Walks snapshots. What several snapshots share is checked once; packs are told to `found_pack` as they turn up."""

    def __init__(
        self, repo: Repository, found_pack: Callable[[PackId], None], report: Callable[[Finding], None]
    ) -> None:
        self._repo = repo
        self._reader = repo.reader()
        self._index = repo.index
        self._found_pack = found_pack
        self._report = report
        self._packs: set[PackId] = set()
        self.in_parts: dict[tuple[str, ...], Entry] = {}
        """Files of several blobs: that each blob is right does not prove that their order is."""

    def verify(self, name: str, snap: Snapshot) -> None:
        """Check one snapshot's manifest and plugin table against its hashes, and every blob against the index."""
        plugins, all_plugins = self._plugins(name, snap)
        whole = treehash.TreeHash()
        open_plugins: list[_OpenPlugin] = []
        lost = False
        counts = Counts(plugins=len(plugins) if all_plugins else snap.plugins)
        if b"" in plugins:
            open_plugins.append(_OpenPlugin(b"", plugins.pop(b"")))
        for segment in self._repo.segments(snap, passed=self._node):
            self._node(segment.id)
            if segment.lost:
                lost = True
                where = f"{name} from {show_path(segment.first)} on"
                self._report(Finding("segment-lost", where, segment.lost, ELSEWHERE))
                continue
            self._blobs(name, segment)
            tails = [treehash.entry_tail(entry) for entry in segment.entries]
            paths = segment.paths
            whole.add_rows(b"".join(map(treehash.row, paths, tails)))
            for entry, path, tail in zip(segment.entries, paths, tails, strict=True):
                counts.add(entry)
                while open_plugins and not path.startswith(open_plugins[-1].prefix):
                    self._close(name, open_plugins.pop(), lost=lost)
                if entry.type == "d" and path in plugins:
                    open_plugins.append(_OpenPlugin(path + b"/", plugins.pop(path)))
                for plugin in open_plugins:
                    plugin.add(entry, path, tail)
        while open_plugins:
            self._close(name, open_plugins.pop(), lost=lost)
        if lost:
            return
        for row in plugins.values():
            self._report(
                Finding(
                    "plugin-missing",
                    f"{name} {show_path(row.raw_path)}",
                    "the manifest has no such directory",
                    ELSEWHERE,
                )
            )
        if whole.hexdigest() != snap.tree_sha256:
            self._report(Finding("tree-hash", name, "the manifest does not give the snapshot's tree hash", ELSEWHERE))
        if counts != Counts(snap.files, snap.dirs, snap.others, snap.plugins, snap.bytes):
            self._report(Finding("counts", name, "the manifest has other counts than the snapshot", ELSEWHERE))

    def verify_parts(self, takes: Callable[[bytes], bool]) -> None:
        """Hash files that have several blobs as wholes, those of which `takes` wants the SHA-256."""
        for entry in self.in_parts.values():
            if not takes(bytes.fromhex(entry.sha256)):
                continue
            digest = hashlib.sha256()
            size = 0
            try:
                for piece in self._reader.content(entry, {}):
                    digest.update(piece)
                    size += len(piece)
            except BlobLost:
                continue  # reported with its pack or as a missing blob
            if digest.hexdigest() != entry.sha256 or size != entry.size:
                self._report(
                    Finding(
                        "file-hash",
                        show_path(entry.raw_path),
                        "its blobs do not add up to its SHA-256 or size",
                        ELSEWHERE,
                    )
                )

    def _plugins(self, name: str, snap: Snapshot) -> tuple[dict[bytes, PluginRow], bool]:
        """Return the rows of the plugin table by path, and whether all of them could be read."""
        rows: dict[bytes, PluginRow] = {}
        whole = True
        for node in self._repo.leaves(self._reader, snap.plugin_table, passed=self._node):
            self._node(node.id)
            try:
                rows.update((row.raw_path, row) for row in _rows(self._reader, node))
            except IntegrityError as error:
                self._report(Finding("plugins-lost", name, f"a part of the plugin table: {error}", ELSEWHERE))
                whole = False
        return rows, whole

    def _close(self, name: str, plugin: _OpenPlugin, *, lost: bool) -> None:
        if lost:
            return
        where = f"{name} {show_path(plugin.row.raw_path)}"
        if plugin.hash.hexdigest() != plugin.row.tree_sha256:
            self._report(Finding("plugin-hash", where, "the manifest does not give its tree hash", ELSEWHERE))
        if (plugin.files, plugin.bytes) != (plugin.row.files, plugin.row.bytes):
            self._report(Finding("counts", where, "the manifest has other counts than the plugin table", ELSEWHERE))

    def _node(self, node_id: str) -> None:
        self._locate([bytes.fromhex(node_id)])

    def _blobs(self, name: str, segment: Segment) -> None:
        children = manifest.child_ids(segment.entries)
        ids = [bytes.fromhex(child) for child in children]
        gone = {blob.hex() for blob in self._locate(ids)}
        sizes = dict(zip(children, self._index.lengths(ids), strict=True))
        sizes[_EMPTY] = 0
        for entry in segment.entries:
            parts = entry.lists or entry.blobs
            if parts:
                self.in_parts.setdefault((entry.sha256, *parts), entry)
                for list_id in entry.lists:
                    gone |= self._list(list_id)
            elif entry.type == "f" and sizes.get(entry.sha256, -1) not in (entry.size, None):
                where = f"{name} {show_path(entry.raw_path)}"
                self._report(Finding("file-size", where, "its content has not the size in the manifest", ELSEWHERE))
            if gone and (gone.intersection(parts) or entry.sha256 in gone):
                try:
                    for _ in self._reader.content(entry, segment.places):
                        continue  # hints may know what the index does not: then nothing is lost
                except BlobLost as error:
                    where = f"{name} {show_path(entry.raw_path)}"
                    self._report(Finding("file-lost", where, str(error), REPAIR))

    def _list(self, list_id: str) -> set[str]:
        """Locate the blobs of a blob list; return the list's own id if it or one of them is gone."""
        try:
            data = self._reader.blob(list_id, None)
        except BlobLost:
            return {list_id}
        return {list_id} if self._locate([data[at : at + 32] for at in range(0, len(data), 32)]) else set()

    def _locate(self, ids: list[bytes]) -> list[bytes]:
        packs: set[PackId] = set()
        missing = self._index.locate(ids, packs)
        for pack_id in packs - self._packs:
            self._packs.add(pack_id)
            self._found_pack(pack_id)
        return missing


def _rows(reader: BlobReader, node: Node | Segment) -> Iterator[PluginRow]:
    if isinstance(node, Segment):
        raise IntegrityError(node.lost)
    yield from manifest.decode_plugins(reader.blob(node.id, node.place))
