"""Writing packs: blobs are gathered into frames, frames into packs, packs put into the store.

Compression, checking and storing run on worker threads (zstd, SHA-256 and fsync release the GIL); the caller's
thread only gathers. Memory stays bounded: a few frames and two packs are under way at any time.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, chain, pairwise
from math import ceil
from types import TracebackType
from typing import Self

import zstandard

from drkit import osutil
from drkit.errors import IntegrityError
from drkit.format import frames, hints
from drkit.format.indexfile import ID_SIZE, IndexedPack, shorten
from drkit.format.limits import FRAME_BLOBS, FRAME_JOINED, FRAME_TARGET, META_FRAME_TARGET, PACK_TARGET, POOL_TARGET
from drkit.format.pack import PackTable, encode_tail
from drkit.format.settings import Settings
from drkit.model import Kind, PackId, Place
from drkit.repo.index import Index
from drkit.repo.names import pack_name, put_hashed
from drkit.repo.parity import check_parity, put_parity
from drkit.store.base import Store

_Blob = tuple[Kind, bytes, bytes]
_Frame = tuple[bytes, list[tuple[Kind, bytes, int]]]
_UNDER_WAY = 4
"""Frames of a lane that may be on their way: with these, 6 MiB each, a pack stays below 64 MiB."""
_EARLY = 3
"""Frames that do not wait for alike blobs: in a small backup compression should not begin when the walk is over."""
_NODE_LEVEL = 1
"""Half of what nodes hold are hashes, in which higher levels find nothing: level 7 takes six times as long for 1%."""
_BLOB_OVERHEAD = 256
"""About what a waiting blob takes in memory besides its bytes."""
_SWITCH_S = 0.0002
"""How long a thread waits for another one's Python before it asks for its turn. A worker lets go of the lock for each
blob that it hashes; with Python's 5 ms it would wait longer for the lock than it hashes."""
_thread = threading.local()


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """Return this thread's compressor: making one costs more than a small frame."""
    if getattr(_thread, "level", None) != level:
        _thread.level, _thread.compressor = level, frames.compressor(level)
    own: zstandard.ZstdCompressor = _thread.compressor
    return own


def _make_frame(blobs: list[_Blob], level: int) -> _Frame:
    """Compress blobs into a frame, decode it again and hash every blob, so that what is stored is what was read."""
    rows = [(kind, blob_id, len(data)) for kind, blob_id, data in blobs]
    packed = _compressor(level).compress(b"".join([blob[2] for blob in blobs]))
    back = memoryview(frames.decode(packed, sum([length for _, _, length in rows])))
    ends = accumulate([length for _, _, length in rows], initial=0)
    sha256 = hashlib.sha256
    for (kind, blob_id, _), (start, end) in zip(rows, pairwise(ends), strict=True):
        if kind != Kind.HINTS and sha256(back[start:end]).digest() != blob_id:
            raise IntegrityError(
                "a blob changed in memory between reading and storing; nothing was committed",
                hint="test this machine's memory, then back up again",
            )
    return packed, rows


class _Lane:
    """One open pack, and the frames that are on their way into it, in order."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer
        self._under_way: deque[Future[_Frame]] = deque()
        self.buffer = bytearray()
        self.table = PackTable.empty()
        self.nodes: dict[bytes, Place] = {}
        """Segments and lists in the open pack, for hints that lie in the same pack."""

    @property
    def full(self) -> bool:
        """Whether the open pack is large enough, with the ids, kinds and lengths in its table, to be closed."""
        return len(self.buffer) + len(self.table.ids) + 5 * len(self.table.lengths) >= PACK_TARGET

    def submit(self, blobs: list[_Blob], level: int) -> None:
        self._append(self._packer.workers.submit(_make_frame, blobs, level))

    def take(self, packed: bytes, rows: list[tuple[Kind, bytes, int]]) -> None:
        """Append a frame that is made and checked already."""
        made: Future[_Frame] = Future()
        made.set_result((packed, rows))
        self._append(made)

    def _append(self, frame: Future[_Frame]) -> None:
        self._under_way.append(frame)
        self.collect(leave=_UNDER_WAY)

    def collect(self, leave: int = 0) -> None:
        """Append the frames that are done; wait until at most `leave` are under way."""
        under_way = self._under_way
        while under_way and (len(under_way) > leave or under_way[0].done()):
            packed, rows = under_way.popleft().result()
            start = len(self.buffer)
            self.buffer += packed
            self.table.add(len(packed), rows)
            if rows[0][0] == Kind.DATA:
                continue  # frames of data hold nothing else
            offset = 0
            for kind, blob_id, length in rows:
                if kind != Kind.HINTS:
                    self.nodes[blob_id] = Place(hints.SELF, start, len(packed), offset, length)
                offset += length

    def data_places(self) -> dict[bytes, Place]:
        """Return the places of the data blobs in the open pack, by 16-byte key."""
        starts = [(at, length) for at, length, _ in self.table.offsets()]
        return {
            blob_id[:ID_SIZE]: Place(hints.SELF, *starts[frame], offset, length)
            for frame, kind, blob_id, offset, length in self.table.rows()
            if kind == Kind.DATA
        }

    def seal(self) -> None:
        """Close the open pack and send it to the store; a new one is open afterwards."""
        self.collect()
        if self.table.frame_lengths:
            self._packer.store_pack(self.buffer, self.table)
        self.buffer, self.table, self.nodes = bytearray(), PackTable.empty(), {}


class _Pool:
    """New small blobs that wait for others of their group; `size` is what they take in memory, in bytes.

    Copies of a plugin compress each other to almost nothing, if they stand in one frame. In a tree of many they do
    not stand together, so as much as memory allows is looked over for them.
    """

    def __init__(self) -> None:
        self.overflowed = False
        """Whether a group had to leave."""
        self.size = 0
        self._groups: dict[bytes, list[_Blob]] = {}
        self._walked: list[_Blob] | None = []
        """All blobs in the order in which they came, as long as none had to leave: a small tree stays in order."""

    def add(self, group: bytes, blob: _Blob) -> None:
        self.size += len(blob[2]) + _BLOB_OVERHEAD
        blobs = self._groups.get(group)
        if blobs is None:
            self._groups[group] = [blob]
        else:
            blobs.append(blob)
        if self._walked is not None:
            self._walked.append(blob)

    def oldest(self) -> list[_Blob]:
        """Take out the group that has waited longest."""
        self.overflowed, self._walked = True, None
        blobs = self._groups.pop(next(iter(self._groups)))
        self.size -= sum([len(blob[2]) + _BLOB_OVERHEAD for blob in blobs])
        return blobs

    def rest(self) -> list[_Blob]:
        """Take out everything."""
        blobs = self._walked if self._walked is not None else list(chain.from_iterable(self._groups.values()))
        self.size, self._groups, self._walked = 0, {}, None if self.overflowed else []
        return blobs


class Packer:
    """Stores new blobs. A context manager: leaving it stops the workers, whatever happened.

    `index` loads what is stored; it learns of each new pack once that is durable. No pack gets the id of one of the
    `condemned`, of which the index must not know.
    """

    def __init__(
        self,
        store: Store,
        index: Callable[[], Index],
        settings: Settings,
        *,
        level: int | None,
        condemned: frozenset[PackId] = frozenset(),
        dry_run: bool = False,
    ) -> None:
        check_parity(settings)
        self._load_index = index
        self._index: Index | None = None
        self.new_packs: list[IndexedPack] = []
        self.bytes_added = 0
        # Nothing gets on without those who read and record, so the workers take what these leave (12% of a backup).
        self.workers = ThreadPoolExecutor(2, thread_name_prefix="drkit-pack", initializer=osutil.give_way)
        self._store = store
        self._settings = settings
        self._condemned = condemned
        self._dry_run = dry_run
        self._small_level = settings.compression.small_level if level is None else level
        self._chunk_level = (
            settings.compression.chunk_level if level is None else min(level, settings.compression.chunk_level)
        )
        # Where alike blobs stand together, a higher level costs twice the time for an eighth of the size.
        self._pooled_level = settings.compression.chunk_level if level is None else level
        self._puts = ThreadPoolExecutor(1, thread_name_prefix="drkit-put")
        self._storing: deque[Future[IndexedPack]] = deque()
        self._first = False
        """Whether there was nothing before."""
        self._pending: set[bytes] = set()
        """Keys of what was added; where there was nothing before, without those that the index has by now."""
        self._pool = _Pool()
        self._early = _EARLY
        self._small: list[_Blob] = []
        self._small_size = 0
        self._chunks: list[_Blob] = []
        self._chunks_size = 0
        self._nodes: list[_Blob] = []
        self._nodes_size = 0
        self.data = _Lane(self)
        self.meta = _Lane(self)

    def __enter__(self) -> Self:
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in (self.workers, self._puts):
            pool.shutdown(wait=True, cancel_futures=True)
        sys.setswitchinterval(self._interval)

    @property
    def index(self) -> Index:
        """What is stored, loaded when first asked for: a backup without changes never asks."""
        if self._index is None:
            self._index = self._load_index()
            self._first = not self._index.packs
        return self._index

    def has(self, blob_id: bytes) -> bool:
        """Whether the blob is stored, or on its way."""
        return blob_id[:ID_SIZE] in self._pending or blob_id in self.index

    def is_new(self, blob_id: bytes) -> bool:
        """Whether the blob was added to this packer."""
        return self.has(blob_id) if self._first else blob_id[:ID_SIZE] in self._pending

    def add(self, blob_id: bytes, data: bytes, group: bytes = b"") -> None:
        """Add a data blob that `has` does not know. Blobs of one group are probably alike: they get into one frame."""
        self._pending.add(blob_id[:ID_SIZE])
        pool = self._pool
        pool.add(group, (Kind.DATA, blob_id, data))
        if self._early and pool.size >= FRAME_TARGET:
            self._early -= 1
            self._add_small(pool.rest(), FRAME_TARGET)
        while pool.size > POOL_TARGET:
            self._add_small(pool.oldest(), FRAME_TARGET)

    def _add_small(self, blobs: list[_Blob], target: int) -> None:
        for blob in blobs:
            self._small.append(blob)
            self._small_size += len(blob[2])
            if self._small_size >= target or len(self._small) >= FRAME_BLOBS:
                self._flush_small()

    def add_next(self, blob_id: bytes, data: bytes) -> None:
        """Add a data blob right behind the one that was added last, whatever it is like: a prune keeps neighbours."""
        self._add_small([(Kind.DATA, blob_id, data)], FRAME_TARGET)

    def add_frame(self, packed: bytes, rows: list[tuple[Kind, bytes, int]]) -> None:
        """Add a frame of data blobs as it is; the caller has decoded and hashed it."""
        if self._small_size >= FRAME_JOINED:
            self._flush_small()
        self.data.take(packed, rows)
        self._after_data()

    def add_chunk(self, blob_id: bytes, data: bytes) -> None:
        """Add a chunk of a large file that `has` does not know."""
        self._pending.add(blob_id[:ID_SIZE])
        self._chunks.append((Kind.DATA, blob_id, data))
        self._chunks_size += len(data)
        if self._chunks_size >= FRAME_TARGET:
            self._flush_chunks()

    def add_node(self, kind: Kind, node_id: bytes, data: bytes, hint_bytes: bytes) -> None:
        """Add a segment or list with its hints, into the metadata lane."""
        self._pending.add(node_id[:ID_SIZE])
        self._nodes += ((kind, node_id, data), (Kind.HINTS, b"", hint_bytes))
        self._nodes_size += len(data) + len(hint_bytes)
        if self._nodes_size >= META_FRAME_TARGET:
            self._submit_nodes()

    def submit_data(self) -> None:
        """Have the workers begin with all data blobs, of which no more will come."""
        rest = self._pool.rest()
        left = self._small_size + sum([len(blob[2]) for blob in rest])
        # Frames of one size, because workers that begin together should end together.
        self._add_small(rest, ceil(left / ceil(left / FRAME_TARGET)) if left else FRAME_TARGET)
        self._flush_small()
        self._flush_chunks()

    def flush_data(self) -> None:
        """Bring all data blobs into the open data pack."""
        self.submit_data()
        self.data.collect()

    def flush_nodes(self) -> None:
        """Bring all nodes into the open metadata pack, where the nodes above them find their places."""
        self._submit_nodes()
        self.meta.collect()

    def share_pack(self) -> None:
        """Let metadata go into the open data pack, as in a small backup."""
        self.meta = self.data

    @property
    def sealed(self) -> bool:
        """Whether a pack was closed already."""
        return bool(self._storing or self.new_packs)

    def settle(self, leave: int = 0) -> None:
        """Take up packs that are durable by now into the index; wait until at most `leave` are under way."""
        while self._storing and (len(self._storing) > leave or self._storing[0].done()):
            pack = self._storing.popleft().result()
            self.index.add_pack(pack)
            self.new_packs.append(pack)
            if self._first:
                ids = bytes(pack.table.ids)
                self._pending.difference_update([ids[at : at + ID_SIZE] for at in range(0, len(ids), ID_SIZE)])

    def finish(self) -> None:
        """Store everything that was added. All of it is durable, and in the index, afterwards."""
        self.flush_data()
        self.flush_nodes()
        self.data.seal()
        self.meta.seal()
        self.settle()

    def store_pack(self, buffer: bytearray, table: PackTable) -> None:
        """Send a closed pack to the store; called by the lanes."""
        self.settle(leave=0)
        self._storing.append(self._puts.submit(self._put_pack, buffer, table))

    def _put_pack(self, buffer: bytearray, table: PackTable) -> IndexedPack:
        size = len(buffer)
        buffer += encode_tail(table)
        pack_id = PackId(hashlib.sha256(buffer).digest())
        if pack_id in self._condemned:
            # The same content as in a pack that a prune will delete: a frame that says nothing makes it another.
            salt = os.urandom(16)
            frame = _compressor(self._small_level).compress(salt)
            table.add(len(frame), [(Kind.HINTS, b"", len(salt))])
            buffer[size:] = frame + encode_tail(table)
            pack_id = PackId(hashlib.sha256(buffer).digest())
        if not self._dry_run:
            put_parity(self._store, self._settings, pack_id, buffer)
            put_hashed(self._store, pack_name(pack_id), buffer)
        self.bytes_added += len(buffer)
        return IndexedPack(pack_id, len(buffer), shorten(table))

    def _flush_small(self) -> None:
        if self._small:
            self.data.submit(self._small, self._pooled_level if self._pool.overflowed else self._small_level)
            self._small, self._small_size = [], 0
            self._after_data()

    def _flush_chunks(self) -> None:
        if self._chunks:
            self.data.submit(self._chunks, self._chunk_level)
            self._chunks, self._chunks_size = [], 0
            self._after_data()

    def _after_data(self) -> None:
        if self.data.full:
            self.data.seal()
        self.settle(leave=2)

    def _submit_nodes(self) -> None:
        if self._nodes:
            self.meta.submit(self._nodes, _NODE_LEVEL)
            self._nodes, self._nodes_size = [], 0
            if self.meta.full:
                # Only here, where no node waits: hints that say "this pack" are in the pack that they were made for.
                self.meta.seal()
                self.settle()
