"""Joining small objects below `inventory/`: a night of guarded edits leaves hundreds (docs/format.md, section 12)."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator

import msgspec
import zstandard

from drkit.errors import FormatError, ObjectExists, ObjectNotFound, StoreCorrupt
from drkit.inventory.objects import Header
from drkit.store.base import Store

_NAME = re.compile(r"inventory/([0-9a-f]{32})-([0-9]+)-([0-9a-f]{8})\.jsonl\.zst")
_SMALL = 256 << 10
_AT_LEAST = 16
"""So many small objects of one inventory are worth it."""
_JOINED = 8 << 20
"""About so much text an object has at most."""
_LEVEL = 6


def merge_objects(store: Store) -> int:
    """Join the small objects of each inventory, and return how many went. The lines of rows are taken as they are.

    The joined object is durable before the first of the old ones is deleted: killed in between, rows are there twice,
    which a reader takes for once. What is damaged, or of another format, is left alone.
    """
    groups: dict[str, list[tuple[int, str]]] = {}
    for info in store.list("inventory/"):
        match = _NAME.fullmatch(info.name)
        if match and info.size < _SMALL:
            groups.setdefault(match[1], []).append((int(match[2]), info.name))
    removed = 0
    for small in groups.values():
        if len(small) >= _AT_LEAST:
            for names, ranges, lines in _batches(store, [name for _, name in sorted(small)]):
                if len(names) > 1:
                    _put(store, ranges, lines)
                    for name in names:
                        with contextlib.suppress(ObjectNotFound):
                            store.delete(name)
                    removed += len(names)
    return removed


def _batches(store: Store, names: list[str]) -> Iterator[tuple[list[str], list[tuple[str, int, int]], list[bytes]]]:
    taken: list[str] = []
    ranges: list[tuple[str, int, int]] = []
    lines: list[bytes] = []
    size = 0
    for name in names:
        try:
            header, rows = _read(name, store.get(name))
        except (FormatError, ObjectNotFound, StoreCorrupt):
            continue  # `drkit inventory rebuild` tells
        taken.append(name)
        ranges += header.ranges
        lines += rows
        size += sum(map(len, rows))
        if size >= _JOINED:
            yield taken, ranges, lines
            taken, ranges, lines, size = [], [], [], 0
    yield taken, ranges, lines


def _read(name: str, data: bytes) -> tuple[Header, list[bytes]]:
    match = _NAME.fullmatch(name)
    try:
        if match is None or not hashlib.sha256(data).hexdigest().startswith(match[3]):
            raise FormatError(f"{name} does not have the bytes that its name promises")
        if zstandard.get_frame_parameters(data).content_size > 256 * _SMALL:
            raise FormatError(f"{name} is larger than it can be")
        first, *rows = zstandard.ZstdDecompressor().decompress(data).splitlines()
        header = msgspec.json.decode(first, type=Header)
    except (msgspec.MsgspecError, zstandard.ZstdError, ValueError) as error:
        raise FormatError(f"{name} holds no rows of an inventory: {error}") from error
    if header.format != 1:
        raise FormatError(f"{name} is of a format that this version does not know")
    return header, rows


def _put(store: Store, ranges: list[tuple[str, int, int]], lines: list[bytes]) -> None:
    header = msgspec.json.encode(Header(1, tuple(ranges)))
    data = zstandard.ZstdCompressor(level=_LEVEL).compress(b"\n".join([header, *lines]) + b"\n")
    name = f"inventory/{ranges[0][0]}-{ranges[0][1]}-{hashlib.sha256(data).hexdigest()[:8]}.jsonl.zst"
    with contextlib.suppress(ObjectExists):
        store.put(name, data)
