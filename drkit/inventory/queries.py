"""Questions to the inventory. Each one that `drkit status` asks is answered from an index: `STATUS` lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from drkit.inventory.engine import Engine
from drkit.inventory.records import (
    AuditRecord,
    DrillRow,
    Pending,
    PluginRecord,
    Proof,
    SnapshotRecord,
    VerificationRecord,
    Witness,
)
from drkit.inventory.tables import BY_NAME, Table


def _select(name: str) -> str:
    return f"SELECT {', '.join(BY_NAME[name].all)} FROM {name}"


# Statements are put together from names in the code alone; every value is bound.
# ruff: noqa: S608

_SNAPSHOTS, _VERIFICATIONS, _DRILLS = map(_select, ("snapshots", "verifications", "drills"))

NEWEST_SNAPSHOTS = f"{_SNAPSHOTS} ORDER BY time DESC LIMIT ?"
SOURCES = "SELECT DISTINCT repository, host, source FROM snapshots"
NEWEST_OF_SOURCE = f"""{_SNAPSHOTS} WHERE repository = ? AND host = ? AND source = ?
    AND NOT EXISTS (SELECT 1 FROM json_each(tags) WHERE value = 'rejected') ORDER BY time DESC LIMIT 1"""
PLUGINS = """SELECT repository, snapshot, path, name, version_text, files, bytes, tree_sha256 FROM plugins
    WHERE snapshot = ? ORDER BY path"""
WITH_PLUGINS = """SELECT s.snapshot FROM snapshots AS s WHERE s.repository = ? AND s.host = ? AND s.source = ?
    AND s.time <= ? AND EXISTS (SELECT 1 FROM plugins AS p WHERE p.inventory = s.inventory AND p.id = s.id + 1)
    ORDER BY s.time DESC LIMIT 1"""
VERIFICATIONS = f"{_VERIFICATIONS} ORDER BY at DESC LIMIT ?"
LAST_VERIFICATION = f"""{_VERIFICATIONS} WHERE repository = ? AND store = ? AND level = ? AND ok = 1
    ORDER BY at DESC LIMIT 1"""
VERIFIED = f"{_VERIFICATIONS} WHERE snapshot = ? AND plugin IS NULL AND ok = 1 ORDER BY at DESC LIMIT 1"
VERIFICATIONS_OF = f"""{_VERIFICATIONS} WHERE repository = ? AND store = ? AND plugin IS NULL
    ORDER BY at DESC LIMIT ?"""
RESTORED = f"""{_VERIFICATIONS} WHERE repository = ? AND store = ? AND level = 'restore' AND ok = 1 AND plugin IS ?
    ORDER BY at DESC LIMIT 1"""
DRILLS = f"{_DRILLS} ORDER BY at DESC LIMIT ?"
LAST_DRILL = f"""{_DRILLS} WHERE repository = ? AND store = ? AND plugin IS ? AND passed = 1
    ORDER BY at DESC LIMIT 1"""
DRILLED = """SELECT plugin, MAX(at) FROM drills WHERE repository = ? AND store = ? AND passed = 1
    AND plugin IS NOT NULL GROUP BY plugin"""
DRILLED_STORES = "SELECT store, MAX(at) FROM drills WHERE repository = ? AND passed = 1 GROUP BY store"
WITNESS = """SELECT snapshot, name, tree_sha256 FROM snapshots WHERE repository = ? AND snapshot = ?
    AND bytes_added IS NOT NULL LIMIT 1"""
WITNESS_AT = """SELECT snapshot, name, tree_sha256 FROM snapshots WHERE time = ? AND repository = ?
    AND bytes_added IS NOT NULL LIMIT 1"""
# The + keeps the engine from finding all snapshots of the repository first, only to sort them.
NEWEST_THERE = """SELECT s.snapshot, s.time FROM snapshots AS s WHERE +s.repository = ? AND (s.store = ? OR EXISTS
    (SELECT 1 FROM verifications AS v WHERE v.snapshot = s.snapshot AND v.ok = 1 AND v.store = ? AND v.plugin IS NULL))
    ORDER BY s.time DESC LIMIT 1"""
LATER = "SELECT snapshot, store, time FROM snapshots WHERE +repository = ? AND time > ? ORDER BY time"
HOLDERS = "SELECT DISTINCT store FROM verifications WHERE snapshot = ? AND ok = 1 AND plugin IS NULL"
COPIED = "SELECT 1 FROM copies WHERE repository = ? AND store = ? LIMIT 1"
FORGOTTEN = "SELECT detail FROM audit WHERE at >= ? AND event = 'forget'"
FAILED = """SELECT at FROM verifications WHERE repository = ? AND store = ? AND level = ? AND ok = 0
    ORDER BY at DESC LIMIT 1"""

STATUS = (
    *(NEWEST_SNAPSHOTS, SOURCES, NEWEST_OF_SOURCE, PLUGINS, WITH_PLUGINS, LAST_VERIFICATION, VERIFIED, RESTORED),
    *(DRILLS, LAST_DRILL, DRILLED, WITNESS, WITNESS_AT),
    *(NEWEST_THERE, LATER, FORGOTTEN, FAILED),
)


def newest_snapshots(engine: Engine, limit: int) -> list[SnapshotRecord]:
    """Return snapshots, newest first."""
    return [_snapshot(row) for row in engine.execute(NEWEST_SNAPSHOTS, (limit,))]


def newest_by_source(engine: Engine) -> list[SnapshotRecord]:
    """Return the newest snapshot that was not rejected of each repository, host and source."""
    found = (engine.execute(NEWEST_OF_SOURCE, source) for source in engine.execute(SOURCES))
    return [_snapshot(rows[0]) for rows in found if rows]


def plugins(engine: Engine, snapshot_id: str) -> list[PluginRecord]:
    """Return a snapshot's plugins."""
    return [PluginRecord(*row) for row in engine.execute(PLUGINS, (snapshot_id,))]


def recent_plugins(engine: Engine, record: SnapshotRecord) -> list[PluginRecord]:
    """Return a snapshot's plugins, or where they were not recorded those of the newest before it where they were."""
    source = (record.repository, record.host, record.source, record.time)
    found = plugins(engine, record.snapshot)
    if found or not record.plugins:
        return found
    return [one for (snapshot,) in engine.execute(WITH_PLUGINS, source) for one in plugins(engine, snapshot)]


def verifications(engine: Engine, limit: int) -> list[VerificationRecord]:
    """Return verifications, newest first."""
    return [_verification(row) for row in engine.execute(VERIFICATIONS, (limit,))]


def verifications_of(engine: Engine, repo_id: str, store_url: str, limit: int) -> list[VerificationRecord]:
    """Return the verifications of whole snapshots in a store, newest first."""
    return [_verification(row) for row in engine.execute(VERIFICATIONS_OF, (repo_id, store_url, limit))]


def last_verification(engine: Engine, repo_id: str, store_url: str, level: str) -> VerificationRecord | None:
    """Return the newest good verification of a level."""
    rows = engine.execute(LAST_VERIFICATION, (repo_id, store_url, level))
    return _verification(rows[0]) if rows else None


def verified(engine: Engine, snapshot_id: str) -> VerificationRecord | None:
    """Return the newest good verification of a whole snapshot."""
    rows = engine.execute(VERIFIED, (snapshot_id,))
    return _verification(rows[0]) if rows else None


def drills(engine: Engine, limit: int) -> list[DrillRow]:
    """Return drills, newest first."""
    return [_drill(row) for row in engine.execute(DRILLS, (limit,))]


def drilled(engine: Engine, repo_id: str, store_url: str) -> dict[bytes, str]:
    """Return when each plugin was last brought back by a drill that passed."""
    return dict(engine.execute(DRILLED, (repo_id, store_url)))


def drilled_stores(engine: Engine, repo_id: str) -> dict[str, str]:
    """Return when something was last brought back from each store by a drill that passed."""
    return dict(engine.execute(DRILLED_STORES, (repo_id,)))


def last_proof(engine: Engine, repo_id: str, store_url: str, plugin: bytes | None) -> Proof | None:
    """Return the newest drill or restore of a plugin, or of everything."""
    proofs = []
    for what in {plugin, None}:
        for row in engine.execute(LAST_DRILL, (repo_id, store_url, what)):
            drill = _drill(row)
            proofs.append(Proof(drill.at, "drill", drill.store, drill.snapshot, drill.plugin))
        for row in engine.execute(RESTORED, (repo_id, store_url, what)):
            restore = _verification(row)
            proofs.append(Proof(restore.at, restore.level, restore.store, restore.snapshot, restore.plugin))
    return max(proofs, key=lambda proof: proof.at, default=None)


def witness(engine: Engine, repo_id: str, snapshot: str) -> Witness | None:
    """Return what was recorded of a snapshot, by id or by its object's name, when it was made."""
    if snapshot.startswith("snapshots/"):
        time = snapshot.removeprefix("snapshots/").partition("-")[0]
        rows = engine.execute(WITNESS_AT, (moment(time), repo_id))
    else:
        rows = engine.execute(WITNESS, (repo_id, snapshot))
    return Witness(*rows[0]) if rows else None


def has_snapshot(engine: Engine, repo_id: str, snapshot_id: str) -> bool:
    """Whether there is a row of a snapshot."""
    sql = "SELECT 1 FROM snapshots WHERE repository = ? AND snapshot = ? LIMIT 1"
    return bool(engine.execute(sql, (repo_id, snapshot_id)))


def repositories_in(engine: Engine, store_url: str) -> list[str]:
    """Return the repositories of which something was ever verified in a store."""
    rows = engine.execute("SELECT DISTINCT repository FROM verifications WHERE store = ?", (store_url,))
    return [repository for (repository,) in rows]


def known_packs(engine: Engine, repo_id: str, store_url: str) -> set[str]:
    """Return the packs that are known to be in a store."""
    rows = engine.execute("SELECT pack FROM copies WHERE repository = ? AND store = ?", (repo_id, store_url))
    return {pack for (pack,) in rows}


def without_plugins(engine: Engine, repo_id: str) -> list[SnapshotRecord]:
    """Return snapshots whose plugins are missing."""
    sql = f"""{_SNAPSHOTS} AS s WHERE repository = ? AND plugins > 0 AND NOT EXISTS
        (SELECT 1 FROM plugins AS p WHERE p.inventory = s.inventory AND p.id = s.id + 1)"""
    return [_snapshot(row) for row in engine.execute(sql, (repo_id,))]


def pending(engine: Engine, end: str) -> list[Pending]:
    """Return the ranges of rows that an end has not got."""
    where = {"stored": "stored = 0", "pushed": "pushed = 0"}[end]
    rows = engine.execute(f"SELECT inventory, first, last, repository FROM outbox WHERE {where}")
    return [Pending(*row) for row in rows]


def audit_rows(engine: Engine, limit: int) -> list[AuditRecord]:
    """Return the audit, newest first."""
    columns = ", ".join(BY_NAME["audit"].all)
    rows = engine.execute(f"SELECT {columns} FROM audit ORDER BY at DESC, id DESC LIMIT ?", (limit,))
    return [AuditRecord(*row) for row in rows]


def rows(engine: Engine, table: Table) -> list[tuple[Any, ...]]:
    """Return all rows of a table."""
    return engine.execute(f"{_select(table.name)} ORDER BY inventory, id")


def count(engine: Engine, table: str) -> int:
    """Return how many rows a table has."""
    return int(engine.execute(f"SELECT COUNT(*) FROM {BY_NAME[table].name}")[0][0])


def moment(time: str) -> str:
    """Return the time in a snapshot's name as the inventory writes it."""
    return f"{time[:4]}-{time[4:6]}-{time[6:11]}:{time[11:13]}:{time[13:]}"


def _snapshot(row: Sequence[Any]) -> SnapshotRecord:
    columns = dict(zip(BY_NAME["snapshots"].all, row, strict=True))
    return SnapshotRecord(**{**columns, "tags": tuple(msgspec.json.decode(columns["tags"]))})


def _verification(row: Sequence[Any]) -> VerificationRecord:
    columns = dict(zip(BY_NAME["verifications"].all, row, strict=True))
    return VerificationRecord(**{**columns, "ok": bool(columns["ok"])})


def _drill(row: Sequence[Any]) -> DrillRow:
    columns = dict(zip(BY_NAME["drills"].all, row, strict=True))
    return DrillRow(**{**columns, "passed": bool(columns["passed"])})
