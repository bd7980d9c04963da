"""Reading blobs back: every byte is checked against its id before anybody sees it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

from drkit.errors import FormatError, IntegrityError, ObjectNotFound, StoreCorrupt, UsageError
from drkit.format import frames, hints
from drkit.format.limits import FRAME_MAX, KIB, POOL_TARGET
from drkit.model import Entry, PackId, Place
from drkit.repo.index import Index
from drkit.repo.names import pack_name
from drkit.repo.newest import Known
from drkit.repo.parity import heal
from drkit.store.base import Store
from drkit.store.cache import CachedStore
from drkit.store.salvage import read_before_damage

CACHED = 2 * POOL_TARGET + FRAME_MAX
"""Enough to decode each frame once when a tree is read in order: what a frame holds lay within the pool's size, and
between two of its blobs may lie all that has waited with the first, and all that came with the last."""
_SLICE = 64 * KIB
_HEALED = 2
"""So many packs that parity gave back are kept in memory."""
NODES_CACHED = FRAME_MAX
"""Enough for who reads a manifest only: its segments lie in order, in frames of a quarter MiB."""


class BlobLost(IntegrityError):
    """No place that is known holds the blob's bytes any more."""


class _Frame:
    """A decoded frame in slices, each kept until all of it was read once."""

    def __init__(self, plain: bytes, problem: str = "") -> None:
        self.problem = problem
        self._slices: list[bytes | None] = [plain[at : at + _SLICE] for at in range(0, len(plain), _SLICE)]
        self._unread = [len(one) for one in self._slices if one is not None]
        self._end = len(plain)
        self.size = len(plain)
        """How much of it is still here."""

    def cut(self, start: int, end: int) -> bytes | None:
        """Return the bytes from `start` to before `end`, fewer where the frame ends; None if some are gone."""
        first, last = start // _SLICE, (min(end, self._end) - 1) // _SLICE
        parts = self._slices[first : last + 1]
        if None in parts:
            return None
        whole = parts[0] if len(parts) == 1 else b"".join([part for part in parts if part is not None])
        return whole[start - first * _SLICE : end - first * _SLICE] if whole else b""

    def used(self, start: int, end: int) -> None:
        """Take note that these bytes were read."""
        for number in range(start // _SLICE, (min(end, self._end) - 1) // _SLICE + 1):
            at = number * _SLICE
            self._unread[number] -= min(end, at + _SLICE) - max(start, at)
            one = self._slices[number]
            if self._unread[number] <= 0 and one is not None:
                self.size -= len(one)
                self._slices[number] = None


class FrameReader:
    """Decoded frames of packs, the last of them kept, each as far as it was not read yet. For one thread."""

    def __init__(self, store: Store, limit: int = CACHED) -> None:
        self._store = store
        self._limit = limit
        self._cache: OrderedDict[tuple[PackId, int, int], _Frame] = OrderedDict()
        self._size = 0
        self._passed: dict[tuple[PackId, int, int], list[tuple[int, int]]] = {}
        self._doubted: set[tuple[PackId, int, int]] = set()
        self._healed: OrderedDict[PackId, bytes] = OrderedDict()
        self._hopeless: set[PackId] = set()

    def piece(self, place: Place) -> bytes:
        """Return the bytes at a place, unchecked; fewer than its length where the frame is damaged.

        ObjectNotFound if the pack is gone, StoreCorrupt if nothing of the frame can be read.
        """
        return self._read(place, place.offset, place.offset + place.length)

    def behind(self, place: Place, start: int, end: int) -> bytes:
        """Return what lies in the same frame from `start` to before `end`, counted from the place's own end."""
        base = place.offset + place.length
        return self._read(place, base + start, base + end)

    def holds(self, place: Place) -> bool:
        """As `BlobReader.holds`."""
        return (place.pack, place.frame_offset, place.frame_length) in self._cache

    def pass_over(self, place: Place) -> None:
        """As `BlobReader.pass_over`."""
        key = (place.pack, place.frame_offset, place.frame_length)
        self._passed.setdefault(key, []).append((place.offset, place.offset + place.length))

    def _read(self, place: Place, start: int, end: int) -> bytes:
        key = (place.pack, place.frame_offset, place.frame_length)  # a wrong hint must not spoil a right place
        frame = self._cache.get(key)
        data = frame.cut(start, end) if frame is not None else None
        used = [(start, end)]
        if frame is None or data is None:
            frame = self._decode(key)
            data = frame.cut(start, end) or b""
            used += self._passed.get(key, ())
        else:
            self._cache.move_to_end(key)
        before = frame.size
        for each in used:
            frame.used(*each)
        self._size -= before - frame.size
        if before and not frame.size:  # one that gave nothing at all stays, so that it is not tried again
            del self._cache[key]
        return data

    def _decode(self, key: tuple[PackId, int, int]) -> _Frame:
        if old := self._cache.pop(key, None):
            self._size -= old.size
        pack, offset, length = key
        healed = self._healed.get(pack)
        problem = ""
        if healed is None:
            data, problem = self._stored(pack_name(pack), offset, length)
        else:
            data = healed[offset : offset + length]
        try:
            plain = frames.decode(data)
        except FormatError:
            plain = frames.salvage(data)
        frame = self._cache[key] = _Frame(plain, problem)
        self._size += frame.size
        while self._size > self._limit and len(self._cache) > 1:
            self._size -= self._cache.popitem(last=False)[1].size
        return frame

    def _stored(self, name: str, offset: int, length: int) -> tuple[bytes, str]:
        """Return the stored bytes of a frame, or what lies before a part that cannot be read, and why it cannot."""
        try:
            return self._store.get_range(name, offset, length), ""
        except StoreCorrupt as error:
            if data := read_before_damage(self._store, name, offset, length):
                return data, str(error)
            raise

    def problem(self, place: Place) -> str:
        """Return what the store said of the part of a frame that it did not give; nothing where it gave all."""
        frame = self._cache.get((place.pack, place.frame_offset, place.frame_length))
        return frame.problem if frame is not None else ""

    def forget(self, place: Place) -> bool:
        """Drop what is kept of a frame that turned out to be wrong; return whether to read it again may help: once."""
        key = (place.pack, place.frame_offset, place.frame_length)
        if self._store.directory is not None or key in self._doubted:
            return False
        self._doubted.add(key)
        if (frame := self._cache.pop(key, None)) is not None:
            self._size -= frame.size
        if isinstance(self._store, CachedStore):
            self._store.forget(pack_name(place.pack), place.frame_offset, place.frame_length)
        return True

    def heal(self, pack: PackId) -> bool:
        """Read a damaged pack from its parity from now on, in memory; return whether that may help: once.

        UsageError if the package that this takes is not installed.
        """
        if pack in self._healed or pack in self._hopeless:
            return False
        self._hopeless.add(pack)
        if not (data := heal(self._store, pack_name(pack), pack)):
            return False
        self._hopeless.remove(pack)
        self._healed[pack] = data
        while len(self._healed) > _HEALED:
            self._healed.popitem(last=False)
        for key in [key for key in self._cache if key[0] == pack]:
            self._size -= self._cache.pop(key).size
        return True


class BlobReader:
    """Blobs and file contents by id. For one thread; the index is asked only where a hint does not help.

    With `parity`, a pack that is damaged is read from its parity as far as that gives it back. What is `known` is not
    read again.
    """

    def __init__(
        self,
        store: Store,
        index: Callable[[bool], Index],
        limit: int = CACHED,
        *,
        parity: bool = False,
        known: Known | None = None,
    ) -> None:
        self._known = known or Known()
        self._frames = FrameReader(store, limit)
        self._parity = parity
        self._index = index  # index(True) loads it anew
        self._reloaded = False

    def blob(self, blob_id: str, place: Place | None) -> bytes:
        """Return the plaintext of a blob, its hash checked; `place` may be None, outdated or wrong.

        BlobLost if no place gives bytes of this hash.
        """
        if known := self._known.nodes.get(blob_id):
            return known[0]
        return self._fetch(blob_id, place)[0]

    def holds(self, place: Place) -> bool:
        """Whether the frame of a place is decoded already."""
        return self._frames.holds(place)

    def pass_over(self, place: Place) -> None:
        """Take note that a blob will hardly be read, so that it keeps no memory when others of its frame are."""
        self._frames.pass_over(place)

    def node(self, node_id: str, place: Place | None) -> tuple[bytes, list[Place | None]]:
        """Return a segment or list and what its hints say of its children: nothing, if the hints are unreadable."""
        if known := self._known.nodes.get(node_id):
            return known[0], self._known.children(node_id)
        data, found = self._fetch(node_id, place)
        try:
            head = self._frames.behind(found, 0, hints.HEAD)
            return data, hints.decode(self._frames.behind(found, 0, hints.size(head)), found.pack)
        except FormatError:
            return data, []  # hints are never needed: the index knows the same

    def content(self, entry: Entry, places: Mapping[str, Place]) -> Iterator[bytes]:
        """Yield the blobs of a file in order. BlobLost, possibly after some, if one is lost."""
        if entry.lists:
            for list_id in entry.lists:
                data, found = self.node(list_id, places.get(list_id))
                ids = [data[at : at + 32] for at in range(0, len(data), 32)]
                inner = dict(zip(dict.fromkeys(ids), found, strict=False))  # hints have each blob once
                for raw in ids:
                    yield self.blob(raw.hex(), inner.get(raw))
        elif entry.blobs:
            for blob_id in entry.blobs:
                yield self.blob(blob_id, places.get(blob_id))
        elif entry.size:
            yield self.blob(entry.sha256, places.get(entry.sha256))

    def _fetch(self, blob_id: str, place: Place | None) -> tuple[bytes, Place]:
        reasons: list[str] = []
        tried = [place] if place is not None else []
        if place is not None and (data := self._try(blob_id, place, reasons)) is not None:
            return data, place
        raw = bytes.fromhex(blob_id)
        for fresh in (False, True):
            if fresh and self._reloaded:
                break
            # A prune may have moved the blob since the index was read: once, it is read again.
            self._reloaded = self._reloaded or fresh
            for other in self._index(fresh).find_all(raw):
                if other != place and (data := self._try(blob_id, other, reasons)) is not None:
                    return data, other
                tried.append(other)
        for other in tried if self._parity else ():
            if (data := self._try_parity(blob_id, other, reasons)) is not None:
                return data, other
        raise BlobLost(f"the blob {blob_id[:16]}… is lost: {reasons[-1] if reasons else 'no pack holds it'}")

    def _try_parity(self, blob_id: str, place: Place, reasons: list[str]) -> bytes | None:
        try:
            healed = self._frames.heal(place.pack)
        except UsageError as error:
            reasons.append(f"{pack_name(place.pack)} is damaged, and {error}")
            return None
        return self._try(blob_id, place, reasons) if healed else None

    def _try(self, blob_id: str, place: Place, reasons: list[str]) -> bytes | None:
        name = pack_name(place.pack)
        try:
            data = self._frames.piece(place)
        except ObjectNotFound:
            reasons.append(f"{name} is missing")
            return None
        except StoreCorrupt as error:
            reasons.append(f"{name}: {error}")
            return None
        if hashlib.sha256(data).hexdigest() == blob_id:
            return data
        problem = self._frames.problem(place)
        if self._frames.forget(place):  # a cache, or the way here, may have spoiled it
            return self._try(blob_id, place, reasons)
        reasons.append(
            f"{name}: {problem}" if problem else f"{name} is damaged in the frame at byte {place.frame_offset}"
        )
        return None
