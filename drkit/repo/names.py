"""Names of objects in a repository."""

from __future__ import annotations

import re

from drkit.model import IndexId, PackId

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
