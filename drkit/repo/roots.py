"""Where the children of snapshots' roots lie since a prune moved them: a snapshot is immutable, its places are not.

No reader needs it: without it the index is asked (docs/format.md, section 14).
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Mapping

from drkit.errors import IntegrityError, ObjectNotFound, StoreCorrupt
from drkit.format import frames, hints
from drkit.format.columns import Cursor
from drkit.format.limits import FORMAT_MAJOR, FORMAT_MINOR, INDEX_MAX
from drkit.format.pack import check_version
from drkit.model import PackId, Place
from drkit.repo.names import put_hashed
from drkit.store.base import Store

PREFIX = "roots/"
_MAGIC = b"DRKR"
_NAME = re.compile(r"roots/([0-9a-f]{64})\.zst")
_NOWHERE = PackId(bytes(32))


def write_roots(store: Store, places: Mapping[bytes, Place]) -> tuple[str, int]:
    """Store the places of nodes, by their whole ids; return the object's name and size."""
    ids = sorted(places)
    head = struct.pack("<HHI", FORMAT_MAJOR, FORMAT_MINOR, len(ids))
    plain = b"".join((_MAGIC, head, *ids, hints.encode([places[node_id] for node_id in ids])))
    data = frames.compressor(3).compress(plain)
    name = f"{PREFIX}{hashlib.sha256(data).hexdigest()}.zst"
    put_hashed(store, name, data)
    return name, len(data)


def read_roots(store: Store) -> dict[str, Place]:
    """Return the places of nodes by hexadecimal id, as the newest objects say. One that is damaged says nothing."""
    found: dict[str, Place] = {}
    for info in sorted(store.list(PREFIX), key=lambda info: info.modified):  # several after a prune was killed
        try:
            found.update(_decode(info.name, store.get(info.name)))
        except (IntegrityError, ObjectNotFound, StoreCorrupt):
            continue  # hints are never needed: the index knows the same
    return found


def _decode(name: str, data: bytes) -> dict[str, Place]:
    match = _NAME.fullmatch(name)
    if match is None or hashlib.sha256(data).hexdigest() != match[1]:
        raise IntegrityError(f"{name} does not have the bytes that its name promises")
    cursor = Cursor(frames.decode(data, limit=INDEX_MAX))
    if cursor.take(4) != _MAGIC:
        raise IntegrityError(f"{name} does not start with DRKR")
    check_version(cursor)
    ids = [cursor.take(32).hex() for _ in range(cursor.u32())]
    places = hints.decode(cursor.rest(), _NOWHERE)
    return {node_id: place for node_id, place in zip(ids, places, strict=False) if place is not None}
