"""Parity objects in a store: one for each pack, put after it, and what they give back."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress

from drkit.errors import FormatError, ObjectNotFound, StoreCorrupt
from drkit.format import parity
from drkit.format.limits import PARITY_PIECE, PARITY_SEALED
from drkit.format.settings import Settings
from drkit.model import PackId
from drkit.repo.names import pack_name, put_hashed
from drkit.store.base import Store
from drkit.store.salvage import read_anyway

_PARITY = re.compile(r"parity/([0-9a-f]{2})/(\1[0-9a-f]{62})\.par")


def parity_name(pack_id: PackId) -> str:
    """Return the object name of a pack's parity."""
    digits = pack_id.hex()
    return f"parity/{digits[:2]}/{digits}.par"


def parity_id_of(name: str) -> PackId | None:
    """Return the pack of which an object name names the parity, or None if it names none."""
    match = _PARITY.fullmatch(name)
    return PackId(bytes.fromhex(match[2])) if match else None


def check_parity(config: Settings) -> None:
    """Raise UsageError if the repository has parity and what makes it is not installed: before anything is stored."""
    if config.parity is not None:
        parity.library()


def make_parity(config: Settings, pack_id: PackId, pack: bytes | bytearray) -> bytes:
    """Return the parity object of a pack, of a repository that has parity. UsageError if a package is missing."""
    assert config.parity is not None
    piece = PARITY_SEALED if "encryption" in config.format.requires else PARITY_PIECE
    return parity.encode(pack_id, pack, config.parity, piece)


def put_parity(store: Store, config: Settings, pack_id: PackId, pack: bytes | bytearray) -> None:
    """Store the parity of a pack, which is stored already, if the repository has parity."""
    if config.parity is not None:
        put_hashed(store, parity_name(pack_id), make_parity(config, pack_id, pack))


def mend_parity(store: Store, config: Settings, pack_id: PackId) -> None:
    """Store the parity of a pack that has none, unless the pack itself is damaged."""
    if config.parity is None:
        return
    try:
        store.stat(parity_name(pack_id))
    except ObjectNotFound:
        with suppress(ObjectNotFound, StoreCorrupt):
            pack = store.get(pack_name(pack_id))
            if hashlib.sha256(pack).digest() == pack_id:
                put_parity(store, config, pack_id, pack)


def parity_problem(store: Store, pack_id: PackId) -> str:
    """Return what is wrong with the parity of a pack, after "it is"; nothing if it is whole."""
    try:
        whole = parity.is_whole(pack_id, store.get(parity_name(pack_id)))
    except ObjectNotFound:
        return "missing"
    except StoreCorrupt as error:
        return f"damaged: {error}"
    return "" if whole else "damaged"


def heal_pack(store: Store, pack_id: PackId) -> bytes:
    """Return a pack as it was, from what can be read of it and of its parity; no bytes if that is too little."""
    try:
        spare = read_anyway(store, parity_name(pack_id))
        size = parity.decode(spare)[0].size
        try:
            pack = read_anyway(store, pack_name(pack_id), size)
        except ObjectNotFound:
            pack = b""  # with as many shards of parity as of data even this is not the end
        return parity.heal(pack_id, pack, spare) or b""
    except (ObjectNotFound, FormatError):
        return b""
