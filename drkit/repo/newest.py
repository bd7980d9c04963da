"""The nodes of the newest snapshot in one object, so that a cold reader far away asks once for all of them.

No reader needs it, and none trusts it: what it holds is known by its hash (docs/format.md, section 9).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import Struct, field

from drkit.errors import FormatError, IntegrityError, ObjectNotFound, StoreCorrupt, StoreError
from drkit.format import frames, hints
from drkit.format.columns import Cursor
from drkit.format.limits import FORMAT_MAJOR, FORMAT_MINOR, INDEX_MAX, MIB
from drkit.format.nodes import decode_children
from drkit.format.pack import check_version
from drkit.model import PackId, Place, Snapshot
from drkit.store.base import Store

if TYPE_CHECKING:
    from drkit.repo.repository import Repository

NAME = "hints/newest.zst"
"""One object under one name; each backup that changes something far away replaces it, and each prune."""
LIMIT = 5 * MIB // 2
"""So much of nodes with their hints, about a third of it when stored: what comes after it is left out."""

_MAGIC = b"DRKN"
_NOWHERE = PackId(bytes(32))

Find = Callable[[bytes], Place | None]


class TreeNode(Struct, frozen=True):
    """A list, or a segment of a plugin table: its bytes, and the ids of the children of which it has hints."""

    data: bytes
    children: Sequence[bytes] = ()


class Known(Struct, frozen=True):
    """What the object told: nodes with their hints by hexadecimal id, and where the children of the roots lie."""

    nodes: Mapping[str, tuple[bytes, bytes]] = field(default_factory=dict)
    roots: Mapping[str, Place] = field(default_factory=dict)

    def children(self, node_id: str) -> list[Place | None]:
        """Return the places of the children of a node that is known; none if they are damaged."""
        try:
            return hints.decode(self.nodes[node_id][1], _NOWHERE)
        except FormatError:
            return []


def write_newest(store: Store, roots: Sequence[bytes], nodes: Iterable[TreeNode], find: Find) -> None:
    """Store the nodes, those first that most readers need, and the places of the roots' children.

    Nobody needs it: a store that does not replace what it has keeps the one before.
    """
    kept: list[tuple[bytes, bytes]] = []
    left = LIMIT
    for node in nodes:
        kept.append((node.data, hints.encode([find(child) for child in node.children])))
        left -= len(node.data) + len(kept[-1][1])
        if left < 0:
            kept.pop()
            break
    head = struct.pack("<HHII", FORMAT_MAJOR, FORMAT_MINOR, len(roots), len(kept))
    sizes = b"".join(struct.pack("<II", len(data), len(found)) for data, found in kept)
    places = hints.encode([find(root) for root in roots])
    content = b"".join(part for pair in kept for part in pair)
    plain = b"".join((_MAGIC, head, *roots, struct.pack("<I", len(places)), places, sizes, content))
    with suppress(StoreError):  # append-only, perhaps
        store.put(NAME, frames.compressor(3).compress(plain), overwrite=True)


def read_newest(store: Store) -> Known:
    """Return what the object tells; nothing if there is none, or if it is damaged."""
    try:
        return _decode(store.get(NAME))
    except (IntegrityError, ObjectNotFound, StoreCorrupt):
        return Known()


def _decode(data: bytes) -> Known:
    cursor = Cursor(frames.decode(data, limit=INDEX_MAX))
    if cursor.take(4) != _MAGIC:
        raise IntegrityError(f"{NAME} does not start with DRKN")
    check_version(cursor)
    root_count, count = cursor.u32(), cursor.u32()
    ids = [cursor.take(32).hex() for _ in range(root_count)]
    places = hints.decode(cursor.take(cursor.u32()), _NOWHERE)
    roots = {node_id: place for node_id, place in zip(ids, places, strict=False) if place is not None}
    sizes = [(cursor.u32(), cursor.u32()) for _ in range(count)]
    pairs = [(cursor.take(data_size), cursor.take(hints_size)) for data_size, hints_size in sizes]
    return Known({hashlib.sha256(node).hexdigest(): (node, found) for node, found in pairs}, roots)


def survey(repo: Repository, snap: Snapshot) -> tuple[list[bytes], list[TreeNode]]:
    """Read the children of a snapshot's roots, and its nodes. IntegrityError if one is lost."""
    reader = repo.reader()
    roots: list[bytes] = []
    lists: list[TreeNode] = []
    segments: list[TreeNode] = []
    for root in (snap.plugin_table, snap.manifest):
        above: list[tuple[str, Place | None]] = [(node.id, node.place) for node in repo.top(root)]
        roots += [bytes.fromhex(node_id) for node_id, _ in above]
        for _ in range(root.level):
            below: list[tuple[str, Place | None]] = []
            for node_id, place in above:
                data, found = reader.node(node_id, place)
                ids = [child for _, child in decode_children(data)]
                lists.append(TreeNode(data, [bytes.fromhex(child) for child in ids]))
                below += zip(ids, found or [None] * len(ids), strict=False)
            above = below
        if root is snap.plugin_table:
            segments = [TreeNode(reader.blob(node_id, place)) for node_id, place in above]
    return roots, [*lists, *segments]
