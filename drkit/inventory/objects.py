"""The end of the outbox that is in the repository: objects of rows, described in docs/format.md, section 12."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import zstandard
from msgspec import Struct

from drkit.errors import FormatError, ObjectExists, StoreCorrupt
from drkit.format.manifest import text_or_b64
from drkit.inventory import outbox
from drkit.inventory.inventory import Inventory
from drkit.inventory.tables import BY_NAME, TABLES, Table
from drkit.model import Finding
from drkit.store.base import Store

_NAME = re.compile(r"inventory/[0-9a-f]{32}-[0-9]+-([0-9a-f]{8})\.jsonl\.zst")
_DECODED_MAX = 256 << 20
_LEVEL = 6
_ROWS = 10_000
"""About how many rows an object has at most; some are as long as a model's answer."""
_INT_MAX = 2**63 - 1
_TABLES = [table for table in TABLES if table.name != "plugins"]
"""What is written. Rows of plugins follow from the snapshot, which the repository has."""


class Header(Struct, frozen=True):
    """The first line of an object: the version of the format, and which transactions its rows are from."""

    format: int
    ranges: tuple[tuple[str, int, int], ...]


class Found(Struct, frozen=True):
    """What the objects of a repository gave: how many there were, how many rows they had, what was wrong."""

    objects: int
    rows: int
    findings: tuple[Finding, ...]


def store_rows(inventory: Inventory, store: Store, repo_id: str) -> int:
    """Put what this repository has not got into its `inventory/`, and return how many rows that were.

    Usually one object. StoreError if the store fails or refuses: the rows stay in the outbox.
    """
    pending = [one for one in inventory.outbox_pending("stored") if one.repository == repo_id]
    count = 0
    for shipment in outbox.shipments(inventory.engine, pending, rows_at_once=_ROWS, tables=_TABLES):
        name, data = encode(shipment)
        # It may be there, if the mark was lost: then it holds the same, for the name has a hash of the bytes.
        with contextlib.suppress(ObjectExists):
            store.put(name, data)
        outbox.mark(inventory.engine, "stored", shipment.ranges)
        count += sum(map(len, shipment.rows.values()))
    return count


def read_objects(inventory: Inventory, store: Store, repo_id: str) -> Found:
    """Take in the rows of every object; those that are here already stay. A damaged object becomes a finding."""
    findings = []
    objects = count = 0
    for info in store.list("inventory/"):
        try:
            header, rows = decode(info.name, store.get(info.name))
            _check_repository(info.name, rows, repo_id)
            with inventory.engine.transaction():
                outbox.take_in(inventory.engine, rows)
                # What Turso has not got is in nobody's outbox any more, if the machine is lost that recorded it.
                values = [(*one, repo_id, 1, 0) for one in header.ranges]
                inventory.engine.insert(
                    "INSERT OR IGNORE INTO outbox (inventory, first, last, repository, stored, pushed)", 6, values
                )
        except (FormatError, StoreCorrupt) as error:
            repair = "remove the object; 'drkit inventory pull' brings its rows back from Turso, if they got there"
            findings.append(Finding("inventory-damaged", info.name, str(error), repair))
            continue
        objects += 1
        count += sum(map(len, rows.values()))
    return Found(objects, count, tuple(findings))


def _check_repository(name: str, rows: dict[str, list[tuple[Any, ...]]], repo_id: str) -> None:
    """Raise FormatError for rows about another repository: this one has no say in it."""
    for table, values in rows.items():
        columns = BY_NAME[table].all
        if "repository" in columns and any(row[columns.index("repository")] != repo_id for row in values):
            raise FormatError(f"{name} has rows about another repository")


def encode(shipment: outbox.Shipment) -> tuple[str, bytes]:
    """Return (object name, bytes) of a shipment."""
    header = Header(1, tuple((one.inventory, one.first, one.last) for one in shipment.ranges))
    lines = [msgspec.json.encode(header)]
    for name, rows in shipment.rows.items():
        lines += [msgspec.json.encode({"table": name, **row_keys(BY_NAME[name], row)}) for row in rows]
    data = zstandard.ZstdCompressor(level=_LEVEL).compress(b"\n".join(lines) + b"\n")
    first = shipment.ranges[0]
    return f"inventory/{first.inventory}-{first.first}-{hashlib.sha256(data).hexdigest()[:8]}.jsonl.zst", data


def decode(name: str, data: bytes) -> tuple[Header, dict[str, list[tuple[Any, ...]]]]:
    """Return an object's header and its rows by table. FormatError for anything that `encode` does not make.

    Tables and columns of a later version are left out.
    """
    match = _NAME.fullmatch(name)
    if match is None or not hashlib.sha256(data).hexdigest().startswith(match[1]):
        raise FormatError(f"{name} does not have the bytes that its name promises")
    try:
        if zstandard.get_frame_parameters(data).content_size > _DECODED_MAX:
            raise FormatError(f"{name} is larger than {_DECODED_MAX} bytes")
        first, *lines = zstandard.ZstdDecompressor().decompress(data, max_output_size=_DECODED_MAX).splitlines()
        header = msgspec.json.decode(first, type=Header)
        if header.format != 1:
            raise FormatError(f"{name} is of the format {header.format}, which this version does not know")
        rows: dict[str, list[tuple[Any, ...]]] = {}
        for line in lines:
            keys = msgspec.json.decode(line, type=dict[str, Any])
            table = BY_NAME.get(keys.pop("table"))
            if table is not None:
                rows.setdefault(table.name, []).append(_row(table, keys))
    except (msgspec.MsgspecError, zstandard.ZstdError, KeyError, ValueError, TypeError) as error:
        raise FormatError(f"{name} holds no rows of an inventory: {error}") from error
    return header, rows


def row_keys(table: Table, row: Sequence[Any]) -> dict[str, Any]:
    """Return a row's columns that are not null; bytes as text, or as `NAME_b64` where they are no UTF-8."""
    keys: dict[str, Any] = {}
    for column, value in zip(table.all, row, strict=True):
        if isinstance(value, bytes):
            text, encoded = text_or_b64(value)
            keys[f"{column}_b64" if encoded else column] = encoded or text
        elif value is not None:
            keys[column] = value
    return keys


def _row(table: Table, keys: dict[str, Any]) -> tuple[Any, ...]:
    if not (isinstance(keys["inventory"], str) and isinstance(keys["id"], int)):
        raise TypeError("a row without its key")
    values: list[Any] = []
    for column in table.all:
        value = keys.get(column)
        if column in table.blobs:
            encoded = keys.get(f"{column}_b64")
            if encoded is not None:
                value = base64.b64decode(encoded, validate=True)
            elif isinstance(value, str):
                value = value.encode()
        if not isinstance(value, str | int | float | bytes | None) or (type(value) is int and abs(value) > _INT_MAX):
            raise TypeError(f"{column} cannot be {value!r}")
        values.append(value)
    return tuple(values)
