"""The tree hash: one SHA-256 for everything that makes two trees the same (docs/format.md, section 6)."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from functools import lru_cache

from drkit.format.limits import PATH_MAX
from drkit.model import Entry

_U32 = struct.Struct("<I")
_LENGTHS = tuple(map(_U32.pack, range(PATH_MAX + 1)))


@lru_cache(maxsize=4096)  # a tree has few different modes, and many entries
def _head(kind: str, mode: int, size: int) -> bytes:
    octal = b"" if kind == "l" else b"%o" % mode
    return b"\x01\0\0\0%b%b%b%b" % (kind.encode(), _U32.pack(len(octal)), octal, _U32.pack(size))


def tail(kind: str, mode: int, content: bytes) -> bytes:
    """Return the last three fields of a row, each with its length.

    `content` is the raw SHA-256 of a file, the target of a symbolic link, the decimal rdev of a device, else empty.
    """
    return _head(kind, mode, len(content)) + content


def entry_tail(entry: Entry) -> bytes:
    """Return the last three fields of a manifest entry's row."""
    kind = entry.type
    if kind == "f":
        content = bytes.fromhex(entry.sha256)
    elif kind == "l":
        content = entry.raw_target
    elif kind in "cb":
        content = b"%d" % entry.rdev
    else:
        content = b""
    return tail(kind, entry.mode, content)


def entry_tails(entries: Iterable[Entry]) -> list[bytes]:
    """Return `entry_tail` of each."""
    return [
        _head("f", entry.mode, 32) + bytes.fromhex(entry.sha256) if entry.type == "f" else entry_tail(entry)
        for entry in entries
    ]


def row(path: bytes, row_tail: bytes) -> bytes:
    """Return a whole row: the path with its length, then what `tail` gave."""
    return _LENGTHS[len(path)] + path + row_tail


def rows(paths: Iterable[bytes], tails: Iterable[bytes], cut: int = 0) -> bytes:
    """Return whole rows in one piece; of each path the first `cut` bytes are left away."""
    lengths = _LENGTHS
    if not cut:
        return b"".join([lengths[len(path)] + path + tail for path, tail in zip(paths, tails, strict=True)])
    return b"".join([lengths[len(path[cut:])] + path[cut:] + tail for path, tail in zip(paths, tails, strict=True)])


def cut_rows(paths: Iterable[bytes], rows: Iterable[bytes], cut: int) -> bytes:
    """Return rows in one piece; of each one's path, which is given besides, the first `cut` bytes are left away."""
    lengths = _LENGTHS
    if not cut:
        return b"".join(rows)
    # The path that begins a plugin's rows may be the plugin itself, one byte shorter than what is cut.
    return b"".join(
        [lengths[len(path[cut:])] + path[cut:] + row[4 + len(path) :] for path, row in zip(paths, rows, strict=True)]
    )


def split_rows(rows: bytes) -> list[tuple[bytes, bytes]]:
    """Return (path, tail) for each of several rows in one piece: the reverse of joining `row` results."""
    out: list[tuple[bytes, bytes]] = []
    at = 0
    unpack = _U32.unpack_from
    while at < len(rows):
        path_end = at + 4 + unpack(rows, at)[0]
        end = path_end
        for _ in range(3):
            end += 4 + unpack(rows, end)[0]
        out.append((rows[at + 4 : path_end], rows[path_end:end]))
        at = end
    return out


class TreeHash:
    """Takes entries in manifest order and gives the tree hash."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, path: bytes, kind: str, mode: int, content: bytes) -> None:
        """Add one entry; `content` as for `tail`."""
        self._hash.update(row(path, tail(kind, mode, content)))

    def add_entry(self, entry: Entry, path: bytes | None = None) -> None:
        """Add a manifest entry, under another path if one is given."""
        self._hash.update(row(entry.raw_path if path is None else path, entry_tail(entry)))

    def add_rows(self, rows: bytes) -> None:
        """Add rows that are encoded already."""
        self._hash.update(rows)

    def hexdigest(self) -> str:
        """Return the hash of what was added so far, 64 hexadecimal digits."""
        return self._hash.hexdigest()
