"""The inventory through the command line: what records itself, and how it comes back."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from drkit.inventory.tables import TABLES
from tests.support.cli import Cli
from tests.support.hrana import TOKEN, Hrana, serving

PATH = "data/drkit/inventory.db"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A command line with a source of two plugins and an empty repository beside it."""
    for plugin in ("one", "two"):
        directory = tmp_path / "source" / plugin / ".claude-plugin"
        directory.mkdir(parents=True)
        (directory / "plugin.json").write_text(f'{{"name": "the-{plugin}"}}')
    cli = Cli(tmp_path, DRKIT_REPO=str(tmp_path / "repo"))
    cli.ok("init")
    return cli


def with_turso(cli: Cli, server: Hrana) -> None:
    cli.environ |= {"TURSO_DATABASE_URL": server.url, "TURSO_AUTH_TOKEN": TOKEN}


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables, read by SQLite of the standard library."""
    connection = sqlite3.connect(path)
    try:
        return {table.name: connection.execute(f"SELECT * FROM {table.name}").fetchall() for table in TABLES}
    finally:
        connection.close()


def work(cli: Cli) -> None:
    """Run every command that records."""
    cli.ok("backup", "source", "--verify", "packs", "--tag", "nightly")
    (cli.home / "source/one/SKILL.md").write_text("changed\n")
    cli.ok("backup", "source")
    cli.ok("verify", "--all", "--level", "content")
    cli.ok("restore", "--target", "out")
    cli.ok("restore-plugin", "the-one", "--target", "one")
    cli.ok("drill", "--sample", "1")


def test_every_command_records_itself_once(cli: Cli) -> None:
    work(cli)
    found = rows(cli.home / PATH)
    assert [row[3] for row in found["audit"]] == ["backup", "verify", "backup", "verify", "restore", "restore", "drill"]
    assert {name: len(values) for name, values in found.items() if values and name != "audit"} == {
        "snapshots": 2,
        "plugins": 4,
        "packs": 2,
        "copies": 2,
        "verifications": 5,
        "drills": 1,
    }
    stored = {path.name for path in (cli.home / "repo/packs").glob("*/*")}
    assert {f"{row[3]}.zst" for row in found["packs"]} == stored
    assert len(list((cli.home / "repo/inventory").iterdir())) == 6  # one for each command
    assert cli.ok("inventory", "--json").json["to_store"] == 0


@pytest.mark.parametrize("words", [["snapshots"], ["ls"], ["backup", "source", "--dry-run"], ["plugins"]])
def test_what_records_nothing_makes_no_inventory(cli: Cli, words: list[str]) -> None:
    cli.ok("backup", "source", "--inventory", "other.db")
    cli.ok(*words)
    assert not (cli.home / "data").exists()


def test_rebuild_brings_back_every_row_from_the_repository_alone(cli: Cli) -> None:
    work(cli)
    before = rows(cli.home / PATH)
    shutil.rmtree(cli.home / "data")
    result = cli.ok("--json", "inventory", "rebuild").json
    assert rows(cli.home / PATH) == before
    assert result["snapshots"] == 0
    cli.ok("inventory", "rebuild")  # again: nothing doubles
    assert rows(cli.home / PATH) == before


def test_rebuild_without_recorded_rows_knows_the_snapshots(cli: Cli) -> None:
    work(cli)
    before = rows(cli.home / PATH)
    shutil.rmtree(cli.home / "data")
    for path in (cli.home / "repo/inventory").iterdir():
        path.unlink()
    assert cli.ok("--json", "inventory", "rebuild").json["snapshots"] == 2
    after = rows(cli.home / PATH)
    for name, columns in (("snapshots", slice(3, 19)), ("plugins", slice(2, None)), ("packs", slice(3, 5))):
        assert sorted(row[columns] for row in after[name]) == sorted(row[columns] for row in before[name])


def test_a_damaged_object_is_told_and_costs_only_its_rows(cli: Cli) -> None:
    work(cli)
    damaged = max((cli.home / "repo/inventory").iterdir())
    damaged.chmod(0o600)
    damaged.write_bytes(damaged.read_bytes()[:-3])
    shutil.rmtree(cli.home / "data")
    run = cli("inventory", "rebuild")
    assert run.code == 3
    assert damaged.name in run.err
    assert cli.ok("--json", "inventory").json["rows"]["snapshots"] == 2


def test_pull_on_a_bare_machine_says_how_to_restore(cli: Cli, tmp_path: Path) -> None:
    with serving(tmp_path / "turso.db") as server:
        with_turso(cli, server)
        work(cli)
        before = rows(cli.home / PATH)
        shutil.rmtree(cli.home / "data")
        shutil.rmtree(cli.home / "source")
        run = cli.ok("--json", "inventory", "pull")
        assert rows(cli.home / PATH) == before
        [line] = run.json["commands"]
        assert shlex.split(line)[0] == "drkit"
        cli.ok(*shlex.split(line)[1:])
    assert (cli.home / "source/one/SKILL.md").read_text() == "changed\n"


def test_turso_down_is_told_once_and_made_up_for(cli: Cli, tmp_path: Path) -> None:
    with serving(tmp_path / "turso.db") as server:
        with_turso(cli, server)
        url, cli.environ["TURSO_DATABASE_URL"] = server.url, "http://127.0.0.1:9"
        run = cli.ok("backup", "source", "--verify", "packs")
        assert run.err.count("warning:") == 1
        assert "cannot be reached" in run.err
        run = cli.ok("backup", "source", "--json")
        assert json.loads(run.err)["type"] == "warning"
        cli.environ |= {"TURSO_DATABASE_URL": url, "TURSO_AUTH_TOKEN": "wrong"}
        run = cli.ok("verify")
        assert "refuses the token" in run.err
        assert "wrong" not in run.err
        cli.environ["TURSO_AUTH_TOKEN"] = TOKEN
        assert cli.ok("verify").err == ""
        assert cli.ok("--json", "inventory").json["to_push"] == 0
        assert rows(tmp_path / "turso.db") == rows(cli.home / PATH)


def test_an_inventory_that_cannot_be_opened_fails_no_backup(cli: Cli) -> None:
    (cli.home / "broken.db").write_bytes(b"no database at all" * 100)
    run = cli.ok("backup", "source", "--inventory", "broken.db")
    assert run.err.count("warning:") == 1
    assert "drkit inventory rebuild" in run.err
    assert len(cli.ok("snapshots", "--json").json["snapshots"]) == 1


def test_an_inventory_in_the_source_is_backed_up_whole(cli: Cli) -> None:
    inventory = str(cli.home / "source/inventory.db")
    cli.ok("backup", "source", "--inventory", inventory)
    cli.ok("backup", "source", "--inventory", inventory)
    cli.ok("restore", "--target", "out")
    restored = rows(cli.home / "out/inventory.db")
    assert len(restored["snapshots"]) == 1  # as it was before the second backup was recorded
    assert not (cli.home / "out/inventory.db-wal").exists()


def test_sql_and_export(cli: Cli) -> None:
    work(cli)
    result = cli.ok("--json", "inventory", "sql", "SELECT path, files FROM plugins ORDER BY path LIMIT 1").json
    assert result == {"columns": ["path", "files"], "rows": [["one", 1]]}
    assert "one" in cli.ok("inventory", "sql", "SELECT path FROM plugins").text
    exported = json.loads(cli.ok("inventory", "export").out)
    assert list(exported) == [table.name for table in TABLES]
    assert exported["plugins"][0]["path"] == "one"
    lines = list(csv.DictReader(io.StringIO(cli.ok("inventory", "export", "drills", "--format", "csv").text)))
    assert [line["passed"] for line in lines] == ["1"]
    for words in (
        ["sql"],
        ["push", "x"],
        ["sql", "DELETE FROM plugins"],
        ["export", "nothing"],
        ["pull"],
        ["nonsense"],
    ):
        assert cli("inventory", *words).code == 2
