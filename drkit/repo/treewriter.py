"""Writing the trees of a snapshot: segments as they come, then the lists above them, each with its hints."""

from __future__ import annotations

import hashlib
from collections import deque

from msgspec import Struct

from drkit.errors import FormatError
from drkit.format import hints, nodes
from drkit.format.indexfile import ID_SIZE
from drkit.format.limits import LEVELS, MIB, PACK_TARGET, ROOT_CHILDREN, SMALL_BACKUP
from drkit.format.manifest import text_or_b64
from drkit.model import Child, Kind, Place, Root
from drkit.repo.newest import TreeNode
from drkit.repo.packer import Packer

_WAITING = 8 * MIB


class _Waiting(Struct, frozen=True):
    """A segment or blob list that cannot be written before the places of its blobs are known."""

    kind: Kind
    id: bytes
    data: bytes
    blobs: tuple[bytes, ...]


class NodeQueue:
    """Nodes on their way into metadata frames, held back until the packs of their blobs are closed."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer
        self._waiting: deque[_Waiting] = deque()
        self._size = 0
        self._limit = _WAITING
        self._known: set[bytes] = set()

    def put(self, kind: Kind, data: bytes, blobs: tuple[bytes, ...]) -> bytes:
        """Take a segment or blob list with the ids of its blobs; return its id. Stored once, however often it comes."""
        node_id = hashlib.sha256(data).digest()
        if node_id in self._known or self._packer.has(node_id):
            return node_id
        self._known.add(node_id)
        self._waiting.append(_Waiting(kind, node_id, data, blobs))
        self._size += len(data)
        if self._size > self._limit:
            self._write_known()
            self._limit = self._size + _WAITING
        return node_id

    def drain(self) -> None:
        """Write everything that waits; all data blobs come into closed packs, or into the pack that metadata shares."""
        packer = self._packer
        packer.flush_data()
        small = not packer.sealed and not packer.meta.buffer
        if small and len(packer.data.buffer) < SMALL_BACKUP and self._size < PACK_TARGET // 2:
            packer.share_pack()
            self._write_all(packer.data.data_places())
        else:
            packer.data.seal()
            packer.settle()
            self._write_all({})

    def _write_known(self) -> None:
        keep: deque[_Waiting] = deque()
        for node in self._waiting:
            found = self._packer.index.hints(node.blobs)
            if found is None:
                keep.append(node)
            else:
                self._packer.add_node(node.kind, node.id, node.data, found)
                self._size -= len(node.data)
        self._waiting = keep
        self._packer.flush_nodes()

    def _write_all(self, own: dict[bytes, Place]) -> None:
        packer = self._packer
        find = packer.index.find
        for node in self._waiting:
            if node.kind == Kind.SEGMENT and any(blob in self._known for blob in node.blobs):
                packer.flush_nodes()  # blob lists of this segment must have a place before it can name it
            found = None if own else packer.index.hints(node.blobs)
            if found is None:
                nodes_here = packer.meta.nodes
                found = hints.encode(
                    [own.get(blob[:ID_SIZE]) or nodes_here.get(blob) or find(blob) for blob in node.blobs]
                )
            packer.add_node(node.kind, node.id, node.data, found)
        self._waiting.clear()
        self._size = 0
        packer.flush_nodes()


class TreeWriter:
    """Collects the segments of one tree, in order, and writes the lists above them.

    `lists` are those, from the top, and `segments` the segments if they are to be kept.
    """

    def __init__(self, queue: NodeQueue, packer: Packer, *, keep: bool = False) -> None:
        self.lists: list[TreeNode] = []
        self.segments: list[TreeNode] = []
        self._keep = keep
        self._queue = queue
        self._packer = packer
        self._children: list[tuple[bytes, bytes]] = []

    def segment(self, first: bytes, data: bytes, blobs: tuple[bytes, ...]) -> bytes:
        """Add a segment that starts with the path `first`; return its id."""
        node_id = self._queue.put(Kind.SEGMENT, data, blobs)
        self._children.append((first, node_id))
        if self._keep:
            self.segments.append(TreeNode(data))
        return node_id

    def reuse(self, first: bytes, node_id: bytes) -> None:
        """Add a segment that is stored already."""
        self._children.append((first, node_id))

    def write_lists(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Write lists until at most 16 children remain; return (level, (first path, id) of each).

        All segments must be written: call after NodeQueue.drain.
        """
        level, children = 0, self._children
        while len(children) > ROOT_CHILDREN:
            if level + 1 >= LEVELS:
                raise FormatError(
                    "the source has more files than a manifest can hold", hint="back up its parts separately"
                )
            lines = [(first, nodes.encode_child(first, node_id)) for first, node_id in children]
            above: list[tuple[bytes, bytes]] = []
            written: list[TreeNode] = []
            at = 0
            for part in nodes.split_list(lines, level):
                data = b"".join(line for _, line in part)
                node_id = hashlib.sha256(data).digest()
                ids = [child for _, child in children[at : at + len(part)]]
                if not self._packer.has(node_id):
                    self._packer.add_node(Kind.LIST, node_id, data, hints.encode(list(map(self._place, ids))))
                written.append(TreeNode(data, ids))
                above.append((part[0][0], node_id))
                at += len(part)
            self._packer.flush_nodes()
            self.lists[:0] = written
            level, children = level + 1, above
        return level, children

    def _place(self, node_id: bytes) -> Place | None:
        return self._packer.meta.nodes.get(node_id) or self._packer.index.find(node_id)

    def root(self, level: int, children: list[tuple[bytes, bytes]]) -> Root:
        """Return the root for the snapshot. All packs must be durable: call after Packer.finish."""
        return Root(level, tuple(self._child(first, node_id) for first, node_id in children))

    def _child(self, first: bytes, node_id: bytes) -> Child:
        text, b64 = text_or_b64(first) if first else ("", "")
        place = self._packer.index.find(node_id)
        if place is None:
            raise FormatError("a root's child was not stored")
        return Child(
            first=text,
            first_b64=b64,
            id=node_id.hex(),
            pack=place.pack.hex(),
            frame_offset=place.frame_offset,
            frame_length=place.frame_length,
            offset=place.offset,
            length=place.length,
        )
