"""The inventory's objects in a repository: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drkit.errors import FormatError
from drkit.inventory.objects import decode, encode, read_objects, store_rows
from drkit.inventory.outbox import Shipment, read, take_in
from drkit.inventory.records import Pending
from drkit.inventory.tables import TABLES, Table
from drkit.store.memory import MemoryStore
from tests.support.recording import REPO, content, drill, opened, record_backup, record_verification

ID = "0" * 32
NUMBERS = st.integers(-(2**63) + 1, 2**63 - 1)


PLAIN = st.none() | NUMBERS | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
BYTES = st.none() | st.binary(max_size=9)


def rows_of(table: Table) -> st.SearchStrategy[dict[str, list[tuple[Any, ...]]]]:
    """Rows of a table with values of every kind that SQL has."""
    row = st.tuples(st.just(ID), NUMBERS, *(BYTES if column in table.blobs else PLAIN for column in table.columns))
    return st.fixed_dictionaries({table.name: st.lists(row, min_size=1, max_size=2)})


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([table for table in TABLES if table.name != "plugins"]).flatmap(rows_of))
def test_rows_come_out_as_they_went_in(rows: dict[str, list[tuple[Any, ...]]]) -> None:
    name, data = encode(Shipment((Pending(ID, 1, 9, REPO),), rows))
    header, back = decode(name, data)
    assert header.ranges == ((ID, 1, 9),)
    assert back == rows


def named(data: bytes) -> str:
    return f"inventory/{ID}-1-{hashlib.sha256(data).hexdigest()[:8]}.jsonl.zst"


def packed(*lines: object) -> bytes:
    return zstandard.compress(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


HEADER = {"format": 1, "ranges": [[ID, 1, 9]]}
ROW = {"table": "packs", "inventory": ID, "id": 1, "repository": REPO, "pack": "p", "size": 1, "snapshot": "s"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not zstd",
        zstandard.compress(b""),
        zstandard.compress(b"not JSON\n"),
        zstandard.ZstdCompressor(write_content_size=False).compress(b"{}\n"),
        packed({**HEADER, "format": 2}),
        packed({"format": 1, "ranges": [[ID, "1", 9]]}),
        packed(HEADER, []),
        packed(HEADER, {"inventory": ID, "id": 1}),
        packed(HEADER, {**ROW, "id": "1"}),
        packed(HEADER, {**ROW, "table": ["packs"]}),
        packed(HEADER, {**ROW, "size": {"a": 1}}),
        packed(HEADER, {**ROW, "size": 2**63}),
        packed(HEADER, {**ROW, "table": "drills", "plugin_b64": "?"}),
    ],
)
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode(named(data), data)


@given(st.binary())
def test_any_bytes_are_refused_with_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode(named(data), data)


def test_unknown_tables_and_columns_are_left_out() -> None:
    data = packed({**HEADER, "new": 1}, {**ROW, "table": "later"}, {**ROW, "later": "x"})
    assert decode(named(data), data)[1] == {"packs": [(ID, 1, REPO, "p", 1, "s")]}


@pytest.mark.parametrize(
    "row", [{**ROW, "repository": "f" * 32}, {key: value for key, value in ROW.items() if key != "size"}]
)
def test_an_object_with_a_row_that_cannot_be_gives_nothing(tmp_path: Path, row: dict[str, Any]) -> None:
    store = MemoryStore()
    data = packed(HEADER, {**ROW, "id": 2}, row)
    store.put(named(data), data)
    with opened(tmp_path / "inventory.db") as inventory:
        record_backup(inventory, 1)
        before = content(inventory)
        found = read_objects(inventory, store, REPO)
        assert (found.objects, [finding.object for finding in found.findings]) == (0, [named(data)])
        assert content(inventory) == before


def test_an_interrupted_command_is_caught_up_with_in_one_object(tmp_path: Path) -> None:
    store = MemoryStore()
    with opened(tmp_path / "a.db") as inventory, opened(tmp_path / "b.db") as other:
        record_verification(inventory, record_backup(inventory, 1))
        store_rows(inventory, store, "another repository")
        assert list(store.list("")) == []
        store_rows(inventory, store, REPO)
        inventory.record_drill(drill("1", None))
        inventory.engine.execute("UPDATE outbox SET stored = 0 WHERE first > 1")  # the answer was lost
        store_rows(inventory, store, REPO)
        store_rows(inventory, store, REPO)
        assert len(list(store.list(""))) == 2
        read_objects(other, store, REPO)
        found = content(other)
        assert {name: rows for name, rows in content(inventory).items() if name != "plugins"} == {
            name: rows for name, rows in found.items() if name != "plugins"
        }
        assert other.check_audit() == []
        assert len(other.outbox_pending("pushed")) == 3  # Turso gets them from here, if it has not yet


def test_of_a_row_that_is_updated_the_latest_version_stands(tmp_path: Path) -> None:
    def row(version: int, status: str) -> dict[str, list[tuple[Any, ...]]]:
        return {"enhancements": [(ID, 1, version, "run", "t", "n", b"p", "docs", status, 1.5, *[None] * 8)]}

    with opened(tmp_path / "a.db") as inventory:
        for version, status in ((1, "running"), (5, "done"), (3, "validating"), (5, "done")):
            with inventory.engine.transaction():
                take_in(inventory.engine, row(version, status))
        assert inventory.sql("SELECT version, status FROM enhancements_latest")[1] == [(5, "done")]
        pending = [Pending(ID, 4, 6, REPO)]
        assert [rows[0][2] for rows in read(inventory.engine, pending).values()] == [5]
