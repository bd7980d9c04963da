"""Blobs that no whole pack holds: taken out of damaged packs, or from a copy's other packs, and stored anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from drkit.errors import FormatError, IntegrityError, StoreError
from drkit.format import hints, manifest, nodes
from drkit.model import Entry, Kind, Root, Snapshot
from drkit.repo import BlobReader
from drkit.repo.index import Index

if TYPE_CHECKING:
    from drkit.repo.packer import Packer


class Rescue:
    """Walks snapshots and stores every blob that they need and `index`, the index of whole packs, does not know.

    A blob is looked for with each of the readers in turn: of the repository itself, damaged packs included, and of
    copies. Without a packer it is only counted. What several snapshots share is looked at once.
    """

    def __init__(self, index: Index, readers: Sequence[BlobReader], packer: Packer | None) -> None:
        self.rescued = 0
        self._index = index
        self._readers = readers
        self._packer = packer
        self._seen: set[str] = set()

    def snapshot(self, snap: Snapshot) -> None:
        """Rescue what one snapshot needs."""
        for child in snap.plugin_table.children:
            self._node(child.id, snap.plugin_table.level, entries=False)
        self._root(snap.manifest)

    def _root(self, root: Root) -> None:
        for child in root.children:
            self._node(child.id, root.level, entries=True)

    def _node(self, node_id: str, level: int, *, entries: bool) -> None:
        """Look after a segment or list, children first: the hints of a node say where they are."""
        if node_id in self._seen:
            return
        self._seen.add(node_id)
        data = self._fetch(node_id)
        if data is None:
            return
        try:
            if level:
                children = [child for _, child in nodes.decode_children(data)]
                for child in children:
                    self._node(child, level - 1, entries=entries)
            else:
                found = manifest.decode_entries(data) if entries else []
                children = manifest.child_ids(found)
                self._contents(found)
        except FormatError:
            return  # verify names it
        self._store(Kind.LIST if level else Kind.SEGMENT, node_id, data, children)

    def _contents(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            for list_id in entry.lists:
                data = self._fetch(list_id)
                if data is not None:
                    ids = [data[at : at + 32].hex() for at in range(0, len(data), 32)]
                    self._blobs(ids)
                    self._store(Kind.LIST, list_id, data, list(dict.fromkeys(ids)))
            if not entry.lists:
                self._blobs(manifest.child_ids([entry]))

    def _blobs(self, ids: Sequence[str]) -> None:
        for blob_id in ids:
            if blob_id in self._seen or bytes.fromhex(blob_id) in self._index:
                continue
            self._seen.add(blob_id)
            data = self._fetch(blob_id)
            if data is not None:
                self.rescued += 1
                if self._packer is not None:
                    self._packer.add(bytes.fromhex(blob_id), data)

    def _store(self, kind: Kind, node_id: str, data: bytes, children: Sequence[str]) -> None:
        raw = bytes.fromhex(node_id)
        if raw in self._index or (self._packer is not None and self._packer.has(raw)):
            return
        self.rescued += 1
        if self._packer is not None:
            # Places of what is rescued together are not known yet: the index knows them later.
            found = [self._index.find(bytes.fromhex(child)) for child in children]
            self._packer.add_node(kind, raw, data, hints.encode(found))

    def _fetch(self, blob_id: str) -> bytes | None:
        for reader in self._readers:
            try:
                return reader.blob(blob_id, None)
            except (IntegrityError, StoreError):
                continue
        return None
