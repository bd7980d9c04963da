"""Manifest entries and plugin rows as JSON Lines, and what a decoder must refuse in them."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from operator import lt
from typing import Any, cast

import msgspec

from drkit.errors import FormatError
from drkit.format.limits import COMPONENT_MAX, LINE_MAX, PATH_MAX, XATTRS_MAX
from drkit.model import Entry, PluginRow, sort_key

_encoder = msgspec.json.Encoder()
_entries = msgspec.json.Decoder(Entry)
_plugins = msgspec.json.Decoder(PluginRow)
_BAD_COMPONENT = re.compile(rb"(?:^|/)\.{0,2}(?:/|\Z)")
_TYPES = frozenset("fdlpcb")

_I64 = 1 << 63

_ids = re.compile("[0-9a-f]*").fullmatch
is_id = re.compile("[0-9a-f]{64}").fullmatch
"""Whether a string can be an id."""


def text_or_b64(raw: bytes) -> tuple[str, str]:
    """Return (text, "") for UTF-8 bytes, else ("", base64): exactly one of the two keys is written."""
    try:
        return raw.decode(), ""
    except UnicodeDecodeError:
        return "", base64.b64encode(raw).decode()


def encode_line(record: Entry | PluginRow) -> bytes:
    """Return the record's line, newline included."""
    return _encoder.encode(record) + b"\n"


def encode_lines(entries: list[Entry]) -> bytes:
    """Return the lines of entries in one piece."""
    return _encoder.encode_lines(entries)


def decode_entries(data: bytes) -> list[Entry]:
    """Return the entries of a segment. FormatError if a line is none; their order is checked by EntryChecker."""
    entries: list[Entry] = _decode(_entries, data)
    return entries


def decode_plugins(data: bytes) -> list[PluginRow]:
    """Return the rows of a segment of the plugin table. FormatError if a line is none, or their order is wrong."""
    rows: list[PluginRow] = _decode(_plugins, data)
    last: bytes | None = None
    for row in rows:
        raw = _raw(row)
        if raw:
            check_path(raw)
        key = sort_key(raw)
        if last is not None and key <= last:
            raise FormatError(f"the plugin {raw[:200]!r} is repeated or out of order")
        last = key
    return rows


def _decode(decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    if len(data) > LINE_MAX and (len(data) > 2 * LINE_MAX or max(map(len, data.split(b"\n"))) > LINE_MAX):
        raise FormatError(f"a segment of {len(data)} bytes, or a line in it, is over the limit")
    try:
        return decoder.decode_lines(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FormatError(f"a segment does not hold what it should: {error}") from error


def check_path(raw: bytes) -> None:
    """Refuse paths that could leave the target directory or that no file system has."""
    if len(raw) > PATH_MAX or b"\0" in raw or _BAD_COMPONENT.search(raw):
        raise FormatError(f"the path {raw[:200]!r} is not allowed in a manifest")
    if len(raw) > COMPONENT_MAX and any(len(part) > COMPONENT_MAX for part in raw.split(b"/")):
        raise FormatError(f"the path {raw[:200]!r} has a component over {COMPONENT_MAX} bytes")


def child_ids(entries: Sequence[Entry]) -> list[str]:
    """Return the ids that a segment's hints describe, in their order: each blob or blob list once."""
    ids: dict[str, None] = {}
    for entry in entries:
        if entry.lists or entry.blobs:
            ids.update(dict.fromkeys(entry.lists or entry.blobs))
        elif entry.size:
            ids[entry.sha256] = None
    return list(ids)


class EntryChecker:
    """Checks entries in manifest order: allowed paths, ascending, each below a directory that came before.

    With `partial`, the first entries may lack their parents, as where a manifest is read from the middle.
    """

    def __init__(self, *, partial: bool = False) -> None:
        self._partial = partial
        self._last = b""
        self._open: list[bytes] = [b""]
        self._leaf = b""

    def skip(self) -> None:
        """A segment was lost here: what follows may lack its parents."""
        self._partial = True

    def check(self, entries: Sequence[Entry]) -> list[bytes]:
        """Return the raw paths of the next entries. FormatError names what is wrong with one of them."""
        raws = [_raw(entry) for entry in entries]
        keys = [self._last, *map(sort_key, raws)]
        # All components of all paths, each between two NULs: only where one may be wrong is each path looked at.
        joined = b"\0".join((b"", *keys[1:], b""))
        odd = b"\0\0" in joined or b"\0.\0" in joined or b"\0..\0" in joined or b"\0" in b"".join(raws)
        if odd or max(map(len, raws), default=0) > COMPONENT_MAX:
            for raw in raws:
                check_path(raw)
        if not all(map(lt, keys, keys[1:])):
            raise FormatError(f"the paths from {raws[0][:200]!r} on are repeated or out of order")
        self._last = keys[-1]
        stack = self._open
        for entry, raw in zip(entries, raws, strict=True):
            parent = raw.rpartition(b"/")[0]
            if not stack or stack[-1] != parent:
                self._close_down_to(parent, raw)
            if entry.type == "d":
                stack.append(raw)
            else:
                self._leaf = raw
        if entries and not _all_plain(entries):
            for entry, raw in zip(entries, raws, strict=True):
                self._check_fields(entry, raw)
        return raws

    def _close_down_to(self, parent: bytes, raw: bytes) -> None:
        stack = self._open
        while stack and stack[-1] != parent:
            stack.pop()
        if not stack:
            if not self._partial or raw.startswith(self._leaf + b"/"):
                raise FormatError(f"the path {raw[:200]!r} does not lie in a directory of the manifest")
            stack.extend(_ancestors(raw))

    @staticmethod
    def _check_fields(entry: Entry, raw: bytes) -> None:
        kind = entry.type
        if kind not in _TYPES or entry.mtime_ns is None or not -_I64 <= entry.mtime_ns < _I64:
            raise FormatError(f"the entry {raw[:200]!r} has an unknown type, or no mtime that can be")
        # Shifted right, a negative number stays one, so these refuse what is too small and what is too large.
        if entry.mode >> 12 or (entry.uid | entry.gid) >> 32 or entry.size >> 63:
            raise FormatError(f"the entry {raw[:200]!r} has a mode, owner or size that cannot be")
        if kind == "f":
            if not is_id(entry.sha256) or ((entry.blobs or entry.lists) and not _has_parts(entry)):
                raise FormatError(f"the file {raw[:200]!r} has no SHA-256, or blobs that cannot be")
        elif entry.size or entry.sha256 or entry.blobs or entry.lists:
            raise FormatError(f"{raw[:200]!r} is no file but has content")
        if kind in "lcb" or entry.xattrs:
            _check_extras(entry, raw)


def _all_plain(entries: Sequence[Entry]) -> bool:
    """Whether all are directories and files of one blob at most, without any fault: what most segments hold."""
    files = [entry for entry in entries if entry.type == "f"]
    ids = [entry.sha256 for entry in files]
    times = [entry.mtime_ns for entry in entries]
    modes = [entry.mode for entry in entries]
    owners = [entry.uid | entry.gid for entry in entries]  # negative if one of them is
    sizes = [entry.size for entry in entries]
    dirs = [entry for entry in entries if entry.type == "d"]
    if len(files) + len(dirs) < len(entries) or None in times:
        return False
    return bool(
        _ids("".join(ids))
        and {*map(len, ids)} <= {64}
        and min(cast("list[int]", times)) >= -_I64
        and max(cast("list[int]", times)) < _I64
        and min(modes) >= 0
        and max(modes) >> 12 == 0
        and min(owners) >= 0
        and max(owners) >> 32 == 0
        and min(sizes) >= 0
        and max(sizes) >> 63 == 0
        and not any(entry.blobs or entry.lists or entry.xattrs for entry in entries)
        and not any(entry.size or entry.sha256 for entry in dirs)
    )


def _has_parts(entry: Entry) -> bool:
    """Whether a file that names blobs or lists names ids, of one of the two kinds, and has a size to fill."""
    return entry.size > 0 and not (entry.blobs and entry.lists) and all(map(is_id, entry.blobs or entry.lists))


def _check_extras(entry: Entry, raw: bytes) -> None:
    """Refuse link targets, device numbers and extended attributes that no file system has."""
    try:
        target = entry.raw_target
        xattrs = {name.encode(): base64.b64decode(value, validate=True) for name, value in (entry.xattrs or {}).items()}
    except ValueError as error:
        raise FormatError(f"the entry {raw[:200]!r} has wrong base64: {error}") from error
    if entry.type == "l" and (not target or b"\0" in target or (entry.target and entry.target_b64)):
        raise FormatError(f"the link {raw[:200]!r} has no target, or one that cannot be")
    if entry.rdev >> 64:
        raise FormatError(f"the device {raw[:200]!r} has a number that cannot be")
    if any(b"\0" in name for name in xattrs) or sum(map(len, (*xattrs, *xattrs.values()))) > XATTRS_MAX:
        raise FormatError(f"the entry {raw[:200]!r} has extended attributes that cannot be, or too many")


def _ancestors(raw: bytes) -> list[bytes]:
    parts = raw.split(b"/")[:-1]
    return [b"/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _raw(record: Entry | PluginRow) -> bytes:
    try:
        raw: bytes = record.raw_path
    except ValueError as error:
        raise FormatError("a path's base64 is wrong") from error
    if record.path_b64 and record.path:
        raise FormatError(f"{raw[:200]!r} is named by both path and path_b64")
    return raw
