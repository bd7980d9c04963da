"""Names in a sealed store: hashes of plaintext in them are sealed too, so that nobody can compare them. No I/O."""

from __future__ import annotations

import re

from drkit.seal.cipher import need_cryptography

NAME_KEY = 64
SUFFIX = ".enc"
STRAY = " (not sealed)"
"""What a listing appends to a name that no sealed object has: it must not be taken for one."""

_CLEAR = frozenset({"drkit.json", "drkit-copy.json", "RECOVER.md", "recover.py"})
_BY_FOLDER = re.compile(r"(packs/|parity/)([0-9a-f]{2})/(\2[0-9a-f]+)(\.[a-z]+)")
_BY_ID = re.compile(r"(index/|snapshots/[0-9TZ.]+-)([0-9a-f]+)(\.[a-z]+)")
_DIGITS = 64
_SEALED_DIGITS = 96
_TIME = re.compile(r"snapshots/[0-9TZ.]*")


def is_clear(name: str) -> bool:
    """Whether an object lies in the store as it is, under its own name: without it nobody could begin."""
    return name in _CLEAR or name.startswith("keys/")


class SealedNames:
    """The names of one repository's objects in the store, and back."""

    def __init__(self, name_key: bytes) -> None:
        need_cryptography()
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV

        self._siv = AESSIV(name_key)

    def seal(self, name: str) -> str:
        """Return the name in the store: always the same for the same name."""
        if is_clear(name):
            return name
        if (match := _BY_FOLDER.fullmatch(name)) and len(match[3]) == _DIGITS:
            digits = self._sealed(match[3])
            return f"{match[1]}{digits[:2]}/{digits}{match[4]}{SUFFIX}"
        if (match := _BY_ID.fullmatch(name)) and len(match[2]) == _DIGITS:
            return f"{match[1]}{self._sealed(match[2])}{match[3]}{SUFFIX}"
        return name + SUFFIX

    def unseal(self, stored: str) -> str | None:
        """Return the name of what lies under `stored`; None if it is no name that `seal` gives."""
        if is_clear(stored):
            return stored
        if not stored.endswith(SUFFIX):
            return None
        name = stored.removesuffix(SUFFIX)
        if (match := _BY_FOLDER.fullmatch(name)) and len(match[3]) == _SEALED_DIGITS:
            digits = self._unsealed(match[3])
            name = f"{match[1]}{digits[:2]}/{digits}{match[4]}"
        elif (match := _BY_ID.fullmatch(name)) and len(match[2]) == _SEALED_DIGITS:
            name = f"{match[1]}{self._unsealed(match[2])}{match[3]}"
        return name if self.seal(name) == stored else None

    def _sealed(self, digits: str) -> str:
        return self._siv.encrypt(bytes.fromhex(digits), None).hex()

    def _unsealed(self, digits: str) -> str:
        from cryptography.exceptions import InvalidTag

        try:
            return self._siv.decrypt(bytes.fromhex(digits), None).hex()
        except InvalidTag:
            return ""


def common_prefix(prefix: str) -> str:
    """Return what the stored names of all objects begin with whose names begin with `prefix`; also for `after`."""
    for folder in ("packs/", "parity/", "index/"):
        if prefix.startswith(folder):
            return folder
    if match := _TIME.match(prefix):
        return match[0]
    return prefix
