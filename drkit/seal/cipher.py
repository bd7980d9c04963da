"""Sealed objects: authenticated chunks under a key of their own (docs/format.md, section 13). No I/O.

What is opened is what was sealed, under the same name, in the same repository, whole and in order; everything else is
StoreCorrupt. The package `cryptography` is imported when it is first needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from drkit.errors import StoreCorrupt, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CHUNK = 64 * 1024
"""Bytes of plaintext in every chunk but the last."""
SALT = 16
HEAD = 4 + SALT
TAG = 16
STORED = HEAD + CHUNK + TAG
"""Bytes of a full chunk as it is stored."""
VERSION = 1
MASTER = 32
EPOCHS = 255


class KeyRing(Struct, frozen=True):
    """The keys of a repository: of names, and of objects by epoch; `current` is the epoch of what is written."""

    name_key: bytes
    masters: Mapping[int, bytes]
    current: int


def stored_size(plain: int) -> int:
    """Return the size that an object of `plain` bytes has in the store."""
    return plain + max(1, -(-plain // CHUNK)) * (HEAD + TAG)


def plain_size(stored: int) -> int:
    """Return the size that an object of `stored` bytes has when opened; of one that was cut, what can be left."""
    before = max(0, -(-stored // STORED) - 1)
    return before * CHUNK + max(0, stored - before * STORED - HEAD - TAG)


def need_cryptography() -> None:
    """Raise UsageError if the package that does the work is missing."""
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "encrypted repositories need the package 'cryptography', which is not installed",
            hint="pip install 'drkit[encrypt]'",
        ) from error


class ObjectCipher:
    """Seals and opens the objects of one repository. May be used by several threads."""

    def __init__(self, ring: KeyRing, repository_id: str) -> None:
        need_cryptography()
        self._ring = ring
        self._info = b"drkit object" + repository_id.encode() + b"\0"

    def seal(self, name: str, data: bytes | bytearray | memoryview) -> bytearray:
        """Return `data` as it is stored under `name`: different each time."""
        plain = memoryview(data).cast("B")
        epoch, salt = self._ring.current, os.urandom(SALT)
        key = self._key(name, epoch, salt)
        stored = bytearray(stored_size(len(plain)))  # filled in place: a pack's pieces would need its memory again
        count = max(1, -(-len(plain) // CHUNK))
        for number in range(count):
            last = number == count - 1
            head = bytes((VERSION, epoch, last, 0)) + salt
            chunk = plain[number * CHUNK : (number + 1) * CHUNK]
            at = number * STORED
            stored[at : at + HEAD + len(chunk) + TAG] = head + key.encrypt(_nonce(number, last), chunk, head)
        return stored

    def open(self, name: str, stored: bytes) -> bytes:
        """Return a whole object's plaintext. StoreCorrupt if anything about it is not as it was sealed."""
        return self.open_part(name, stored, 0, ends=True)

    def open_part(self, name: str, stored: bytes, first: int, *, ends: bool) -> bytes:
        """Return the plaintext of successive chunks, beginning with number `first`.

        `ends` says that the object ends with them: the last of them must then be the object's last, and where there is
        none, something was cut off. StoreCorrupt if they do not authenticate.
        """
        from cryptography.exceptions import InvalidTag

        view = memoryview(stored)
        head = bytes(view[:HEAD])
        if len(head) < HEAD or head[0] != VERSION or head[3] != 0:
            raise _damaged(name)
        key = self._key(name, head[1], head[4:])
        pieces: list[bytes] = []
        for at in range(0, len(view), STORED):
            chunk = view[at : at + STORED]
            last = at + STORED >= len(view) and (ends or len(chunk) < STORED or bool(chunk[2]))
            own = head[:2] + bytes((last, 0)) + head[4:]
            if bytes(chunk[:HEAD]) != own or len(chunk) < HEAD + TAG:
                raise _damaged(name)
            try:
                pieces.append(key.decrypt(_nonce(first + at // STORED, last), chunk[HEAD:], own))
            except InvalidTag as error:
                raise _damaged(name) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _key(self, name: str, epoch: int, salt: bytes) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        master = self._ring.masters.get(epoch)
        if master is None:
            raise StoreCorrupt(
                f"{name} is sealed with the key of epoch {epoch}, which the slot that opened does not have",
                hint="a slot of a later 'drkit key rotate' may be missing: see 'drkit key list'",
            )
        return AESGCM(derive(master, salt, self._info + name.encode()))


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA256."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret)


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(4, "little") + bytes((last,)) + bytes(7)


def _damaged(name: str) -> StoreCorrupt:
    return StoreCorrupt(f"{name} does not authenticate: it is damaged, or not what drkit put there")
