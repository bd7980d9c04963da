"""The inventory: one file in which every command records what it did, and from which others learn what is proved."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any, Self

import msgspec

from drkit.errors import StoreError, UsageError
from drkit.inventory import audit, outbox, queries
from drkit.inventory.engine import Engine, Value
from drkit.inventory.records import (
    AuditRecord,
    DrillRecord,
    DrillRow,
    Pending,
    PluginRecord,
    Proof,
    SnapshotRecord,
    VerificationRecord,
    Witness,
)
from drkit.inventory.schema import migrate
from drkit.inventory.tables import BY_NAME, TABLES, Table
from drkit.model import Finding, PackId, PluginRow, Snapshot

Rows = dict[str, list[tuple[Value, ...]]]
"""Rows to be recorded: table → the values of its columns after the key, and after the version where there is one."""

_QUERIES = ("SELECT", "WITH", "VALUES", "EXPLAIN")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|--[^\n]*")


class Inventory:
    """An open inventory, for one thread of one process. A context manager; errors are DrkitErrors.

    `id` is random and made with the file; every row that is recorded carries it.
    """

    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self.engine = engine
        self.path: bytes | None = engine.path
        self._now = now
        self.id: str = self._identity()

    @classmethod
    def open(
        cls, path: bytes, *, now: Callable[[], datetime], sleep: Callable[[float], None] = time.sleep
    ) -> Inventory:
        """Open an inventory; make it, and the directory that it lies in, if it is not there; migrate it.

        UsageError if a newer version of drkit wrote it, IntegrityError if it is damaged, LockedError if other
        processes do not let go of it, StoreError if it cannot be opened or written.
        """
        path = os.path.abspath(path)
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        except OSError as error:
            hint = "name another file with --inventory"
            raise StoreError(f"the inventory's directory cannot be made: {error}", hint=hint) from error
        engine = Engine(path, sleep=sleep)
        try:
            migrate(engine, stamp(now()))
            return cls(engine, now)
        except BaseException:
            engine.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. May be called twice."""
        self.engine.close()

    def stamp(self) -> str:
        """Return the present time as the inventory writes it."""
        return stamp(self._now())

    # Recording

    def record_backup(
        self,
        *,
        repo_id: str,
        store_url: str,
        snapshot_id: str,
        name: str,
        snapshot: Snapshot,
        plugins: Iterable[PluginRow] | None,
        packs: Iterable[tuple[PackId, int]],
        bytes_added: int | None = None,
        packs_added: int | None = None,
        files_unchanged: int | None = None,
        duration_s: float | None = None,
        warnings: int | None = None,
    ) -> None:
        """Record a snapshot, its plugins, and the packs (id and size) that are new in the store since the last one.

        The last five come from a backup that was just made. Without `bytes_added` the row tells of a snapshot that
        was found, and is no witness. `plugins` may be None for one of many snapshots in a row: a rebuild adds them.
        """
        at = self.stamp()
        new = [(pack.hex(), size) for pack, size in packs]
        root = (
            *(
                at,
                repo_id,
                store_url,
                snapshot_id,
                name,
                queries.moment(snapshot.time),
                snapshot.host,
                snapshot.raw_source,
            ),
            *(snapshot.parent, msgspec.json.encode(snapshot.tags).decode()),
            *(snapshot.files, snapshot.dirs, snapshot.others, snapshot.plugins, snapshot.bytes, snapshot.skipped),
            *(snapshot.tree_sha256, bytes_added, packs_added, files_unchanged, duration_s, warnings),
        )
        rows: Rows = {
            "snapshots": [root],
            # Directly after their snapshot: `add_plugins` counts on it.
            "plugins": [_plugin_values(repo_id, snapshot_id, row) for row in plugins or ()],
            "packs": [(repo_id, pack, size, snapshot_id) for pack, size in new],
            "copies": [(at, repo_id, pack, store_url) for pack, _ in new],
        }
        detail = {"snapshot": snapshot_id, "tree_sha256": snapshot.tree_sha256, "store": store_url}
        event = "backup" if bytes_added is not None else "found"
        reserve = {"plugins": snapshot.plugins} if plugins is None else {}
        self.record(event, detail, rows, repo_id=repo_id, at=at, reserve=reserve)

    def record_verification(
        self,
        *,
        repo_id: str,
        store_url: str,
        snapshot_id: str | None,
        plugin: bytes | None,
        level: str,
        ok: bool,
        findings: int,
        packs_read: int,
        bytes_read: int,
        duration_s: float,
        others: Sequence[str] = (),
    ) -> None:
        """Record a verification of a snapshot (and `others` in the same run), or of packs alone (None)."""
        at = self.stamp()
        rows: list[tuple[Value, ...]] = [
            (at, repo_id, store_url, one or "", plugin, level, ok, findings, packs_read, bytes_read, duration_s)
            for one in (snapshot_id, *others)
        ]
        detail = {
            "snapshot": snapshot_id,
            "snapshots": len(rows),
            "level": level,
            "ok": ok,
            "findings": findings,
            "store": store_url,
        }
        self.record("verify", detail, {"verifications": rows}, repo_id=repo_id, at=at)

    def record_restore(
        self,
        *,
        repo_id: str,
        store_url: str,
        snapshot_id: str,
        plugin: bytes | None,
        whole: bool,
        lost: int,
        files: int,
        bytes_restored: int,
        duration_s: float,
    ) -> None:
        """Record a restore; one of everything, read back equal (`whole`), also counts as a verification."""
        at = self.stamp()
        rows: Rows = {}
        if whole:
            rows["verifications"] = [
                (at, repo_id, store_url, snapshot_id, plugin, "restore", True, 0, 0, bytes_restored, duration_s)
            ]
        detail = {"snapshot": snapshot_id, "files": files, "lost": lost, "store": store_url}
        self.record("restore", detail, rows, repo_id=repo_id, at=at)

    def record_drill(self, drill: DrillRecord) -> None:
        """Record a drill, passed or not."""
        at = self.stamp()
        row = (
            *(at, drill.repository, drill.store, drill.snapshot, drill.plugin, drill.by, drill.first_byte_s),
            *(drill.restore_s, drill.verify_s, drill.total_s, drill.rto_s, drill.rpo_s, drill.bytes, drill.files),
            *(drill.passed, drill.reason),
        )
        detail = {"snapshot": drill.snapshot, "passed": drill.passed, "reason": drill.reason, "store": drill.store}
        self.record("drill", detail, {"drills": [row]}, repo_id=drill.repository, at=at)

    def record(
        self,
        event: str,
        detail: dict[str, Any],
        rows: Rows,
        *,
        repo_id: str,
        at: str = "",
        reserve: Mapping[str, int] = MappingProxyType({}),
    ) -> int:
        """Record rows, the audit's link that tells of them, and their place in the outbox, in one transaction.

        A row of a mutable table that is there is updated in place; None leaves its column as it was. Return the id
        of the first row, which is the new version of a row that was updated. `reserve` keeps ids free for rows of a
        table that may be added later.
        """
        at = at or self.stamp()
        text = msgspec.json.encode(detail).decode()
        with self.engine.transaction():
            first = next_id = self._last() + 1
            for name, values in rows.items():
                table = BY_NAME[name]
                keyed = [
                    (self.id, row_id, *((row_id,) if table.mutable else ()), *row)
                    for row_id, row in enumerate(values, next_id)
                ]
                next_id += len(keyed) + reserve.get(name, 0)
                self.insert(name, keyed, table.in_place)
            link = audit.next_link(self.engine, self.id, next_id, at, event, text)
            self.insert("audit", [msgspec.structs.astuple(link)])
            self.engine.execute(
                "INSERT INTO outbox (inventory, first, last, repository, stored, pushed) VALUES (?, ?, ?, ?, 0, 0)",
                (self.id, first, next_id, repo_id),
            )
        return first

    def insert(self, name: str, rows: Sequence[Sequence[Value]], tail: str = "") -> None:
        """Insert rows with their keys into a table. The caller holds the write lock."""
        columns = BY_NAME[name].all
        self.engine.insert(f"INSERT INTO {name} ({', '.join(columns)})", len(columns), rows, tail)

    def _last(self) -> int:
        last = self.engine.execute(
            "SELECT last FROM outbox WHERE inventory = ? ORDER BY first DESC LIMIT 1", (self.id,)
        )
        return last[0][0] if last else 0

    def _identity(self) -> str:
        """Return the id; a file that was made or copied to here takes a new one, so that no id is used twice."""
        home = os.fsencode(os.uname().nodename) + b":" + os.path.realpath(self.engine.path)
        found = self.engine.execute("SELECT id FROM identity WHERE home = ?", (home,))
        if not found:
            with self.engine.transaction():
                found = self.engine.execute("SELECT id FROM identity WHERE home = ?", (home,))
                if not found:
                    found = [(os.urandom(16).hex(),)]
                    values = (found[0][0], self.stamp(), home)
                    self.engine.execute("INSERT OR REPLACE INTO identity VALUES (1, ?, ?, ?)", values)
        return str(found[0][0])

    # Asking

    def snapshots(self, *, limit: int = 1_000_000) -> list[SnapshotRecord]:
        """Return what is recorded of snapshots, newest first."""
        return queries.newest_snapshots(self.engine, limit)

    def newest_by_source(self) -> list[SnapshotRecord]:
        """Return the newest snapshot, not tagged `rejected`, of each repository, host and source."""
        return queries.newest_by_source(self.engine)

    def plugins(self, snapshot_id: str) -> list[PluginRecord]:
        """Return the plugins of a snapshot in order of their paths."""
        return queries.plugins(self.engine, snapshot_id)

    def verifications(self, *, limit: int = 1_000_000) -> list[VerificationRecord]:
        """Return the verifications, newest first."""
        return queries.verifications(self.engine, limit)

    def verifications_of(self, repo_id: str, store_url: str, *, limit: int = 1_000) -> list[VerificationRecord]:
        """Return the verifications of whole snapshots in a store, newest first."""
        return queries.verifications_of(self.engine, repo_id, store_url, limit)

    def drills(self, *, limit: int = 1_000_000) -> list[DrillRow]:
        """Return the drills, newest first."""
        return queries.drills(self.engine, limit)

    def witness(self, repo_id: str, snapshot: str) -> Witness | None:
        """Return what was recorded of a snapshot when it was made, by its id or its object's name."""
        return queries.witness(self.engine, repo_id, snapshot)

    def last_proof(self, repo_id: str, store_url: str, plugin: bytes | None) -> Proof | None:
        """Return the newest restore or drill that brought a plugin back (None: everything) from a store.

        What proves everything proves each plugin too.
        """
        return queries.last_proof(self.engine, repo_id, store_url, plugin)

    def last_verification(self, repo_id: str, store_url: str, level: str) -> VerificationRecord | None:
        """Return the newest verification of exactly this level that found nothing wrong."""
        return queries.last_verification(self.engine, repo_id, store_url, level)

    def verified(self, snapshot_id: str) -> VerificationRecord | None:
        """Return the newest verification of a whole snapshot that found nothing wrong, at any level."""
        return queries.verified(self.engine, snapshot_id)

    def least_recently_drilled(self, repo_id: str, store_url: str, plugins: Sequence[bytes], count: int) -> list[bytes]:
        """Return `count` of the plugins: those never drilled first, in their order, then the oldest drill first."""
        drilled = queries.drilled(self.engine, repo_id, store_url)
        return sorted(plugins, key=lambda path: drilled.get(path, ""))[:count]

    def drilled_stores(self, repo_id: str) -> dict[str, str]:
        """Return when something was last brought back from each store by a drill that passed."""
        return queries.drilled_stores(self.engine, repo_id)

    def sql(self, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run one query; return the names of its columns, and its rows. UsageError if it is none, or several."""
        bare = _QUOTED.sub("", query).strip().rstrip(";")
        if ";" in bare:
            # The engine would run the first statement and silently leave out the others.
            raise UsageError("one statement at a time", hint="leave out what follows the first ';'")
        if not bare.upper().startswith(_QUERIES):
            raise UsageError(f"a query begins with {', '.join(_QUERIES)}", hint="the sqlite3 shell can do the rest")
        with self.engine.read_only():
            return self.engine.query(query)

    def outbox_pending(self, end: str) -> list[Pending]:
        """Return what an end of the outbox, "stored" (the repository) or "pushed" (Turso), has not got yet."""
        return queries.pending(self.engine, end)

    def check_audit(self) -> list[Finding]:
        """Return what is wrong with the audit's chains."""
        return audit.check_chains(self.engine)

    def audit(self, *, limit: int = 1_000_000) -> list[AuditRecord]:
        """Return the audit, newest first."""
        return queries.audit_rows(self.engine, limit)

    def has_snapshot(self, repo_id: str, snapshot_id: str) -> bool:
        """Whether a snapshot is known, be it as recorded when it was made or as found later."""
        return queries.has_snapshot(self.engine, repo_id, snapshot_id)

    def known_packs(self, repo_id: str, store_url: str) -> set[str]:
        """Return the packs, by hexadecimal id, that are known to be in a store."""
        return queries.known_packs(self.engine, repo_id, store_url)

    def without_plugins(self, repo_id: str) -> list[SnapshotRecord]:
        """Return the snapshots of which the rows of `plugins` are missing, as they do after `read_objects`."""
        return queries.without_plugins(self.engine, repo_id)

    def add_plugins(self, record: SnapshotRecord, plugins: Iterable[PluginRow]) -> None:
        """Add the rows of `plugins` to a snapshot's that lacks them, with the ids that they were recorded with."""
        rows = [
            (record.inventory, row_id, *_plugin_values(record.repository, record.snapshot, row))
            for row_id, row in enumerate(plugins, record.id + 1)
        ]
        with self.engine.transaction():
            outbox.take_in(self.engine, {"plugins": rows})

    def table(self, table: Table) -> list[tuple[Any, ...]]:
        """Return all rows of a table in order of their keys."""
        return queries.rows(self.engine, table)

    def counts(self) -> dict[str, int]:
        """Return how many rows each table has."""
        return {table.name: queries.count(self.engine, table.name) for table in TABLES}

    def copy_to(self, path: bytes) -> None:
        """Write a whole copy of the inventory to a new file, whatever other processes do meanwhile.

        The copy has no identity: opened as an inventory, wherever it was restored to, it takes a new one, so that
        what it records later never collides with what this one does.
        """
        self.engine.execute("VACUUM INTO ?", (os.fsdecode(path),))
        copy = Engine(path, sleep=self.engine.sleep)
        try:
            copy.execute("DELETE FROM identity")
            copy.execute("PRAGMA journal_mode=DELETE")
        finally:
            copy.close()


def stamp(moment: datetime) -> str:
    """Return a time as the inventory writes it: `2026-11-22T13:50:00.123456Z`, which sorts as it should."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _plugin_values(repo_id: str, snapshot_id: str, row: PluginRow) -> tuple[Value, ...]:
    return (repo_id, snapshot_id, row.raw_path, row.name, row.version, row.files, row.bytes, row.tree_sha256)
