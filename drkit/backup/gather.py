"""Bringing together what many nights have scattered, so that a plugin is read back from few packs."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from drkit.format import manifest
from drkit.format.limits import KIB
from drkit.model import Entry, PackId
from drkit.repo.packer import Packer
from drkit.source.read import read_small

_SCATTERED = 3
"""A segment that has its files in more packs than these, the one that is being written aside, is gathered."""
_SMALL = 16 * KIB
_AT_MOST = 256 * KIB
"""So much of one segment is stored again at most."""


class Gatherer:
    """Stores small files again, beside what is new, where a segment that changes has them in many packs.

    Each of those packs is a request to a store far away. Those in the pack that holds most of them stay, so a file is
    stored again once for every few changes around it; a prune gives back what that cost.
    """

    def __init__(self, source: bytes, packer: Packer) -> None:
        self._prefix = source.rstrip(b"/") + b"/"
        self._packer = packer

    def gather(self, blobs: Iterable[bytes], lines: Iterable[bytes]) -> None:
        """Look at the blobs and lines of a new segment, and empty for it the packs of which it has nothing large.

        A file that is not what its entry says any more is left alone.
        """
        find = self._packer.index.find
        places = {blob_id: place for blob_id in blobs if not self._packer.is_new(blob_id) and (place := find(blob_id))}
        if len({place.pack for place in places.values()}) <= _SCATTERED:
            return
        files: dict[PackId, list[tuple[bytes, Entry]]] = {}
        fixed: set[PackId] = set()
        for entry in manifest.decode_entries(b"".join(lines)):
            for child in manifest.child_ids([entry]):
                if place := places.get(bytes.fromhex(child)):
                    files.setdefault(place.pack, []).append((entry.raw_path, entry))
                    if entry.size > _SMALL or entry.live:
                        fixed.add(place.pack)
        fixed.add(max(files, key=lambda pack: len(files[pack])))
        moved = [each for pack, found in files.items() if pack not in fixed for each in found]
        if sum(entry.size for _, entry in moved) <= _AT_MOST:
            for path, entry in moved:
                self._store(path, entry)

    def _store(self, path: bytes, entry: Entry) -> None:
        try:
            still = read_small(self._prefix + path, entry.size + 1, [])
        except OSError:
            return
        blob_id = bytes.fromhex(entry.sha256)
        if still is not None and sha256(still.data).digest() == blob_id and not self._packer.is_new(blob_id):
            self._packer.add(blob_id, still.data)
