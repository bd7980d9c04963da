"""Where a manifest or plugin table is cut into segments, and segments into lists (docs/format.md, section 5)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from operator import lt

import msgspec
from msgspec import Struct

from drkit.errors import FormatError
from drkit.format.limits import LIST_CUT, NODE_BYTES, NODE_ENTRIES, SEGMENT_CUT
from drkit.format.manifest import is_id, text_or_b64
from drkit.model import sort_key


class ListLine(Struct, frozen=True, omit_defaults=True):
    """One child of a list: its first path and its id."""

    first: str = ""
    first_b64: str = ""
    id: str = ""


_decoder = msgspec.json.Decoder(ListLine)
_encoder = msgspec.json.Encoder()


def cuts_segment(path: bytes) -> bool:
    """Whether a segment ends after an entry of this path."""
    # The first four bytes as a big-endian number, modulo 32: only the last of them counts.
    return hashlib.sha256(path).digest()[3] % SEGMENT_CUT == 0


def cuts_list(first: bytes, level: int) -> bool:
    """Whether a list ends after a child of this level that starts with the path `first`.

    Each level looks at other bits, or a path that cuts one level would cut all above it.
    """
    at = 4 * (level + 1)
    return int.from_bytes(hashlib.sha256(first).digest()[at : at + 4], "big") % LIST_CUT == 0


def is_full(entries: int, size: int) -> bool:
    """Whether a segment or list must end whatever its paths say."""
    return entries >= NODE_ENTRIES or size >= NODE_BYTES


def encode_child(first: bytes, node: bytes) -> bytes:
    """Return the line of a child in its list."""
    return _encoder.encode(ListLine(*text_or_b64(first), id=node.hex())) + b"\n"


def decode_children(data: bytes) -> list[tuple[bytes, str]]:
    """Return (first path, id) of each child of a list. FormatError if it is damaged, empty or out of order."""
    import base64

    try:
        lines = _decoder.decode_lines(data)
        children = [
            (base64.b64decode(x.first_b64, validate=True) if x.first_b64 else x.first.encode(), x.id) for x in lines
        ]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError(f"a list does not hold what it should: {error}") from error
    keys = [sort_key(first) for first, _ in children]
    if not keys or not all(map(lt, keys, keys[1:])) or not all(is_id(line.id) for line in lines):
        raise FormatError("a list is empty or out of order, or names what is no id")
    return children


def split_list(children: Sequence[tuple[bytes, bytes]], level: int) -> list[list[tuple[bytes, bytes]]]:
    """Cut the (first path, line) pairs of one level into the lists of the next."""
    lists: list[list[tuple[bytes, bytes]]] = []
    current: list[tuple[bytes, bytes]] = []
    size = 0
    for first, line in children:
        current.append((first, line))
        size += len(line)
        if cuts_list(first, level) or is_full(len(current), size):
            lists.append(current)
            current, size = [], 0
    if current:
        lists.append(current)
    return lists
