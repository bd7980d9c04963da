"""Whether an object is what its name promises."""

from __future__ import annotations

import hashlib
import re

from drkit.errors import FormatError, ObjectNotFound, StoreCorrupt
from drkit.format import snapshot as snapshot_format
from drkit.format.indexfile import IndexedPack, shorten
from drkit.format.pack import read_table
from drkit.model import PackId
from drkit.repo.names import pack_name
from drkit.store.base import Store

_HASH_IN_NAME = re.compile(r"keys/([0-9a-f]{64})(?:-copy)?\.json|inventory/.*-([0-9a-f]{8})\.jsonl\.zst")


def read_pack(store: Store, pack_id: PackId) -> tuple[bytes, IndexedPack | None, str]:
    """Return a pack's bytes and tables if it is whole, else what is wrong with it."""
    try:
        data = store.get(pack_name(pack_id))
    except ObjectNotFound:
        return b"", None, "missing"
    except StoreCorrupt as error:
        return b"", None, str(error)
    pack, problem = parse_pack(pack_id, data)
    return (data if pack else b""), pack, problem


def parse_pack(pack_id: PackId, data: bytes) -> tuple[IndexedPack | None, str]:
    """Return what a pack's tables say if its bytes are whole, else what is wrong with them."""
    if hashlib.sha256(data).digest() != pack_id:
        return None, "its bytes do not hash to its name"
    try:
        table = read_table(len(data), lambda offset, length: data[offset : offset + length])
    except FormatError as error:
        return None, str(error)
    return IndexedPack(pack_id, len(data), shorten(table)), ""


def snapshot_problem(store: Store, name: str) -> str | None:
    """Return what is wrong with a snapshot; None if nothing is."""
    try:
        snapshot_format.decode(name, store.get(name))
    except ObjectNotFound:
        return "missing"
    except (FormatError, StoreCorrupt) as error:
        return str(error)
    return None


def named_right(store: Store, name: str) -> bool:
    """Whether an object is there, and has the hash in its name."""
    match = _HASH_IN_NAME.fullmatch(name)
    if match is None:
        return True  # nothing to compare it with
    try:
        return hashlib.sha256(store.get(name)).hexdigest().startswith(match[1] or match[2])
    except (ObjectNotFound, StoreCorrupt):
        return False
