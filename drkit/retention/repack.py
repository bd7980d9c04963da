"""Writing anew what is live in packs that go: data in the order that it has, then the nodes above it with new hints."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from msgspec import Struct

from drkit.errors import FormatError, IntegrityError, ObjectNotFound, StoreCorrupt
from drkit.format import frames, hints
from drkit.format.indexfile import ID_SIZE, IndexedPack
from drkit.format.limits import CHUNK_MIN, FRAME_JOINED, MIB, SMALL_BACKUP
from drkit.model import Kind, PackId, Place
from drkit.progress import Progress
from drkit.repo import Repository
from drkit.repo.index import Index, read_pack_table
from drkit.repo.names import pack_name
from drkit.repo.packer import Packer
from drkit.retention.mark import Node, children_of
from drkit.retention.plan import Layout, Planner
from drkit.store.base import Store

_READ_AT_ONCE = 16 * MIB


class Written(Struct, frozen=True):
    """The packs that were written, the index of what stays and of them, and how many bytes of data were read."""

    packs: list[IndexedPack]
    stays: Index
    fresh: Index
    bytes_read: int
    bytes_written: int

    def find(self, blob_id: bytes) -> Place | None:
        """Return where a blob is from now on."""
        return self.fresh.find(blob_id) or self.stays.find(blob_id)


def _read_back(store: Store, pack_id: PackId) -> None:
    """Raise StoreCorrupt if a pack is not in the store as it was put: what it was made of is about to be deleted."""
    name = pack_name(pack_id)
    with contextlib.suppress(StoreCorrupt, ObjectNotFound):
        if hashlib.sha256(store.get(name)).digest() == pack_id:
            return
    with contextlib.suppress(ObjectNotFound):  # else the next prune would take it for another place of what it holds
        store.delete(name)
    raise StoreCorrupt(
        f"{store.url} does not give {name} back as it was put; it was taken away again, and nothing else was deleted",
        hint="check that store with 'drkit doctor --store URL', then prune again",
    )


class _Frame(Struct, frozen=True):
    """A frame of data in a pack that goes; `wanted` says which of its blobs are read from here."""

    offset: int
    length: int
    size: int
    blobs: list[tuple[Kind, bytes, int]]
    wanted: list[bool]


def repack(
    repo: Repository,
    planner: Planner,
    layout: Layout,
    *,
    condemned: frozenset[PackId],
    progress: Progress,
    tick: Callable[[], object],
) -> Written:
    """Store everything that the layout moves. All of it is durable afterwards; no index object names it yet.

    Every blob is hashed before, and every pack as the store gives it back. IntegrityError if a blob is lost,
    StoreCorrupt if a pack is: nothing was deleted then.
    """
    stays = Index()
    for pack_id, known in planner.packs.items():
        if pack_id not in layout.gone:
            stays.add_pack(known.pack)
    with Packer(repo.store, lambda: stays, repo.config, level=None, condemned=condemned) as packer:
        writer = _Writer(repo, packer, stays, progress, tick)
        sources = sorted(set(layout.moved.values()), key=lambda pack: (planner.packs[pack].stamp, pack))
        for pack_id in sources:
            writer.data(pack_id, planner.packs[pack_id].pack, layout)
        writer.nodes(layout.nodes, small=planner.price(layout)[1] < 2 * SMALL_BACKUP)
        packer.finish()
        writer.settle()
        if any(key not in writer.fresh for key in layout.moved):
            raise IntegrityError("what is needed was not all written anew; nothing was deleted")
        for pack in packer.new_packs:
            tick()
            _read_back(repo.store, pack.id)
        return Written(packer.new_packs, stays, writer.fresh, writer.bytes_read, packer.bytes_added)


class _Writer:
    """A repacking under way."""

    def __init__(
        self, repo: Repository, packer: Packer, stays: Index, progress: Progress, tick: Callable[[], object]
    ) -> None:
        self.fresh = Index()
        self.bytes_read = 0
        self._repo = repo
        self._packer = packer
        self._stays = stays
        self._progress = progress
        self._tick = tick
        self._reader = repo.reader()
        self._own: dict[bytes, Place] = {}
        self._settled = 0
        self._taken: set[bytes] = set()

    def data(self, pack_id: PackId, pack: IndexedPack, layout: Layout) -> None:
        """Take over the data of a pack: frames of which all is live as they are, the rest blob by blob."""
        for run in _runs(self._frames(pack_id, pack, layout)):
            self._tick()
            start, end = run[0].offset, run[-1].offset + run[-1].length
            packed = self._repo.store.get_range(pack_name(pack_id), start, end - start)
            self.bytes_read += len(packed)
            self._progress.advance(0, len(packed))
            for frame in run:
                at = frame.offset - start
                self._frame(frame, packed[at : at + frame.length])

    def _frames(self, pack_id: PackId, pack: IndexedPack, layout: Layout) -> list[_Frame]:
        table = read_pack_table(self._repo.store, pack_id, pack.size)
        places = list(table.offsets())
        found = []
        for number, rows in groupby(table.rows(), key=lambda row: row[0]):
            blobs = [(kind, blob_id, length) for _, kind, blob_id, _, length in rows]
            if blobs[0][0] != Kind.DATA:
                continue
            wanted = []
            for _, blob_id, _ in blobs:
                key = blob_id[:ID_SIZE]
                wanted.append(layout.moved.get(key) == pack_id and key not in self._taken)
                if wanted[-1]:
                    self._taken.add(key)
            if any(wanted):
                offset, length, size = places[number]
                found.append(_Frame(offset, length, size, blobs, wanted))
        return found

    def _frame(self, frame: _Frame, packed: bytes) -> None:
        try:
            plain = frames.decode(packed, frame.size)
        except FormatError:
            plain = b""
        whole = True
        pieces: list[tuple[bytes, bytes]] = []
        at = 0
        for (_, blob_id, length), wanted in zip(frame.blobs, frame.wanted, strict=True):
            data = plain[at : at + length]
            at += length
            if not wanted:
                whole = False
            elif hashlib.sha256(data).digest() == blob_id:
                pieces.append((blob_id, data))
            else:
                whole = False  # another place may still have it; if none has, this raises
                pieces.append((blob_id, self._reader.blob(blob_id.hex(), None)))
        if whole and frame.size >= FRAME_JOINED:
            self._packer.add_frame(packed, frame.blobs)
            return
        for blob_id, data in pieces:
            if len(data) >= CHUNK_MIN:
                self._packer.add_chunk(blob_id, data)
            else:
                self._packer.add_next(blob_id, data)

    def nodes(self, nodes: Sequence[Node], *, small: bool) -> None:
        """Write nodes with hints that say where their children are now, from below: a few go into the pack of data."""
        packer = self._packer
        packer.flush_data()
        if small and not packer.sealed and len(packer.data.buffer) < SMALL_BACKUP:
            packer.share_pack()
            self._own = packer.data.data_places()
        else:
            packer.data.seal()
            packer.settle()
        for _, level in groupby(sorted(nodes, key=lambda node: node.height), key=lambda node: node.height):
            for node in level:
                self._tick()
                data = self._reader.blob(node.id.hex(), self._repo.index.find(node.id))
                places = [self._place(child) for child in children_of(node.form, data)]
                packer.add_node(node.form.kind, node.id, data, hints.encode(places))
            packer.flush_nodes()

    def settle(self) -> None:
        """Learn of packs that are durable by now."""
        for pack in self._packer.new_packs[self._settled :]:
            self.fresh.add_pack(pack)
        self._settled = len(self._packer.new_packs)

    def _place(self, child: bytes) -> Place:
        self.settle()
        if self._packer.sealed:  # what was in the pack that data and nodes share is in the index by now
            self._own = {}
        place = (
            self._own.get(child[:ID_SIZE])
            or self._packer.meta.nodes.get(child)
            or self.fresh.find(child)
            or self._stays.find(child)
            or self._repo.load_index(True).index.find(child)  # of a backup that has just ended
        )
        if place is None:
            raise IntegrityError(f"the blob {child.hex()[:16]}… is in no pack; nothing was deleted")
        return place


def _runs(found: Sequence[_Frame]) -> Iterator[list[_Frame]]:
    """Yield frames that lie one behind the other, to be read at once."""
    run: list[_Frame] = []
    size = 0
    for frame in found:
        if run and (run[-1].offset + run[-1].length != frame.offset or size + frame.length > _READ_AT_ONCE):
            yield run
            run, size = [], 0
        run.append(frame)
        size += frame.length
    if run:
        yield run
