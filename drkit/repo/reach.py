"""What a snapshot reaches: every blob that it needs, through all levels."""

from __future__ import annotations

from drkit.errors import FormatError, IntegrityError
from drkit.format import hints, manifest, nodes
from drkit.model import Kind, Snapshot
from drkit.repo.index import Index
from drkit.repo.repository import Repository, Segment


def missing_blobs(repo: Repository, snap: Snapshot, index: Index) -> dict[str, Kind]:
    """Return the blobs that the snapshot needs and the index does not know, by id; nodes above segments too.

    A node that cannot be read counts as missing: what lies below it is unknown.
    """
    reader = repo.reader()
    needed: dict[str, Kind] = {}
    lost: dict[str, Kind] = {}
    for root in (snap.manifest, snap.plugin_table):
        for node in repo.leaves(reader, root, passed=lambda node_id: needed.setdefault(node_id, Kind.LIST)):
            needed[node.id] = Kind.SEGMENT
            if isinstance(node, Segment):
                lost[node.id] = Kind.LIST
            elif root is snap.manifest:
                try:
                    for entry in manifest.decode_entries(reader.blob(node.id, node.place)):
                        needed.update(dict.fromkeys(manifest.child_ids([entry]), Kind.DATA))
                        for list_id in entry.lists:
                            data = reader.blob(list_id, None)
                            needed[list_id] = Kind.LIST
                            needed.update((data[at : at + 32].hex(), Kind.DATA) for at in range(0, len(data), 32))
                except IntegrityError:
                    lost[node.id] = Kind.SEGMENT
    return lost | {blob: kind for blob, kind in needed.items() if bytes.fromhex(blob) not in index}


def node_hints(kind: Kind, data: bytes, index: Index) -> bytes:
    """Return the hints of a segment or list whose children lie where the index says, or nobody knows where."""
    if kind == Kind.SEGMENT:
        ids = list(map(bytes.fromhex, manifest.child_ids(manifest.decode_entries(data))))
    else:
        try:
            ids = [bytes.fromhex(node_id) for _, node_id in nodes.decode_children(data)]
        except FormatError:  # of blobs, not of nodes
            ids = list(dict.fromkeys(data[at : at + 32] for at in range(0, len(data), 32)))
    return hints.encode(list(map(index.find, ids)))
