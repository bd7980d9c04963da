"""Snapshots: the small JSON roots, and their names."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from operator import lt

import msgspec

from drkit.errors import FormatError
from drkit.format.limits import SNAPSHOT_MAX
from drkit.format.manifest import is_id
from drkit.format.settings import check_format
from drkit.model import FormatVersion, Root, Snapshot, SnapshotId, sort_key

_NAME = re.compile(r"snapshots/([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)-([0-9a-f]{64})\.json")
_TIME = "%Y%m%dT%H%M%S.%fZ"


class _Version(msgspec.Struct):
    format: FormatVersion


def encode(snapshot: Snapshot) -> tuple[str, bytes]:
    """Return (object name, bytes). FormatError if it is over the limit."""
    data = msgspec.json.format(msgspec.json.encode(snapshot), indent=0) + b"\n"
    if len(data) > SNAPSHOT_MAX:
        raise FormatError(f"the snapshot has {len(data)} bytes, the limit is {SNAPSHOT_MAX}: too many tags or excludes")
    return f"snapshots/{snapshot.time}-{hashlib.sha256(data).hexdigest()}.json", data


def decode(name: str, data: bytes) -> Snapshot:
    """Return the snapshot whose object name and bytes are given. FormatError if they do not belong together."""
    time, expected = parse_name(name)
    if len(data) > SNAPSHOT_MAX:
        raise FormatError(f"{name} is larger than {SNAPSHOT_MAX} bytes")
    if hashlib.sha256(data).hexdigest() != expected:
        raise FormatError(f"{name} does not have the bytes that its name promises")
    try:
        check_format(msgspec.json.decode(data, type=_Version).format)
        snapshot = msgspec.json.decode(data, type=Snapshot)
        if not snapshot.raw_source:
            raise ValueError("it has no source")
        for root in (snapshot.manifest, snapshot.plugin_table):
            _check_root(root)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError(f"{name} is not a snapshot: {error}") from error
    if snapshot.time != time:
        raise FormatError(f"{name} says that it was taken at {snapshot.time}")
    if snapshot.scope != "whole":
        raise FormatError(f"{name} has the scope {snapshot.scope!r}, which this version does not know")
    return snapshot


def parse_name(name: str) -> tuple[str, SnapshotId]:
    """Return (time, id) of an object name. FormatError if it is not a snapshot's name."""
    match = _NAME.fullmatch(name)
    try:
        if match is None:
            raise ValueError("it does not look like one")
        datetime.fromisoformat(match[1])
    except ValueError as error:
        raise FormatError(f"{name!r} is not the name of a snapshot", hint="move it out of snapshots/") from error
    return match[1], SnapshotId(match[2])


def _check_root(root: Root) -> None:
    """Raise ValueError for children that are out of order, or whose path, ids or place cannot be."""
    keys = [sort_key(child.raw_first) for child in root.children]
    if not all(map(lt, keys, keys[1:])):
        raise ValueError("the children of a root are out of order")
    for child in root.children:
        numbers = (child.frame_offset, child.frame_length, child.offset, child.length)
        if not is_id(child.id) or (child.pack and not is_id(child.pack)) or min(numbers) < 0:
            raise ValueError("a root names an id or a place that cannot be")


def time_after(now: datetime, parent: str | None) -> str:
    """Return the time for a name: `now`, or a microsecond after the parent's if that is later."""
    text = now.astimezone(UTC).strftime(_TIME)
    if parent is not None and text <= parent:
        text = (datetime.fromisoformat(parent) + timedelta(microseconds=1)).strftime(_TIME)
    return text
