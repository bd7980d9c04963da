"""Migrations: named steps, each applied in one transaction and recorded in `schema_migrations`.

A step that has been released is never changed: a later one changes what it made. The same steps, without those that
are `local`, make the tables of a Turso database.
"""

from __future__ import annotations

from msgspec import Struct

from drkit.errors import UsageError
from drkit.inventory.engine import Engine


class Migration(Struct, frozen=True):
    """A step: its name, its statements, and whether it is for the local file only."""

    name: str
    statements: tuple[str, ...]
    local: bool = False


BOOKKEEPING = "CREATE TABLE IF NOT EXISTS schema_migrations (name TEXT PRIMARY KEY, at TEXT NOT NULL)"

_KEY = "inventory TEXT NOT NULL, id INTEGER NOT NULL"
_END = "PRIMARY KEY (inventory, id)) WITHOUT ROWID"


def _columns(table: str, *columns: str) -> tuple[str, ...]:
    """Return statements that add columns; NULL in the rows that are there, and in those of older machines."""
    return tuple(f"ALTER TABLE {table} ADD COLUMN {column}" for column in columns)


MIGRATIONS = (
    Migration(
        "0001-records",
        (
            f"""CREATE TABLE snapshots ({_KEY}, at TEXT NOT NULL, repository TEXT NOT NULL, store TEXT NOT NULL,
                snapshot TEXT NOT NULL, name TEXT NOT NULL, time TEXT NOT NULL, host TEXT NOT NULL,
                source BLOB NOT NULL, parent TEXT, tags TEXT NOT NULL, files INTEGER NOT NULL, dirs INTEGER NOT NULL,
                others INTEGER NOT NULL, plugins INTEGER NOT NULL, bytes INTEGER NOT NULL, skipped INTEGER NOT NULL,
                tree_sha256 TEXT NOT NULL, bytes_added INTEGER, packs_added INTEGER, files_unchanged INTEGER,
                duration_s REAL, warnings INTEGER, {_END}""",
            "CREATE INDEX snapshots_by_source ON snapshots (repository, host, source, time)",
            "CREATE INDEX snapshots_by_snapshot ON snapshots (repository, snapshot)",
            "CREATE INDEX snapshots_by_time ON snapshots (time)",
            f"""CREATE TABLE plugins ({_KEY}, repository TEXT NOT NULL, snapshot TEXT NOT NULL, path BLOB NOT NULL,
                name TEXT NOT NULL, version_text TEXT NOT NULL, files INTEGER NOT NULL, bytes INTEGER NOT NULL,
                tree_sha256 TEXT NOT NULL, {_END}""",
            "CREATE INDEX plugins_by_snapshot ON plugins (snapshot, path)",
            f"""CREATE TABLE packs ({_KEY}, repository TEXT NOT NULL, pack TEXT NOT NULL, size INTEGER NOT NULL,
                snapshot TEXT NOT NULL, {_END}""",
            "CREATE INDEX packs_by_pack ON packs (repository, pack)",
            f"""CREATE TABLE copies ({_KEY}, at TEXT NOT NULL, repository TEXT NOT NULL, pack TEXT NOT NULL,
                store TEXT NOT NULL, {_END}""",
            "CREATE INDEX copies_by_store ON copies (repository, store, pack)",
            f"""CREATE TABLE verifications ({_KEY}, at TEXT NOT NULL, repository TEXT NOT NULL, store TEXT NOT NULL,
                snapshot TEXT NOT NULL, plugin BLOB, level TEXT NOT NULL, ok INTEGER NOT NULL,
                findings INTEGER NOT NULL, packs_read INTEGER NOT NULL, bytes_read INTEGER NOT NULL,
                duration_s REAL NOT NULL, {_END}""",
            "CREATE INDEX verifications_by_time ON verifications (at)",
            "CREATE INDEX verifications_by_store ON verifications (repository, store, level, ok, at)",
            "CREATE INDEX verifications_by_snapshot ON verifications (snapshot, ok, at)",
            "CREATE INDEX verifications_by_plugin ON verifications (repository, plugin, ok, at)",
            f"""CREATE TABLE drills ({_KEY}, at TEXT NOT NULL, repository TEXT NOT NULL, store TEXT NOT NULL,
                snapshot TEXT NOT NULL, plugin BLOB, by TEXT NOT NULL, first_byte_s REAL, restore_s REAL NOT NULL,
                verify_s REAL NOT NULL, total_s REAL NOT NULL, rto_s REAL NOT NULL, rpo_s REAL,
                bytes INTEGER NOT NULL, files INTEGER NOT NULL, passed INTEGER NOT NULL, reason TEXT NOT NULL,
                {_END}""",
            "CREATE INDEX drills_by_plugin ON drills (repository, store, plugin, passed, at)",
            "CREATE INDEX drills_by_time ON drills (at)",
            f"""CREATE TABLE audit ({_KEY}, at TEXT NOT NULL, event TEXT NOT NULL, detail TEXT NOT NULL,
                previous TEXT NOT NULL, hash TEXT NOT NULL, {_END}""",
            "CREATE INDEX audit_by_time ON audit (at)",
        ),
    ),
    Migration(
        "0002-enhancements",
        (
            f"""CREATE TABLE enhancements ({_KEY}, version INTEGER NOT NULL, run TEXT NOT NULL,
                timestamp TEXT NOT NULL, plugin_name TEXT NOT NULL, plugin_path BLOB NOT NULL,
                enhancement_type TEXT NOT NULL, status TEXT NOT NULL, processing_time_seconds REAL,
                snapshot TEXT, model TEXT, detail TEXT, {_END}""",
            "CREATE UNIQUE INDEX enhancements_by_run ON enhancements (inventory, run, plugin_path)",
            "CREATE INDEX enhancements_by_version ON enhancements (inventory, version)",
            "CREATE INDEX enhancements_by_plugin ON enhancements (plugin_path, timestamp)",
            """CREATE VIEW enhancements_latest AS SELECT * FROM enhancements AS e WHERE (e.timestamp, e.inventory, e.id)
                = (SELECT n.timestamp, n.inventory, n.id FROM enhancements AS n WHERE n.plugin_path = e.plugin_path
                ORDER BY n.timestamp DESC, n.inventory DESC, n.id DESC LIMIT 1)""",
            f"""CREATE TABLE analyses ({_KEY}, at TEXT NOT NULL, run TEXT NOT NULL, plugin_path BLOB NOT NULL,
                kind TEXT NOT NULL, result TEXT NOT NULL, {_END}""",
            f"""CREATE TABLE responses ({_KEY}, at TEXT NOT NULL, run TEXT NOT NULL, plugin_path BLOB NOT NULL,
                model TEXT NOT NULL, request_sha256 TEXT NOT NULL, finish_reason TEXT NOT NULL, tokens_in INTEGER,
                tokens_out INTEGER, response TEXT NOT NULL, {_END}""",
            "CREATE INDEX responses_by_request ON responses (request_sha256)",
            f"""CREATE TABLE quota_ledger ({_KEY}, at TEXT NOT NULL, model TEXT NOT NULL, window TEXT NOT NULL,
                requests INTEGER NOT NULL, tokens INTEGER NOT NULL, {_END}""",
            "CREATE INDEX quota_ledger_by_model ON quota_ledger (model, at)",
            f"""CREATE TABLE quality_scores ({_KEY}, at TEXT NOT NULL, run TEXT NOT NULL, plugin_path BLOB NOT NULL,
                rule TEXT NOT NULL, score REAL NOT NULL, detail TEXT NOT NULL, {_END}""",
        ),
    ),
    Migration(
        "0003-outbox",
        (
            # One row for each transaction that recorded something: the ids from `first` to `last` are its rows.
            """CREATE TABLE outbox (inventory TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
                repository TEXT NOT NULL, stored INTEGER NOT NULL, pushed INTEGER NOT NULL,
                PRIMARY KEY (inventory, first)) WITHOUT ROWID""",
            "CREATE INDEX outbox_to_push ON outbox (inventory, first) WHERE pushed = 0",
            "CREATE INDEX outbox_to_store ON outbox (repository, inventory, first) WHERE stored = 0",
            """CREATE TABLE identity (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, at TEXT NOT NULL,
                home BLOB NOT NULL)""",
        ),
        local=True,
    ),
    Migration(
        "0004-ledger",
        (
            # Nothing ever wrote the ledger of 0002. A quota is of a machine's processes: this one is not sent anywhere.
            "DROP TABLE quota_ledger",
            # Milliseconds: `began`, `until`, `hold` since boot, `until_wall` since 1970, `clock` between the two.
            """CREATE TABLE quota_ledger (id INTEGER PRIMARY KEY, at TEXT NOT NULL, project TEXT NOT NULL,
                location TEXT NOT NULL, model TEXT NOT NULL, run TEXT NOT NULL, owner TEXT NOT NULL,
                boot TEXT NOT NULL, clock INTEGER NOT NULL, began INTEGER NOT NULL, until INTEGER NOT NULL,
                until_wall INTEGER NOT NULL, outcome TEXT NOT NULL, latency_s REAL, tokens INTEGER NOT NULL,
                money INTEGER NOT NULL, hold INTEGER)""",
            "CREATE INDEX quota_ledger_by_time ON quota_ledger (project, location, model, boot, until)",
            "CREATE INDEX quota_ledger_by_wall ON quota_ledger (project, location, model, until_wall)",
            "CREATE INDEX quota_ledger_by_clock ON quota_ledger (boot, began, clock)",
            "CREATE INDEX quota_ledger_by_run ON quota_ledger (run, money)",
            "CREATE INDEX quota_ledger_open ON quota_ledger (project, location, model) WHERE outcome = 'open'",
            """CREATE INDEX quota_ledger_held ON quota_ledger (project, location, model, boot, hold)
                WHERE hold IS NOT NULL""",
        ),
        local=True,
    ),
    Migration(
        "0005-runs",
        (
            f"""CREATE TABLE enhancement_runs ({_KEY}, version INTEGER NOT NULL, run TEXT NOT NULL,
                started TEXT NOT NULL, ended TEXT, repository TEXT NOT NULL, source BLOB NOT NULL,
                generator TEXT NOT NULL, model TEXT NOT NULL, profile TEXT NOT NULL, options TEXT NOT NULL,
                snapshot_before TEXT NOT NULL, snapshot_after TEXT, exit_code INTEGER, report TEXT, {_END}""",
            "CREATE UNIQUE INDEX enhancement_runs_by_run ON enhancement_runs (inventory, run)",
            "CREATE INDEX enhancement_runs_by_version ON enhancement_runs (inventory, version)",
            "CREATE INDEX enhancement_runs_by_time ON enhancement_runs (started)",
            *_columns("enhancements", "repository TEXT", "source BLOB", "reason TEXT", "input_sha256 TEXT"),
            *_columns("enhancements", "cache_key TEXT"),
            *_columns("analyses", "repository TEXT", "cache_key TEXT"),
            "CREATE INDEX analyses_by_key ON analyses (cache_key, kind)",
            *_columns("responses", "repository TEXT", "phase TEXT", "cache_key TEXT", "cost_usd REAL"),
            *_columns("responses", "latency_s REAL", "detail TEXT"),
            "CREATE INDEX responses_by_run ON responses (run, plugin_path)",
            *_columns("quality_scores", "repository TEXT"),
            "CREATE INDEX quality_scores_by_run ON quality_scores (run, plugin_path)",
            f"""CREATE TABLE proposals ({_KEY}, at TEXT NOT NULL, run TEXT NOT NULL, repository TEXT NOT NULL,
                source BLOB NOT NULL, plugin_path BLOB NOT NULL, path BLOB NOT NULL, cache_key TEXT NOT NULL,
                content BLOB NOT NULL, {_END}""",
            "CREATE INDEX proposals_by_path ON proposals (repository, plugin_path, path, at)",
            f"""CREATE TABLE written_files ({_KEY}, at TEXT NOT NULL, run TEXT NOT NULL, repository TEXT NOT NULL,
                source BLOB NOT NULL, plugin_path BLOB NOT NULL, path BLOB NOT NULL, sha256 TEXT NOT NULL, {_END}""",
            "CREATE INDEX written_files_by_plugin ON written_files (repository, plugin_path, at)",
            # A plugin's path is its key in one source only.
            "DROP VIEW enhancements_latest",
            """CREATE VIEW enhancements_latest AS SELECT * FROM enhancements AS e WHERE (e.timestamp, e.inventory, e.id)
                = (SELECT n.timestamp, n.inventory, n.id FROM enhancements AS n WHERE n.plugin_path = e.plugin_path
                AND n.source IS e.source ORDER BY n.timestamp DESC, n.inventory DESC, n.id DESC LIMIT 1)""",
        ),
    ),
)


def migrate(engine: Engine, now: str) -> None:
    """Apply the migrations that the file lacks. UsageError if it has some of a newer version of drkit."""
    engine.execute(BOOKKEEPING)
    known = {step.name for step in MIGRATIONS}
    done = {name for (name,) in engine.execute("SELECT name FROM schema_migrations")}
    if done - known:
        newer = ", ".join(sorted(done - known))
        raise UsageError(f"the inventory was written by a newer version of drkit ({newer})", hint="update drkit")
    for step in MIGRATIONS:
        if step.name in done:
            continue
        with engine.transaction():
            if engine.execute("SELECT 1 FROM schema_migrations WHERE name = ?", (step.name,)):
                continue  # another process was faster
            for statement in step.statements:
                engine.execute(statement)
            engine.execute("INSERT INTO schema_migrations VALUES (?, ?)", (step.name, now))
