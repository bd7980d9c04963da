"""Names of objects in a repository, and putting those that are named by their hash."""

from __future__ import annotations

import re

from drkit.errors import ObjectExists, StoreCorrupt
from drkit.model import IndexId, PackId
from drkit.store.base import Store

_INDEX = re.compile(r"index/([0-9a-f]{64})\.zst")
_PACK = re.compile(r"packs/([0-9a-f]{2})/(\1[0-9a-f]{62})\.zst")


def pack_name(pack_id: PackId) -> str:
    """Return the object name of a pack."""
    digits = pack_id.hex()
    return f"packs/{digits[:2]}/{digits}.zst"


def pack_id_of(name: str) -> PackId | None:
    """Return the pack that an object name names, or None if it is no pack."""
    match = _PACK.fullmatch(name)
    return PackId(bytes.fromhex(match[2])) if match else None


def index_name(index_id: IndexId) -> str:
    """Return the object name of an index object."""
    return f"index/{index_id.hex()}.zst"


def index_id_of(name: str) -> IndexId | None:
    """Return the index object that an object name names, or None if it is none."""
    match = _INDEX.fullmatch(name)
    return IndexId(bytes.fromhex(match[1])) if match else None


def put_hashed(store: Store, name: str, data: bytes | bytearray) -> None:
    """Store an object under a name that is its hash. One that is there already is kept, unless it is damaged."""
    try:
        store.put(name, data)
    except ObjectExists:
        try:
            intact = store.get(name) == data
        except StoreCorrupt:
            intact = False
        if not intact:
            store.put(name, data, overwrite=True)
