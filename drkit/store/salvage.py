"""Reading what is left of a damaged object."""

from __future__ import annotations

from contextlib import suppress

from drkit.errors import StoreCorrupt
from drkit.format.limits import KIB
from drkit.store.base import Store

_SECTOR = 4 * KIB
_REQUEST = 64 * KIB


def read_anyway(store: Store, name: str, size: int | None = None) -> bytes:
    """Return what can be read of an object, with zeros for what cannot, or the whole of it, be it right or wrong.

    `size` is that which it should have, where the caller knows it. ObjectNotFound if it is not there.
    """
    with suppress(StoreCorrupt):
        return store.get(name)
    if size is None:
        try:
            size = store.stat(name).size
        except StoreCorrupt:
            return b""  # not even a file
    return b"".join(_pieces(store, name, size))


def read_before_damage(store: Store, name: str, offset: int, length: int) -> bytes:
    """Return as much of a range as can be read from its beginning on; b"" if that is nothing."""
    step = _REQUEST if store.directory is None else _SECTOR
    data = bytearray()
    with suppress(StoreCorrupt):
        while len(data) < length:
            at = offset + len(data)
            data += store.get_range(name, at, min(step - at % step, length - len(data)))
    return bytes(data)


def _pieces(store: Store, name: str, size: int) -> list[bytes]:
    """Return the pieces of an object: what cannot be read is halved until it is small, and given up then."""
    smallest = _REQUEST if store.directory is None else _SECTOR
    pieces = []
    waiting = [(0, size)]
    while waiting:
        at, length = waiting.pop()
        try:
            pieces.append(store.get_range(name, at, length))
        except StoreCorrupt:
            if length <= smallest:
                pieces.append(bytes(length))
                continue
            half = smallest
            while 2 * half < length:
                half *= 2
            waiting += ((at + half, length - half), (at, half))
    return pieces
