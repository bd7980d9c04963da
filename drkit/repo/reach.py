"""What a snapshot reaches: every blob that it needs, through all levels."""

from __future__ import annotations

from drkit.errors import IntegrityError
from drkit.format import manifest
from drkit.model import Snapshot
from drkit.repo.index import Index
from drkit.repo.repository import Repository, Segment


def missing_blobs(repo: Repository, snap: Snapshot, index: Index) -> set[str]:
    """Return the ids of blobs that the snapshot needs and the index does not know; nodes above segments too.

    A node that cannot be read counts as missing: what lies below it is unknown.
    """
    reader = repo.reader()
    needed: set[str] = set()
    lost: set[str] = set()
    for root in (snap.manifest, snap.plugin_table):
        for node in repo.leaves(reader, root, passed=needed.add):
            needed.add(node.id)
            if isinstance(node, Segment):
                lost.add(node.id)
            elif root is snap.manifest:
                try:
                    for entry in manifest.decode_entries(reader.blob(node.id, node.place)):
                        needed.update(manifest.child_ids([entry]))
                        for list_id in entry.lists:
                            data = reader.blob(list_id, None)
                            needed.update(data[at : at + 32].hex() for at in range(0, len(data), 32))
                except IntegrityError:
                    lost.add(node.id)
    return lost | {blob for blob in needed if bytes.fromhex(blob) not in index}
