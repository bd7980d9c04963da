"""Verifying the trees of a snapshot: that every node can be read, every blob has a place, every hash comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from drkit.errors import IntegrityError
from drkit.format import manifest, treehash
from drkit.model import Entry, Finding, PackId, Place, PluginRow, Snapshot, show_path
from drkit.repo import BlobLost, BlobReader, Repository, Segment
from drkit.repo.descent import Node
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

    def add(self, entries: Sequence[Entry]) -> None:
        """Count entries."""
        kinds = [entry.type for entry in entries]
        files, dirs = kinds.count("f"), kinds.count("d")
        self.files += files
        self.dirs += dirs
        self.others += len(kinds) - files - dirs
        self.bytes += sum([entry.size for entry in entries])


class _OpenPlugin(Struct):
    """A plugin that the walk is in: everything that starts with `prefix`, from the item `first` on."""

    prefix: bytes
    row: PluginRow
    first: int


class _Plugins:
    """Follows the entries of a manifest into and out of the plugins of its table."""

    def __init__(self, rows: dict[bytes, PluginRow], close: Callable[[PluginRow, str, list[int]], None]) -> None:
        self.left = rows
        """Those that have not been met yet."""
        self._close = close
        self._items: list[tuple[bytes, bytes, Entry]] = []
        self._open = [_OpenPlugin(b"", rows.pop(b""), 0)] if b"" in rows else []

    def add(self, entries: Sequence[Entry], paths: Sequence[bytes], tails: Sequence[bytes]) -> None:
        """Take the next entries with their paths and the ends of their rows of the tree hash."""
        left, now_open, items = self.left, self._open, self._items
        for entry, path, tail in zip(entries, paths, tails, strict=True):
            while now_open and not path.startswith(now_open[-1].prefix):
                self.close_innermost()
            if path in left and entry.type == "d":
                now_open.append(_OpenPlugin(path + b"/", left.pop(path), len(items)))
            if now_open:
                items.append((path, tail, entry))

    def close_innermost(self) -> bool:
        """End the innermost plugin; false if none is open."""
        if not self._open:
            return False
        plugin = self._open.pop()
        items = self._items[plugin.first :]
        if not self._open:
            self._items.clear()
        cut = len(plugin.prefix)  # which leaves the plugin's own root without a path
        rows = treehash.rows([path for path, _, _ in items], [tail for _, tail, _ in items], cut)
        sizes = [entry.size for _, _, entry in items if entry.type == "f"]
        self._close(plugin.row, hashlib.sha256(rows).hexdigest(), sizes)
        return True


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
        rows, all_plugins = self._plugins(name, snap)
        whole = treehash.TreeHash()
        lost = False
        counts = Counts(plugins=len(rows) if all_plugins else snap.plugins)

        def close(row: PluginRow, tree_sha256: str, sizes: list[int]) -> None:
            if not lost:
                self._compare(name, row, tree_sha256, sizes)

        plugins = _Plugins(rows, close)
        for segment in self._repo.segments(snap, passed=self._node, places=False):
            self._node(segment.id)
            if segment.lost:
                lost = True
                where = f"{name} from {show_path(segment.first)} on"
                message = f"everything from there {segment.stretch} is unknown: {segment.lost}"
                self._report(Finding("segment-lost", where, message, ELSEWHERE))
                continue
            self._blobs(name, segment)
            tails = treehash.entry_tails(segment.entries)
            whole.add_rows(treehash.rows(segment.paths, tails))
            counts.add(segment.entries)
            plugins.add(segment.entries, segment.paths, tails)
        while plugins.close_innermost():
            pass
        if lost:
            return
        for row in plugins.left.values():
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

    def _compare(self, name: str, row: PluginRow, tree_sha256: str, sizes: list[int]) -> None:
        """Compare a plugin's row with what its entries say."""
        if (row.tree_sha256, row.files, row.bytes) == (tree_sha256, len(sizes), sum(sizes)):
            return
        where = f"{name} {show_path(row.raw_path)}"
        if tree_sha256 != row.tree_sha256:
            self._report(Finding("plugin-hash", where, "the manifest does not give its tree hash", ELSEWHERE))
        if (len(sizes), sum(sizes)) != (row.files, row.bytes):
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
                    for _ in self._reader.content(entry, self._places(segment)):
                        continue  # hints may know what the index does not: then nothing is lost
                except BlobLost as error:
                    where = f"{name} {show_path(entry.raw_path)}"
                    self._report(Finding("file-lost", where, str(error), REPAIR))

    def _places(self, segment: Segment) -> dict[str, Place]:
        """Return what the hints say of a segment's blobs."""
        places = self._reader.node(segment.id, segment.place)[1]
        known = zip(manifest.child_ids(segment.entries), places, strict=False)
        return {child: place for child, place in known if place is not None}

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
