"""What the inventory is told of a copy."""

from __future__ import annotations

from drkit.copy.report import CopyReport
from drkit.inventory import Inventory
from drkit.libsql import Value


def record_copy(inventory: Inventory, report: CopyReport) -> None:
    """Record which packs came to a store. Errors as of the inventory."""
    at = inventory.stamp()
    rows: list[tuple[Value, ...]] = [(at, report.repository, pack, report.target) for pack in report.packs]
    detail = {"store": report.target, "from": report.source, "packs": len(rows), "snapshots": report.snapshots}
    inventory.record("copy", detail, {"copies": rows}, repo_id=report.repository, at=at)
