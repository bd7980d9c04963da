"""Parity objects in a store: one for each pack and snapshot, put before it, and what they give back."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress

from drkit.errors import FormatError, ObjectNotFound, StoreCorrupt, UsageError
from drkit.format import parity
from drkit.format.limits import PARITY_PIECE, PARITY_SEALED
from drkit.format.settings import Settings
from drkit.model import Finding
from drkit.repo.names import put_hashed
from drkit.store.base import Store
from drkit.store.salvage import read_anyway

_PARITY = re.compile(r"parity/([0-9a-f]{2})/(\1[0-9a-f]{62})\.par")


def parity_name(object_id: bytes) -> str:
    """Return the object name of the parity of a pack or snapshot."""
    digits = object_id.hex()
    return f"parity/{digits[:2]}/{digits}.par"


def parity_id_of(name: str) -> bytes | None:
    """Return the id of what an object name names the parity of, or None if it names none."""
    match = _PARITY.fullmatch(name)
    return bytes.fromhex(match[2]) if match else None


def check_parity(config: Settings) -> None:
    """Raise UsageError if the repository has parity and what makes it is not installed: before anything is stored."""
    if config.parity is not None:
        parity.library()


def make_parity(config: Settings, object_id: bytes, content: bytes | bytearray) -> bytes:
    """Return the parity of a pack or snapshot of a repository that has parity. UsageError if a package is missing."""
    assert config.parity is not None
    piece = PARITY_SEALED if "encryption" in config.format.requires else PARITY_PIECE
    return parity.encode(object_id, content, config.parity, piece)


def put_parity(store: Store, config: Settings, object_id: bytes, content: bytes | bytearray) -> None:
    """Store the parity of what is to be stored next, if the repository has parity: so that nothing is ever without."""
    if config.parity is not None:
        put_hashed(store, parity_name(object_id), make_parity(config, object_id, content))


def parity_problem(store: Store, object_id: bytes) -> str:
    """Return what is wrong with the parity of a pack or snapshot, after "it is"; nothing if it is whole."""
    try:
        whole = parity.is_whole(object_id, store.get(parity_name(object_id)))
    except ObjectNotFound:
        return "missing"
    except StoreCorrupt as error:
        return f"damaged: {error}"
    return "" if whole else "damaged"


def heal(store: Store, name: str, object_id: bytes) -> bytes:
    """Return an object as it was, from what can be read of it and of its parity; no bytes if that is too little.

    UsageError if the package that this takes is not installed.
    """
    try:
        spare = read_anyway(store, parity_name(object_id))
        size = parity.decode(spare)[0].size
        try:
            content = read_anyway(store, name, size)
        except ObjectNotFound:
            content = b""  # with as many shards of parity as of data even this is not the end
        return parity.heal(object_id, content, spare) or b""
    except (ObjectNotFound, FormatError):
        return b""


def get_whole(store: Store, config: Settings, name: str, object_id: bytes) -> bytes:
    """Return a pack or snapshot whose bytes are right, from its parity if they are damaged; StoreCorrupt if that fails.

    ObjectNotFound if it is missing.
    """
    try:
        content = store.get(name)
        if hashlib.sha256(content).digest() == object_id:
            return content
        problem = "its bytes do not hash to its name"
    except StoreCorrupt as error:
        problem = str(error)
    if data := heal_if(config, store, name, object_id):
        return data
    raise StoreCorrupt(problem)


def heal_if(config: Settings, store: Store, name: str, object_id: bytes) -> bytes:
    """Return a damaged object as it was; no bytes if the repository has no parity, or this machine not the package."""
    with suppress(UsageError):
        if config.parity is not None:
            return heal(store, name, object_id)
    return b""


def healable(name: str, error: Exception) -> Finding:
    """Return the finding of a damaged snapshot that was read from its parity."""
    message = f"{error}; its parity gives it back"
    return Finding("snapshot-healable", name, message, "run 'drkit repair': it writes the snapshot anew")
