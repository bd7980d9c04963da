"""Manifest entries and plugin rows as JSON Lines, and what a decoder must refuse in them."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from drkit.errors import FormatError
from drkit.format.limits import COMPONENT_MAX, LINE_MAX, PATH_MAX, XATTRS_MAX
from drkit.model import Entry, PluginRow, sort_key

_encoder = msgspec.json.Encoder()
_entries = msgspec.json.Decoder(Entry)
_plugins = msgspec.json.Decoder(PluginRow)
_BAD_COMPONENT = re.compile(rb"(?:^|/)\.{0,2}(?:/|$)")
_TYPES = frozenset("fdlpcb")


def text_or_b64(raw: bytes) -> tuple[str, str]:
    """Return (text, "") for UTF-8 bytes, else ("", base64): exactly one of the two keys is written."""
    try:
        return raw.decode(), ""
    except UnicodeDecodeError:
        return "", base64.b64encode(raw).decode()


def encode_line(record: Entry | PluginRow) -> bytes:
    """Return the record's line, newline included."""
    return _encoder.encode(record) + b"\n"


def decode_entries(data: bytes) -> list[Entry]:
    """Return the entries of a segment. FormatError if a line is none; their order is checked by EntryChecker."""
    entries: list[Entry] = _decode(_entries, data)
    return entries


def decode_plugins(data: bytes) -> list[PluginRow]:
    """Return the rows of a segment of the plugin table."""
    rows: list[PluginRow] = _decode(_plugins, data)
    for row in rows:
        if row.path or row.path_b64:
            check_path(_raw(row))
    return rows


def _decode(decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    if len(data) > 2 * LINE_MAX:
        raise FormatError(f"a segment of {len(data)} bytes is over the limit")
    try:
        return decoder.decode_lines(data)
    except (msgspec.MsgspecError, UnicodeError) as error:
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

    def skip(self) -> None:
        """A segment was lost here: what follows may lack its parents."""
        self._partial = True

    def check(self, entry: Entry) -> bytes:
        """Return the entry's raw path. FormatError names what is wrong with it."""
        if bool(entry.path) == bool(entry.path_b64):
            raise FormatError("an entry must have either path or path_b64")
        raw = _raw(entry)
        check_path(raw)
        key = sort_key(raw)
        if key <= self._last:
            raise FormatError(f"the path {raw[:200]!r} is repeated or out of order")
        self._last = key
        self._check_parent(raw)
        self._check_fields(entry, raw)
        if entry.type == "d":
            self._open.append(raw)
        return raw

    def _check_parent(self, raw: bytes) -> None:
        parent = raw.rpartition(b"/")[0]
        stack = self._open
        while stack and stack[-1] != parent:
            stack.pop()
        if not stack:
            if not self._partial:
                raise FormatError(f"the path {raw[:200]!r} does not lie in a directory of the manifest")
            stack.extend(_ancestors(raw))

    @staticmethod
    def _check_fields(entry: Entry, raw: bytes) -> None:
        if entry.type not in _TYPES or entry.mtime_ns is None:
            raise FormatError(f"the entry {raw[:200]!r} has an unknown type or no mtime")
        if not 0 <= entry.mode <= 0o7777 or entry.uid < 0 or entry.gid < 0 or entry.size < 0:
            raise FormatError(f"the entry {raw[:200]!r} has a mode, owner or size that cannot be")
        if entry.type == "f":
            if len(entry.sha256) != 64 or (entry.blobs and entry.lists):
                raise FormatError(f"the file {raw[:200]!r} has no SHA-256, or both blobs and lists")
        elif entry.size or entry.sha256 or entry.blobs or entry.lists:
            raise FormatError(f"{raw[:200]!r} is no file but has content")
        if entry.type == "l" and (bool(entry.target) == bool(entry.target_b64) or b"\0" in entry.raw_target):
            raise FormatError(f"the link {raw[:200]!r} has no target, or one that cannot be")
        if entry.xattrs and sum(len(name) + len(value) for name, value in entry.xattrs.items()) > 2 * XATTRS_MAX:
            raise FormatError(f"the entry {raw[:200]!r} has too many extended attributes")


def _ancestors(raw: bytes) -> list[bytes]:
    parts = raw.split(b"/")[:-1]
    return [b"/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _raw(record: Entry | PluginRow) -> bytes:
    try:
        raw: bytes = record.raw_path
    except ValueError as error:
        raise FormatError("a path's base64 is wrong") from error
    return raw
