"""The end of the outbox that is in Turso: push what it lacks, pull what it has.

Neither holds the local file's write lock while it waits for the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from msgspec import Struct

from drkit.errors import IntegrityError
from drkit.inventory import outbox
from drkit.inventory.inventory import Inventory
from drkit.inventory.schema import BOOKKEEPING, MIGRATIONS
from drkit.inventory.tables import TABLES, Table
from drkit.inventory.turso import Statement, Turso

_VALUES = 16_000
"""How many values go into one statement."""


class SyncReport(Struct, frozen=True):
    """What was sent or fetched. `requests` is how often the network was waited for."""

    rows: int
    requests: int


def push(
    inventory: Inventory, turso: Turso, *, at_most: int | None = None, rows_at_once: int = outbox.ROWS_AT_ONCE
) -> SyncReport:
    """Send every row that Turso has not got, or the first few transactions (`at_most`) of them.

    What arrived is marked, so an error costs at most one transaction.

    StoreError if Turso cannot be reached or refuses. IntegrityError if it has other rows under this inventory's id:
    then two files with the same id have both been written to.
    """
    before = turso.requests
    pending = inventory.outbox_pending("pushed")
    if not pending:
        return SyncReport(0, 0)
    _migrate(turso, inventory.stamp())
    count = 0
    for shipment in islice(outbox.shipments(inventory.engine, pending, rows_at_once=rows_at_once), at_most):
        statements = [one for table in TABLES for one in _upserts(table, shipment.rows.get(table.name, []))]
        links = {(row[0], row[1]): row[-1] for row in shipment.rows.get("audit", [])}
        statements += [_hashes(one.inventory, one.first, one.last) for one in outbox.merged(shipment.ranges)]
        answers = turso.transaction(statements)
        there = {(row[0], row[1]): row[2] for rows in answers for row in rows}
        if any(there.get(key) != value for key, value in links.items()):
            raise IntegrityError(
                f"{turso.name} has other rows under the id of this inventory: a copy of the file was written to",
                hint="move the inventory away and run 'drkit inventory pull'",
            )
        outbox.mark(inventory.engine, "pushed", shipment.ranges)
        count += sum(map(len, shipment.rows.values()))
    return SyncReport(count, turso.requests - before)


def pull(inventory: Inventory, turso: Turso) -> SyncReport:
    """Fetch every row that Turso has, of all inventories, and keep those that are not here. May be repeated."""
    before = turso.requests
    _migrate(turso, inventory.stamp())
    count = 0
    for table in TABLES:
        for rows in _pages(turso, table):
            with inventory.engine.transaction():
                outbox.take_in(inventory.engine, {table.name: rows})
            count += len(rows)
    return SyncReport(count, turso.requests - before)


def _pages(turso: Turso, table: Table) -> Iterator[list[tuple[Any, ...]]]:
    sql = (
        f"SELECT {', '.join(table.all)} FROM {table.name} WHERE (inventory, id) > (?, ?) "  # noqa: S608
        f"ORDER BY inventory, id LIMIT {table.page}"
    )
    key: tuple[str, int] = ("", 0)
    while True:
        rows = turso.transaction([(sql, key)])[0]
        if rows:
            yield rows
            key = (rows[-1][0], rows[-1][1])
        if len(rows) < table.page:
            return


def _upserts(table: Table, rows: list[tuple[Any, ...]]) -> Iterator[Statement]:
    width = len(table.all)
    step = _VALUES // width
    marks = f"({','.join('?' * width)})"
    for begin in range(0, len(rows), step):
        part = rows[begin : begin + step]
        sql = f"INSERT INTO {table.name} ({', '.join(table.all)}) VALUES {','.join([marks] * len(part))}"  # noqa: S608
        yield f"{sql} {outbox.upsert(table)}", [value for row in part for value in row]


def _hashes(inventory: str, first: int, last: int) -> Statement:
    sql = "SELECT inventory, id, hash FROM audit WHERE inventory = ? AND id BETWEEN ? AND ?"
    return sql, (inventory, first, last)


def _migrate(turso: Turso, now: str) -> None:
    """Bring Turso's tables to this version: one request to look, one more where something is missing."""
    _, rows = turso.transaction([(BOOKKEEPING, ()), ("SELECT name FROM schema_migrations", ())])
    done = {name for (name,) in rows}
    missing = [step for step in MIGRATIONS if not (step.local or step.name in done)]
    if missing:
        # Another machine may do the same at this moment: the first statement then fails, and all of it with it.
        records: list[Statement] = [
            ("INSERT INTO schema_migrations VALUES (?, ?)", (step.name, now)) for step in missing
        ]
        turso.transaction([*records, *((statement, ()) for step in missing for statement in step.statements)])
