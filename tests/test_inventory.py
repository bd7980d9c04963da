"""The inventory's local file: recording, asking, the chain, and what other processes do to it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drkit.backup import record_snapshot
from drkit.errors import DrkitError, IntegrityError, StoreError, UsageError
from drkit.inventory import Inventory, queries
from drkit.inventory.engine import Engine, clean
from drkit.inventory.schema import MIGRATIONS
from drkit.inventory.tables import TABLES
from tests.support.backups import MARKER, Bench
from tests.support.recording import REPO, STORE, content, drill, opened, record_backup, record_verification, snapshot

ROOT = Path(__file__).parent.parent


def test_what_is_recorded_is_read_back_exactly(tmp_path: Path) -> None:
    odd = b"/home/\xff\x00me"
    with opened(tmp_path / "inventory.db") as inventory:
        first = record_backup(inventory, 1)
        record_backup(inventory, 2, source="", source_b64="L2hvbWUv/wBtZQ==", host="a\0b\ud800", tags=("nightly",))
        newest, oldest = inventory.snapshots()
        assert (oldest.snapshot, oldest.bytes_added, oldest.time) == (first, 2**40 + 1, "2026-11-22T12:01:00.000000Z")
        assert (newest.source, newest.host, newest.tags) == (odd, "a\\0b\\ud800", ("nightly",))
        assert [plugin.path for plugin in inventory.plugins(first)] == [b"p/00000", b"p/00001", b"p/00002"]
        assert [row[4] for row in content(inventory)["packs"]] == [2**33 + 1, 2**33 + 2]


def test_the_stock_sqlite_reads_the_file(tmp_path: Path) -> None:
    with opened(tmp_path / "inventory.db") as inventory:
        record_backup(inventory, 1)
        inventory.record_drill(drill("1", b"p/00001"))
    connection = sqlite3.connect(tmp_path / "inventory.db")
    assert connection.execute("SELECT time, host FROM snapshots").fetchall() == [
        ("2026-11-22T12:01:00.000000Z", "laptop")
    ]
    assert connection.execute("SELECT plugin, passed, typeof(bytes) FROM drills").fetchall() == [
        (b"p/00001", 1, "integer")
    ]
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}
    connection.close()
    assert names == {table.name for table in TABLES} | {
        "enhancements_latest",
        "identity",
        "outbox",
        "quota_ledger",
        "schema_migrations",
    }


def test_every_table_has_the_columns_that_the_code_says(tmp_path: Path) -> None:
    with opened(tmp_path / "inventory.db") as inventory:
        for table in TABLES:
            columns = [row[1] for row in inventory.engine.execute(f"PRAGMA table_info({table.name})")]
            assert columns == list(table.all)


def test_a_restore_is_a_proof_only_if_it_was_whole(tmp_path: Path) -> None:
    with opened(tmp_path / "inventory.db") as inventory:
        kept: dict[str, Any] = {"repo_id": REPO, "store_url": STORE, "snapshot_id": "1", "lost": 0, "files": 1}
        inventory.record_restore(**kept, plugin=b"p/1", whole=False, bytes_restored=1, duration_s=0.1)
        assert inventory.last_proof(REPO, STORE, b"p/1") is None
        inventory.record_restore(**kept, plugin=b"p/1", whole=True, bytes_restored=1, duration_s=0.1)
        proof = inventory.last_proof(REPO, STORE, b"p/1")
        assert proof is not None
        assert (proof.level, proof.plugin) == ("restore", b"p/1")
        assert inventory.last_proof(REPO, STORE, b"p/2") is None
        assert inventory.last_proof(REPO, "/elsewhere", b"p/1") is None
        inventory.record_drill(drill("2", None))
        proof = inventory.last_proof(REPO, STORE, b"p/2")
        assert proof is not None
        assert (proof.level, proof.snapshot, proof.plugin) == ("drill", "2", None)


def test_drills_cover_every_plugin_before_they_repeat_one(tmp_path: Path) -> None:
    plugins = [b"c", b"a", b"b"]
    with opened(tmp_path / "inventory.db") as inventory:
        seen = []
        for _ in range(2 * len(plugins)):
            [chosen] = inventory.least_recently_drilled(REPO, STORE, plugins, 1)
            inventory.record_drill(drill("1", chosen))
            seen.append(chosen)
        assert seen == plugins * 2
        inventory.record_drill(drill("1", b"c", passed=False))
        assert inventory.least_recently_drilled(REPO, STORE, plugins, 1) == [b"c"]


def test_the_newest_of_a_source_is_never_a_rejected_one(tmp_path: Path) -> None:
    with opened(tmp_path / "inventory.db") as inventory:
        kept = record_backup(inventory, 1)
        record_backup(inventory, 2, tags=("rejected",))
        other = record_backup(inventory, 3, host="desktop")
        assert {row.snapshot for row in inventory.newest_by_source()} == {kept, other}


def test_the_witness_is_what_was_recorded_when_the_snapshot_was_made(tmp_path: Path) -> None:
    with opened(tmp_path / "inventory.db") as inventory:
        made = record_backup(inventory, 1)
        name = inventory.snapshots()[0].name
        snap = snapshot(1)
        inventory.record_backup(
            repo_id=REPO, store_url=STORE, snapshot_id="f" * 64, name=name, snapshot=snap, plugins=(), packs=()
        )
        for asked in (made, name):
            witness = inventory.witness(REPO, asked)
            assert witness is not None
            assert witness.snapshot == made
        assert inventory.witness(REPO, "f" * 64) is None  # found later: no witness
        assert inventory.witness("other", made) is None


def test_verified_speaks_of_whole_snapshots_without_findings(tmp_path: Path) -> None:
    with opened(tmp_path / "inventory.db") as inventory:
        record_verification(inventory, "1", ok=False)
        record_verification(inventory, None, "content 1/7")
        assert inventory.verified("1") is None
        assert inventory.last_verification(REPO, STORE, "content") is None
        record_verification(inventory, "1")
        found = inventory.verified("1")
        assert found is not None
        assert found == inventory.last_verification(REPO, STORE, "content")


# The chain


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("UPDATE audit SET detail = '{}' WHERE id = (SELECT MIN(id) FROM audit)", "audit-changed"),
        ("UPDATE audit SET at = at || '0' WHERE id = (SELECT MAX(id) FROM audit)", "audit-changed"),
        ("DELETE FROM audit WHERE id = (SELECT MIN(id) FROM audit)", "audit-gap"),
    ],
)
def test_the_chain_shows_what_was_changed(tmp_path: Path, damage: str, code: str) -> None:
    with opened(tmp_path / "inventory.db") as inventory:
        for number in range(3):
            record_backup(inventory, number)
        assert inventory.check_audit() == []
        inventory.engine.execute(damage)
        assert [finding.code for finding in inventory.check_audit()] == [code]


# Asking in SQL


def test_sql_only_reads_and_runs_one_statement(tmp_path: Path) -> None:
    with opened(tmp_path / "inventory.db") as inventory:
        record_backup(inventory, 1)
        assert inventory.sql("SELECT COUNT(*) AS n FROM plugins;") == (["n"], [(3,)])
        for query in ("DELETE FROM plugins", "DROP TABLE plugins", "CREATE TABLE x (a)", "PRAGMA user_version=7"):
            with pytest.raises(DrkitError):
                inventory.sql(query)
        for query in ("SELECT 1; DELETE FROM plugins", "PRAGMA query_only=0", ""):
            with pytest.raises(UsageError):
                inventory.sql(query)
        assert inventory.sql("-- a comment;\nSELECT ';' AS semicolon") == (["semicolon"], [(";",)])
        with pytest.raises(StoreError):
            inventory.sql("WITH x AS (SELECT 1) DELETE FROM plugins")
        with pytest.raises(StoreError):
            inventory.sql("SELECT nothing FROM nowhere")
        record_backup(inventory, 2)  # writes are allowed again


@pytest.mark.parametrize("query", queries.STATUS)
def test_status_asks_nothing_that_no_index_answers(tmp_path: Path, query: str) -> None:
    with opened(tmp_path / "inventory.db") as inventory:
        plan = inventory.engine.execute(f"EXPLAIN QUERY PLAN {query}", ("x",) * query.count("?"))
        steps = [row[3] for row in plan if row[3].startswith(("SCAN", "SEARCH", "USE")) and "json_each" not in row[3]]
        assert steps
        for step in steps:
            assert "INDEX" in step or "PRIMARY KEY" in step, steps
            assert "TEMP B-TREE FOR ORDER" not in step, steps


# The file


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "inventory.db") as inventory:
        inventory.engine.execute("INSERT INTO schema_migrations VALUES ('9999-later', '')")
    with pytest.raises(UsageError, match="9999-later"):
        opened(tmp_path / "inventory.db")


def test_a_migration_happens_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from drkit.inventory import schema

    broken = schema.Migration("0004-broken", ("CREATE TABLE half (a)", "CREATE NONSENSE"))
    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, broken))
    with pytest.raises(StoreError):
        opened(tmp_path / "inventory.db")
    monkeypatch.undo()
    with opened(tmp_path / "inventory.db") as inventory:
        assert inventory.sql("SELECT name FROM sqlite_master WHERE name = 'half'")[1] == []
        names = [name for (name,) in inventory.sql("SELECT name FROM schema_migrations ORDER BY name")[1]]
        assert names == [step.name for step in MIGRATIONS]


def test_a_damaged_file_is_an_integrity_error(tmp_path: Path) -> None:
    (tmp_path / "inventory.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(IntegrityError, match=r"inventory\.db is damaged"):
        opened(tmp_path / "inventory.db")


def test_a_closed_inventory_says_so(tmp_path: Path) -> None:
    inventory = opened(tmp_path / "inventory.db")
    inventory.close()
    inventory.close()
    with pytest.raises(DrkitError, match="closed"):
        inventory.snapshots()


def test_a_copy_takes_an_identity_of_its_own(tmp_path: Path) -> None:
    with opened(tmp_path / "inventory.db") as inventory:
        record_backup(inventory, 1)
        inventory.copy_to(str(tmp_path / "dumped.db").encode())
        shutil.copyfile(tmp_path / "dumped.db", tmp_path / "inventory-2.db")
        rows = content(inventory)
        ids = {inventory.id}
    shutil.copyfile(tmp_path / "inventory.db", tmp_path / "inventory-3.db")
    assert not list(tmp_path.glob("dumped.db-*"))
    for number in (2, 3):
        with opened(tmp_path / f"inventory-{number}.db") as copy:
            assert content(copy) == rows
            record_backup(copy, 5)
            assert copy.check_audit() == []
            ids.add(copy.id)
    assert len(ids) == 3
    with opened(tmp_path / "inventory.db") as inventory:
        assert inventory.id in ids


def test_importing_does_not_load_the_engine() -> None:
    code = "import sys, drkit.inventory; print([m for m in sys.modules if m.startswith(('libsql', 'drkit.repo'))])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_text_is_stored_whole_or_escaped() -> None:
    assert clean("a\0b\ud800ü") == "a\\0b\\ud800ü"


# Other processes


def _record(path: str, times: int) -> None:
    with opened(Path(path)) as inventory:
        inventory.engine.sleep = lambda seconds: __import__("time").sleep(seconds)
        for number in range(times):
            record_backup(inventory, number, plugins=5)


def test_processes_record_one_after_the_other(tmp_path: Path) -> None:
    path = str(tmp_path / "inventory.db")
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_record, args=(path, 10)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    with opened(Path(path)) as inventory:
        assert inventory.check_audit() == []
        counts = inventory.counts()
        assert (counts["snapshots"], counts["plugins"], counts["audit"]) == (30, 150, 30)
        ranges = inventory.outbox_pending("stored")
        assert [one.first for one in ranges[1:]] == [one.last + 1 for one in ranges[:-1]]


def _killed(path: str) -> None:
    engine = Engine(path.encode(), sleep=lambda _seconds: None)
    with engine.transaction():
        engine.execute("DELETE FROM plugins")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_in_a_transaction_leaves_nothing_of_it(tmp_path: Path) -> None:
    path = str(tmp_path / "inventory.db")
    with opened(Path(path)) as inventory:
        record_backup(inventory, 1)
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with opened(Path(path)) as inventory:
        assert inventory.counts()["plugins"] == 3


def test_a_fork_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "inventory.db") as inventory:
        inventory.engine._pid += 1  # as in a child, without forking the test run
        with pytest.raises(DrkitError, match="forked"):
            inventory.snapshots()
        inventory.engine._pid -= 1


def test_open_names_the_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="directory cannot be made"):
        Inventory.open(str(tmp_path / "file" / "inventory.db").encode(), now=lambda: pytest.fail("not reached"))


def test_a_snapshot_recorded_without_its_plugins(tmp_path: Path) -> None:
    """Their ids stay free, so that a rebuild can add them; until then status takes those of the snapshot before."""
    bench = Bench(tmp_path)
    bench.write(f"one/{MARKER}", b'{"name": "one"}')
    bench.write("one/a", b"a")
    repository = bench.open()
    with opened(tmp_path / "inventory.db") as open_one:
        snapshots = []
        for plugins in (True, False, False):
            bench.take()
            ref = repository.snapshots()[-1]
            record_snapshot(open_one, repository, ref, plugins=plugins, report=None)
            snapshots.append(str(ref.id))
        repo_id = repository.config.repository_id
        newest = open_one.snapshots()[0]
        assert newest.snapshot == snapshots[2]
        assert [row.path for row in queries.recent_plugins(open_one.engine, newest)] == [b"one"]
        lacking = open_one.without_plugins(repo_id)
        assert {record.snapshot for record in lacking} == set(snapshots[1:])
        for record in lacking:
            open_one.add_plugins(record, repository.plugins(repository.load(repository.resolve(record.snapshot))))
        assert open_one.without_plugins(repo_id) == []
        assert [[row.path for row in open_one.plugins(snapshot)] for snapshot in snapshots] == [[b"one"]] * 3
        assert open_one.check_audit() == []
