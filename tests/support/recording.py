"""Inventories with something in them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from drkit.inventory import DrillRecord, Inventory
from drkit.inventory.tables import TABLES
from drkit.model import FormatVersion, PackId, PluginRow, Root, Snapshot

START = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
REPO = "r" * 32
STORE = "/srv/backups"


def ticking() -> Callable[[], datetime]:
    """Return a clock that goes on by a second whenever it is read."""
    time = START

    def now() -> datetime:
        nonlocal time
        time += timedelta(seconds=1)
        return time

    return now


def opened(path: Path) -> Inventory:
    """Open an inventory whose clock ticks."""
    return Inventory.open(str(path).encode(), now=ticking(), sleep=lambda _seconds: None)


def snapshot(number: int, **more: Any) -> Snapshot:
    """Return a snapshot that was taken `number` minutes after the start."""
    time = (START + timedelta(minutes=number)).strftime("%Y%m%dT%H%M%S.%fZ")
    values: dict[str, Any] = {"host": "laptop", "source": "/home/me/plugins", "tree_sha256": f"{number:064x}", **more}
    return Snapshot(
        format=FormatVersion(),
        repository_id=REPO,
        time=time,
        clock=START.isoformat(),
        manifest=Root(0, ()),
        plugin_table=Root(0, ()),
        program="drkit 1",
        **values,
    )


def record_backup(inventory: Inventory, number: int, *, plugins: int = 3, **more: Any) -> str:
    """Record a backup; return the snapshot's id."""
    snap = snapshot(number, plugins=plugins, **more)
    snapshot_id = f"{number:064x}"
    inventory.record_backup(
        repo_id=REPO,
        store_url=STORE,
        snapshot_id=snapshot_id,
        name=f"snapshots/{snap.time}-{snapshot_id}.json",
        snapshot=snap,
        plugins=[PluginRow(path=f"p/{n:05}", name=f"plugin {n}", tree_sha256="a" * 64) for n in range(plugins)],
        packs=[(PackId(number.to_bytes(32, "big")), 2**33 + number)],
        bytes_added=2**40 + number,
        packs_added=1,
        files_unchanged=0,
        duration_s=0.5,
        warnings=0,
    )
    return snapshot_id


def record_verification(
    inventory: Inventory, snapshot_id: str | None, level: str = "content", *, ok: bool = True, **more: Any
) -> None:
    """Record a verification of a whole snapshot, in which `more` replaces what it says by default."""
    values: dict[str, Any] = {
        "repo_id": REPO,
        "store_url": STORE,
        "plugin": None,
        "findings": 0 if ok else 1,
        "packs_read": 1,
        "bytes_read": 2**35,
        "duration_s": 1.5,
        **more,
    }
    inventory.record_verification(snapshot_id=snapshot_id, level=level, ok=ok, **values)


def drill(snapshot_id: str, plugin: bytes | None, *, passed: bool = True, **more: Any) -> DrillRecord:
    """Return a drill of a plugin, in which `more` replaces what it says by default."""
    values: dict[str, Any] = {
        "repository": REPO,
        "store": STORE,
        "by": "drkit",
        "first_byte_s": 0.01,
        "restore_s": 0.2,
        "verify_s": 0.1,
        "total_s": 0.31,
        "rto_s": 300.0,
        "rpo_s": None,
        "bytes": 2**40,
        "files": 7,
        "reason": "" if passed else "too slow",
        **more,
    }
    return DrillRecord(snapshot=snapshot_id, plugin=plugin, passed=passed, **values)


def content(inventory: Inventory) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables."""
    return {table.name: inventory.table(table) for table in TABLES}
