"""What enhancement runs record: rows that are updated in place, at both ends, and back again after a loss."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from drkit.errors import UsageError
from drkit.inventory import Enhancements, Inventory
from drkit.inventory.objects import read_objects, store_rows
from drkit.inventory.schema import MIGRATIONS
from drkit.inventory.sync import pull, push
from drkit.inventory.tables import BY_NAME
from drkit.inventory.turso import Turso
from drkit.store.memory import MemoryStore
from tests.support.hrana import TOKEN, serving
from tests.support.recording import REPO, content, opened

SOURCE = b"/srv/plugins"
TABLES = ("enhancement_runs", "enhancements", "analyses", "responses", "proposals", "written_files", "quality_scores")


def started(inventory: Inventory, source: bytes = SOURCE) -> tuple[Enhancements, str]:
    """A run that has begun."""
    records = Enhancements(inventory)
    options = {"limit": 3, "only_failed": False}
    names = {"generator": "offline", "model": "", "profile": "marketplace"}
    return records, records.start_run(repo_id=REPO, source=source, options=options, snapshot_before="a" * 64, **names)


def set_status(records: Enhancements, run: str, path: bytes, status: str, **more: Any) -> None:
    keys = {"plugin_name": "p", "enhancement_type": "skill", **more}
    records.set_status(run=run, repo_id=REPO, plugin_path=path, status=status, **keys)


def one_of_everything(inventory: Inventory, source: bytes = SOURCE) -> str:
    """A whole run over two plugins; return its id."""
    records, run = started(inventory, source)
    where: dict[str, Any] = {"run": run, "repo_id": REPO, "plugin_path": b"p/\xff"}
    set_status(records, run, b"p/\xff", "pending", cache_key="key")
    set_status(records, run, b"q", "pending")
    answer: dict[str, Any] = {"tokens_in": 2**33, "tokens_out": 2, "cost_usd": 0.25, "latency_s": 5.5}
    asked: dict[str, Any] = {"phase": "plan", "cache_key": "key", "request_sha256": "b" * 64, "model": "m"}
    records.store_response(
        **where, **asked, reply_text='{"a": "\0\ud800é"}', finish_reason="stop", **answer, details={"x": 1}
    )
    records.store_analysis(**where, cache_key="key", result={"skills": ["s"]})
    records.store_proposal(**where, cache_key="key", files={b"skills/s/SKILL.md": b"---\nwhole\xff", b"a": b""})
    records.store_written(**where, files={b"skills/s/SKILL.md": "c" * 64, b"old": ""})
    records.score(**where, scores={"SK010": 0.5, "SK001": 1.0}, details={"SK010": "says not when"})
    set_status(records, run, b"p/\xff", "verified", processing_time_seconds=6.5, snapshot="d" * 64)
    set_status(records, run, b"q", "failed", reason="cut off", detail={"findings": ["SK002"]})
    records.finish_run(run, repo_id=REPO, snapshot_after="d" * 64, exit_code=3, report={"plugins": 2})
    return run


def enhanced(inventory: Inventory) -> dict[str, list[tuple[Any, ...]]]:
    rows = content(inventory)
    return {name: rows[name] for name in (*TABLES, "audit")}


def test_a_status_is_updated_in_place_and_keeps_what_is_not_given(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as inventory:
        records, run = started(inventory)
        set_status(records, run, b"p", "pending", cache_key="key", input_sha256="in", detail={"a": 1})
        first = content(inventory)["enhancements"]
        set_status(records, run, b"p", "failed", reason="no answer", processing_time_seconds=5.5, model="m")
        set_status(records, run, b"p", "rolled_back", snapshot="s")
        [row] = content(inventory)["enhancements"]
        assert first[0][1] == first[0][2] == row[1] < row[2]
        [record] = records.statuses(run)
        told = (record.status, record.reason, record.processing_time_seconds, record.model, record.snapshot)
        assert told == ("rolled_back", "", 5.5, "m", "s")
        assert (record.cache_key, record.input_sha256, record.detail, record.source) == ("key", "in", {"a": 1}, SOURCE)
        assert inventory.check_audit() == []
        events = [json.loads(link.detail).get("status") for link in inventory.audit()]
        assert events == ["rolled_back", "failed", "pending", None]


def test_the_original_queries_work_with_stock_sqlite_during_a_run(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as inventory:
        records, run = started(inventory)
        for path, status, took in ((b"a", "verified", 4.0), (b"b", "verified", 6.0), (b"c", "pending", None)):
            set_status(records, run, path, status, processing_time_seconds=took)
        other = sqlite3.connect(tmp_path / "a.db")
        counts = dict(other.execute("SELECT status, COUNT(*) FROM enhancements GROUP BY status"))
        average = other.execute("SELECT AVG(processing_time_seconds) FROM enhancements").fetchone()
        names = other.execute("SELECT timestamp, plugin_name, plugin_path, enhancement_type FROM enhancements_latest")
        told = names.fetchall()
        other.close()
    assert (counts, average) == ({"verified": 2, "pending": 1}, (5.0,))
    assert [row[1:] for row in sorted(told, key=lambda row: row[2])] == [
        ("p", path, "skill") for path in (b"a", b"b", b"c")
    ]


def test_everything_reads_back_as_it_was_recorded(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as inventory:
        run = one_of_everything(inventory)
        records = Enhancements(inventory)
        where: dict[str, Any] = {"repo_id": REPO, "source": SOURCE}
        done = records.run("latest")
        assert (done.run, done.exit_code, done.report, done.options["limit"]) == (run, 3, {"plugins": 2}, 3)
        assert [(row.plugin_path, row.status) for row in records.statuses(run)] == [
            (b"p/\xff", "verified"),
            (b"q", "failed"),
        ]
        answer = records.response("key", "b" * 64, "plan")
        assert answer is not None
        assert (answer.text, answer.tokens_in, answer.cost_usd) == ('{"a": "\0\ud800é"}', 2**33, 0.25)
        assert [records.response(None, "b" * 64, "plan"), records.responses(run)] == [answer, [answer]]
        assert records.response("other", "b" * 64, "plan") is None
        assert records.response("key", "b" * 64, "generate") is None
        assert (records.analysis("key"), records.analysis("other")) == ({"skills": ["s"]}, None)
        assert records.proposal(b"p/\xff", b"skills/s/SKILL.md", **where) == b"---\nwhole\xff"
        assert records.proposal(b"p/\xff", b"a", **where) == b""
        assert records.proposal(b"p/\xff", b"b", **where) is None
        assert records.written(b"p/\xff", **where) == {b"skills/s/SKILL.md": "c" * 64}
        last = records.last(b"q", **where)
        assert last is not None
        assert (last.reason, last.detail) == ("cut off", {"findings": ["SK002"]})
        assert records.last(b"q", **where, before=run) is None


def test_what_was_put_back_is_no_longer_written(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as inventory:
        run = one_of_everything(inventory)
        records = Enhancements(inventory)
        gone = {b"skills/s/SKILL.md": "", b"new": "e" * 64}
        records.store_written(run=run, repo_id=REPO, plugin_path=b"p/\xff", files=gone)
        assert records.written(b"p/\xff", repo_id=REPO, source=SOURCE) == {b"new": "e" * 64}


def test_a_tree_that_was_restored_elsewhere_keeps_its_history(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as inventory:
        one_of_everything(inventory)
        records = Enhancements(inventory)
        elsewhere: dict[str, Any] = {"repo_id": REPO, "source": b"/new/home"}
        assert list(records.written(b"p/\xff", **elsewhere)) == [b"skills/s/SKILL.md"]
        assert records.last(b"q", **elsewhere) is not None
        run = started(inventory, b"/new/home")[1]
        records.store_written(run=run, repo_id=REPO, plugin_path=b"p/\xff", files={b"x": "f" * 64})
        assert records.written(b"p/\xff", **elsewhere) == {b"x": "f" * 64}
        assert list(records.written(b"p/\xff", repo_id=REPO, source=SOURCE)) == [b"skills/s/SKILL.md"]
        assert records.written(b"p/\xff", repo_id="another", source=SOURCE) == {}


def test_two_sources_each_have_their_latest(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as inventory:
        for source in (SOURCE, b"/other"):
            records, run = started(inventory, source)
            set_status(records, run, b"p", "failed")
        records, run = started(inventory)
        set_status(records, run, b"p", "verified")
        found = inventory.sql("SELECT status FROM enhancements_latest ORDER BY status")[1]
        assert found == [("failed",), ("verified",)]


@pytest.mark.parametrize("name", ["2", "", "x", "20261122T"])
def test_a_run_is_named_by_its_beginning(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / "a.db") as inventory:
        records = Enhancements(inventory)
        with pytest.raises(UsageError, match="the newest are: none"):
            records.run("latest")
        runs = [started(inventory)[1] for _ in range(2)]
        assert len(set(runs)) == 2
        assert [records.run(run).run for run in runs] == runs
        assert {one.run for one in records.runs()} == set(runs)
        with pytest.raises(UsageError, match="the newest are"):
            records.run(name)
        with pytest.raises(UsageError, match="is not a run"):
            set_status(records, "unknown", b"p", "pending")


def test_rebuild_brings_back_every_row_in_its_latest_version(tmp_path: Path) -> None:
    store = MemoryStore()
    with opened(tmp_path / "a.db") as inventory, opened(tmp_path / "b.db") as other:
        records, run = started(inventory)
        set_status(records, run, b"p", "pending")
        store_rows(inventory, store, REPO)
        set_status(records, run, b"p", "verified")
        store_rows(inventory, store, REPO)
        one_of_everything(inventory)
        store_rows(inventory, store, REPO)
        for _ in range(2):
            found = read_objects(other, store, REPO)
            assert (found.objects, found.findings) == (3, ())
            assert enhanced(other) == enhanced(inventory)
        assert other.check_audit() == []
        assert [row.status for row in Enhancements(other).statuses(run)] == ["verified"]


def test_a_run_goes_on_where_its_inventory_was_rebuilt(tmp_path: Path) -> None:
    store = MemoryStore()
    with opened(tmp_path / "a.db") as inventory, opened(tmp_path / "b.db") as other, opened(tmp_path / "c.db") as third:
        run = one_of_everything(inventory)
        store_rows(inventory, store, REPO)
        read_objects(other, store, REPO)
        records = Enhancements(other)
        late = inventory.stamp()
        assert any(other.stamp() > late for _ in range(1_000))  # now the second clock is ahead of the first
        set_status(records, run, b"q", "rolled_back")
        records.finish_run(run, repo_id=REPO, snapshot_after="e" * 64, exit_code=0, report={})
        assert [row.status for row in records.statuses(run)] == ["verified", "rolled_back"]
        assert [(one.run, one.exit_code, one.options["limit"]) for one in records.runs()] == [(run, 0, 3)]
        store_rows(other, store, REPO)
        read_objects(third, store, REPO)
        assert Enhancements(third).statuses(run) == records.statuses(run)
        assert Enhancements(third).runs() == records.runs()


def test_turso_has_the_latest_version_whatever_was_lost_on_the_way(tmp_path: Path) -> None:
    with serving(tmp_path / "turso.db") as server, opened(tmp_path / "a.db") as inventory:
        turso = Turso(server.url, TOKEN)
        server.clients.append(turso)
        records, run = started(inventory)
        set_status(records, run, b"p", "pending")
        push(inventory, turso)
        early = inventory.engine.execute("SELECT * FROM enhancements")
        set_status(records, run, b"p", "verified", processing_time_seconds=2.5)
        one_of_everything(inventory)
        push(inventory, turso)
        # A mark that was lost sends the rows again, as they are now: nothing goes back to a former version.
        inventory.engine.execute("UPDATE outbox SET pushed = 0")
        push(inventory, turso)
        assert early[0][2] < inventory.engine.execute("SELECT version FROM enhancements WHERE run = ?", (run,))[0][0]
        with opened(tmp_path / "b.db") as other:
            pull(other, turso)
            assert enhanced(other) == enhanced(inventory)
            pull(other, turso)
            assert enhanced(other) == enhanced(inventory)


def test_long_answers_are_fetched_in_several_pages(tmp_path: Path) -> None:
    with serving(tmp_path / "turso.db") as server, opened(tmp_path / "a.db") as inventory:
        turso = Turso(server.url, TOKEN)
        server.clients.append(turso)
        records, run = started(inventory)
        count = BY_NAME["proposals"].page + 3
        files = {b"%d" % number: b"x" * 100 for number in range(count)}
        records.store_proposal(run=run, repo_id=REPO, plugin_path=b"p", cache_key="k", files=files)
        push(inventory, turso)
        with opened(tmp_path / "b.db") as other:
            pull(other, turso)
            assert len(content(other)["proposals"]) == count


def test_an_inventory_of_the_version_before_is_migrated(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "a.db")
    old.execute("CREATE TABLE schema_migrations (name TEXT PRIMARY KEY, at TEXT NOT NULL)")
    for step in MIGRATIONS[:3]:
        for statement in step.statements:
            old.execute(statement)
        old.execute("INSERT INTO schema_migrations VALUES (?, 't')", (step.name,))
    old.commit()
    old.close()
    with opened(tmp_path / "a.db") as inventory:
        one_of_everything(inventory)
        assert len(inventory.sql("SELECT reason FROM enhancements_latest")[1]) == 2
