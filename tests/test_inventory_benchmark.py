"""How long recording and asking take."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from drkit.inventory import Inventory
from drkit.status import status
from tests.support.recording import START, drill, opened, record_backup, record_verification

SNAPSHOTS = 10_000
NIGHTS = f"WITH RECURSIVE night (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM night WHERE n < {SNAPSHOTS})"


@pytest.fixture
def inventory(tmp_path: Path) -> Iterator[Inventory]:
    with opened(tmp_path / "inventory.db") as inventory:
        yield inventory


def grow(inventory: Inventory, *, plugins: int) -> None:
    """Let there be many nights like the one that is recorded first, with so many plugins each."""
    snapshot_id = record_backup(inventory, 1, plugins=plugins)
    record_verification(inventory, snapshot_id, "restore")
    inventory.record_drill(drill(snapshot_id, b"p/00000"))
    with inventory.engine.transaction():
        for name in ("snapshots", "plugins", "verifications"):
            columns = [row[1] for row in inventory.engine.execute(f"PRAGMA table_info({name})")][2:]
            values = {
                "snapshot": "printf('%064x', n + 1)",
                "time": "strftime('%Y-%m-%dT%H:%M:00.000000Z', '2020-01-01', n || ' hours')",
                "at": "strftime('%Y-%m-%dT%H:%M:00.000000Z', '2020-01-01', n || ' hours')",
            }
            chosen = ", ".join(values.get(column, column) for column in columns)
            inventory.engine.execute(
                f"{NIGHTS} INSERT INTO {name} SELECT inventory, id + n * 1000000, {chosen} FROM {name}, night"
            )


def test_recording_a_backup_of_235_plugins(benchmark: BenchmarkFixture, inventory: Inventory) -> None:
    numbers = itertools.count()
    benchmark(lambda: record_backup(inventory, next(numbers), plugins=235))
    assert inventory.counts()["plugins"] == 235 * next(numbers)


def test_status_with_10_000_snapshots(benchmark: BenchmarkFixture, inventory: Inventory) -> None:
    grow(inventory, plugins=10)
    assert inventory.counts()["snapshots"] == SNAPSHOTS + 1
    report = benchmark(lambda: status(inventory, now=START + timedelta(hours=1), rpo_s=86_400))
    assert len(report.sources) == 1
