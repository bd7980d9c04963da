"""Where the children of snapshots' roots lie since a prune moved them: a snapshot is immutable, its places are not.

No reader needs it: without it the index is asked (docs/format.md, section 9).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from drkit.errors import IntegrityError, ObjectNotFound, StoreCorrupt
from drkit.format import frames, hints
from drkit.format.columns import Cursor
from drkit.format.limits import FORMAT_MAJOR, FORMAT_MINOR, INDEX_MAX
from drkit.format.pack import check_version
from drkit.model import PackId, Place
from drkit.store.base import Store

NAME = "hints/roots.zst"
"""One object under one name, so that a cold reader asks once; the next prune replaces it."""

_MAGIC = b"DRKR"
_NOWHERE = PackId(bytes(32))


def write_roots(store: Store, places: Mapping[bytes, Place]) -> None:
    """Store the places of nodes, by their whole ids, in the place of what was said before."""
    ids = sorted(places)
    head = struct.pack("<HHI", FORMAT_MAJOR, FORMAT_MINOR, len(ids))
    plain = b"".join((_MAGIC, head, *ids, hints.encode([places[node_id] for node_id in ids])))
    store.put(NAME, frames.compressor(3).compress(plain), overwrite=True)


def read_roots(store: Store) -> dict[str, Place]:
    """Return the places of nodes by hexadecimal id; none if no prune has moved any, or if the object is damaged."""
    try:
        return _decode(store.get(NAME))
    except (IntegrityError, ObjectNotFound, StoreCorrupt):
        return {}  # hints are never needed: the index knows the same


def _decode(data: bytes) -> dict[str, Place]:
    cursor = Cursor(frames.decode(data, limit=INDEX_MAX))
    if cursor.take(4) != _MAGIC:
        raise IntegrityError(f"{NAME} does not start with DRKR")
    check_version(cursor)
    ids = [cursor.take(32).hex() for _ in range(cursor.u32())]
    places = hints.decode(cursor.rest(), _NOWHERE)
    return {node_id: place for node_id, place in zip(ids, places, strict=False) if place is not None}
