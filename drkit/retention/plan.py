"""Which packs a prune gives back, and what that costs. Pure: tables in, decisions out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from drkit.format.indexfile import ID_SIZE, IndexedPack
from drkit.format.limits import SMALL_BACKUP
from drkit.format.pack import PackTable
from drkit.model import Kind, PackId
from drkit.retention.mark import Live, Node

SMALL_PACK = SMALL_BACKUP
"""Packs under this are joined, if there are several."""
_ROUNDS = 20


class PackOf(Struct, frozen=True):
    """A pack in the store: its table, and the store's stamp of its writing."""

    pack: IndexedPack
    stamp: float


class Limits(Struct, frozen=True):
    """How much unused may stay, of the sum of all objects (`share`) or in bytes; how much may be written anew."""

    share: float = 0.05
    unused: int | None = None
    repack: int | None = None

    def allows(self, unused: float, total: float) -> bool:
        """Whether so much of it may stay unused."""
        return unused <= (self.unused if self.unused is not None else self.share * total)


class Use(Struct):
    """What is live in a pack: bytes of its size, and of each frame the share."""

    live: float
    frames: list[float]


class Layout(Struct, frozen=True):
    """Where everything is to be: which packs go, and what of them, with which nodes, is written anew."""

    gone: frozenset[PackId]
    moved: dict[bytes, PackId]
    """Keys of live blobs that lie only in packs that go: the pack that each is read from."""
    nodes: tuple[Node, ...]
    """Nodes to be written: those that move, and those whose hints name what moves; children before parents."""


def rows(table: PackTable) -> Iterator[tuple[int, Kind, bytes, int, int]]:
    """Yield (frame, kind, 16-byte key, offset, length) of each blob; hints have the key of the node before them."""
    key = b""
    for frame, kind, blob_id, offset, length in table.rows():
        if kind != Kind.HINTS:
            key = blob_id[:ID_SIZE]
        yield frame, kind, key, offset, length


class Planner:
    """Chooses among packs. `must` go in any case; `spared` stay, for a backup at work may rely on them.

    What is in a `young` pack is not taken as reason to give up another place of it: somebody may just have forged it.
    """

    def __init__(
        self,
        packs: Mapping[PackId, PackOf],
        live: Live,
        must: frozenset[PackId],
        spared: frozenset[PackId],
        young: frozenset[PackId] = frozenset(),
    ) -> None:
        self.packs = packs
        self._live = live
        self._must = must
        self._spared = spared
        self._young = young
        # The newest place of a blob counts: there a node has the newest hints.
        self._newest_first = sorted(packs, key=lambda pack: (pack not in must, packs[pack].stamp, pack), reverse=True)
        self.there = set(packs)
        """All packs that the store has, also those that came when this was made."""
        self._seen: set[bytes] = set()
        self._homes: dict[bytes, tuple[PackId, float]] = {}
        """Where the nodes lie, and how many bytes each takes there with its hints."""
        self.use = self._measure()

    def _measure(self) -> dict[PackId, Use]:
        found: dict[PackId, Use] = {}
        for pack_id in self._newest_first:
            table = self.packs[pack_id].pack.table
            plain = [0] * len(table.frame_lengths)
            own: set[bytes] = set()
            for frame, kind, key, _, length in rows(table):
                if key not in self._live.keys or key in self._seen or (key in own and kind != Kind.HINTS):
                    continue
                own.add(key)
                plain[frame] += length
                if key in self._live.nodes:
                    share = length * table.frame_lengths[frame] / table.frame_sizes[frame]
                    self._homes[key] = (pack_id, share + self._homes.get(key, (pack_id, 0.0))[1])
            self._seen |= own
            shares = [live / size for live, size in zip(plain, table.frame_sizes, strict=True)]
            used = sum(share * length for share, length in zip(shares, table.frame_lengths, strict=True))
            tail = self.packs[pack_id].pack.size - sum(table.frame_lengths)
            found[pack_id] = Use(used + (tail if any(plain) else 0), shares)
        return found

    def choose(self, limits: Limits, others: int) -> frozenset[PackId]:
        """Return the packs that go: dead ones, small ones to be joined, and the emptiest until `limits` are kept.

        `others` is the size of all objects that are no packs.
        """
        free = [pack for pack in self.packs if pack not in self._spared]
        gone = self._must | {pack for pack in free if not self.use[pack].live}
        if limits.repack is None or limits.repack > 0:
            gone |= self._small(free, gone, limits)
        for _ in range(_ROUNDS):
            more = self._emptiest(free, gone, limits, others)
            if not more:
                break
            gone |= more
        return frozenset(gone)

    def _small(self, free: list[PackId], gone: frozenset[PackId] | set[PackId], limits: Limits) -> set[PackId]:
        chosen: set[PackId] = set()
        for data in (True, False):
            small = [
                pack
                for pack in free
                if pack not in gone
                and self.packs[pack].pack.size < SMALL_PACK
                and (Kind.DATA in self.packs[pack].pack.table.kinds) == data
            ]
            if len(small) > 1:
                chosen.update(small)
        written = sum(self.use[pack].live for pack in chosen)
        return chosen if limits.repack is None or written <= limits.repack else set()

    def _emptiest(
        self, free: list[PackId], gone: frozenset[PackId] | set[PackId], limits: Limits, others: int
    ) -> set[PackId]:
        rewritten = self._rewritten(gone)
        unused = {
            pack: self.packs[pack].pack.size - self.use[pack].live + rewritten.get(pack, 0.0)
            for pack in free
            if pack not in gone
        }
        kept = sum(self.packs[pack].pack.size for pack in self.packs if pack not in gone)
        written = sum(self.use[pack].live for pack in gone) + sum(rewritten.values())
        waste, total = sum(unused.values()), kept + written + others
        candidates = [pack for pack in unused if unused[pack] >= 1]
        candidates.sort(key=lambda pack: unused[pack] / self.packs[pack].pack.size, reverse=True)
        more: set[PackId] = set()
        for pack in candidates:
            if limits.allows(waste, total):
                break
            written += self.packs[pack].pack.size - unused[pack]
            if limits.repack is not None and written > limits.repack:
                break
            more.add(pack)
            waste -= unused[pack]
            total -= unused[pack]
        return more

    def _rewritten(self, gone: frozenset[PackId] | set[PackId]) -> dict[PackId, float]:
        """Return how much of each pack that stays becomes unused, because nodes in it get new hints elsewhere."""
        found: dict[PackId, float] = {}
        moved = {key for key in self._live.nodes if self._homes[key][0] in gone}
        for key in self._stale(gone, moved):
            pack, size = self._homes[key]
            if pack not in gone:
                found[pack] = found.get(pack, 0.0) + size
        return found

    def _stale(self, gone: frozenset[PackId] | set[PackId], moved: set[bytes]) -> set[bytes]:
        """Return the nodes that move, or whose hints name what is gone or moves."""
        there = self.there
        stale = set(moved)
        for key, node in self._live.nodes.items():  # children come first
            if node.hinted is None or not node.hinted <= there or not node.hinted.isdisjoint(gone):
                stale.add(key)
            elif stale and node.height and key not in stale:
                children = node.children
                if any(children[at : at + ID_SIZE] in stale for at in range(0, len(children), ID_SIZE)):
                    stale.add(key)
        return stale

    def missing(self) -> int:
        """Return how many live blobs no pack holds."""
        return len(self._live.keys - self._seen)

    def layout(self, gone: frozenset[PackId]) -> Layout:
        """Return what is to be written anew when these packs go; the live set may have grown since they were chosen."""
        left = set(self._live.keys)
        for pack_id in self.packs:
            if pack_id not in gone and pack_id not in self._young:
                left.difference_update(_keys(self.packs[pack_id].pack.table))
        moved: dict[bytes, PackId] = {}
        for pack_id in self._newest_first:
            if pack_id in gone:
                for key in _keys(self.packs[pack_id].pack.table):
                    if key in left:
                        moved.setdefault(key, pack_id)
        nodes = self._live.nodes
        stale = self._stale(gone, {key for key in moved if key in nodes})
        return Layout(gone, moved, tuple(node for key, node in nodes.items() if key in stale))

    def holding(self, keys: set[bytes], among: frozenset[PackId]) -> frozenset[PackId]:
        """Return those packs of `among` without which a blob of `keys` would be in no other pack."""
        left = set(keys)
        for pack_id in self.packs.keys() - among:
            left.difference_update(_keys(self.packs[pack_id].pack.table))
        known = {pack_id: _keys(self.packs[pack_id].pack.table) for pack_id in among & self.packs.keys()}
        return frozenset(pack_id for pack_id, held in known.items() if left.intersection(held))

    def relied_on(self, gone: frozenset[PackId]) -> frozenset[PackId]:
        """Return the packs whose tables must be right, or data is lost: those that go, and those that have the same."""
        held: set[bytes] = set()
        for pack_id in gone:
            held.update(self._live.keys.intersection(_keys(self.packs[pack_id].pack.table)))
        others = self.packs.keys() - gone
        return gone | {pack_id for pack_id in others if not held.isdisjoint(_keys(self.packs[pack_id].pack.table))}

    def price(self, layout: Layout) -> tuple[int, int]:
        """Return about how many bytes of packs are read, and how many are written."""
        read = written = 0.0
        for pack_id in set(layout.moved.values()):
            table = self.packs[pack_id].pack.table
            wanted = [0] * len(table.frame_lengths)
            for frame, _, key, _, length in rows(table):
                if layout.moved.get(key) == pack_id:
                    wanted[frame] += length
            for length, size, plain in zip(table.frame_lengths, table.frame_sizes, wanted, strict=True):
                read += length if plain else 0
                written += length * plain / size
        for node in layout.nodes:
            if node.id[:ID_SIZE] not in layout.moved:
                home = self._homes.get(node.id[:ID_SIZE])
                read += home[1] if home else 0.0
                written += home[1] if home else 0.0
        return round(read), round(written)


def _keys(table: PackTable) -> list[bytes]:
    ids = bytes(table.ids)
    return [ids[at : at + ID_SIZE] for at in range(0, len(ids), table.id_size)]
