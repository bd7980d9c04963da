"""What was recorded and has not yet arrived at both ends: Turso, and the repository that it tells of.

A row of `outbox` stands for one transaction: all rows of the ids from `first` to `last`. Nothing is copied into it, so
recording costs no second write of its rows. Sending is idempotent, and an end's mark is set only when it has answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from drkit.inventory.engine import Engine
from drkit.inventory.records import Pending
from drkit.inventory.tables import BY_NAME, TABLES, Table

ROWS_AT_ONCE = 2_000
"""About how many rows go into one transaction of an end, unless one transaction here had more."""


class Shipment(Struct, frozen=True):
    """Rows that go out together: the transactions they are from, and the rows of each table."""

    ranges: tuple[Pending, ...]
    rows: dict[str, list[tuple[Any, ...]]]


def shipments(
    engine: Engine,
    ranges: Sequence[Pending],
    *,
    rows_at_once: int = ROWS_AT_ONCE,
    tables: Sequence[Table] = TABLES,
) -> Iterator[Shipment]:
    """Yield the rows of `ranges` in these tables, gathered into shipments, in order of their ids."""
    group: list[Pending] = []
    size = 0
    for one in ranges:
        group.append(one)
        size += one.last - one.first + 1
        if size >= rows_at_once:
            yield Shipment(tuple(group), read(engine, group, tables))
            group, size = [], 0
    if group:
        yield Shipment(tuple(group), read(engine, group, tables))


def read(
    engine: Engine, ranges: Sequence[Pending], tables: Sequence[Table] = TABLES
) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of `ranges` as they are now, by table; tables without rows are left out."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for table in tables:
        sql = f"SELECT {', '.join(table.all)} FROM {table.name} WHERE inventory = ? AND {table.order} BETWEEN ? AND ?"  # noqa: S608
        rows = [row for one in merged(ranges) for row in engine.execute(sql, (one.inventory, one.first, one.last))]
        if rows:
            found[table.name] = rows
    return found


def merged(ranges: Sequence[Pending]) -> list[Pending]:
    """Return ranges with those that follow one another joined."""
    joined: list[Pending] = []
    for one in ranges:
        if joined and joined[-1].inventory == one.inventory and joined[-1].last + 1 == one.first:
            joined[-1] = Pending(one.inventory, joined[-1].first, one.last, one.repository)
        else:
            joined.append(one)
    return joined


def mark(engine: Engine, end: str, ranges: Sequence[Pending]) -> None:
    """Note that an end ("stored" or "pushed") has got the rows of `ranges`."""
    sql = {
        "stored": "UPDATE outbox SET stored = 1 WHERE inventory = ? AND first BETWEEN ? AND ?",
        "pushed": "UPDATE outbox SET pushed = 1 WHERE inventory = ? AND first BETWEEN ? AND ?",
    }[end]
    with engine.transaction():
        for one in merged(ranges):
            engine.execute(sql, (one.inventory, one.first, one.last))


def upsert(table: Table) -> str:
    """Return what follows VALUES so that a row that is there already stays, or gives way to a later version."""
    if not table.mutable:
        return "ON CONFLICT (inventory, id) DO NOTHING"
    sets = ", ".join(f"{column} = excluded.{column}" for column in table.columns)
    return f"ON CONFLICT (inventory, id) DO UPDATE SET {sets} WHERE excluded.version > {table.name}.version"


def take_in(engine: Engine, rows: dict[str, list[tuple[Any, ...]]]) -> None:
    """Insert rows that came from an end, keys and all. The caller holds the write lock."""
    for name, values in rows.items():
        table = BY_NAME[name]
        head = f"INSERT INTO {name} ({', '.join(table.all)})"
        engine.insert(head, len(table.all), values, upsert(table))
