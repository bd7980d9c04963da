"""Forget, prune and unlock by the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.cli import Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    made_cli = Cli(tmp_path, DRKIT_REPO=str(tmp_path / "repo"), DRKIT_STATE_DIR=str(tmp_path / "state"))
    made_cli.ok("init")
    (tmp_path / "source").mkdir()
    for number in range(4):
        (tmp_path / "source/a").write_bytes(os.urandom(9000))
        (tmp_path / "source" / f"b{number}").write_bytes(os.urandom(5000))
        made_cli.ok("backup", "source", "--tag", f"t{number}")
    return made_cli


def test_forget_and_prune_by_command(cli: Cli) -> None:
    plan = cli.ok("forget", "--keep-last", "2", "--dry-run", "--json").json
    assert (len(plan["removed"]), len(plan["kept"]), plan["dry_run"], plan["prune"]) == (2, 2, True, None)
    assert len(cli.ok("snapshots", "--json").json["snapshots"]) == 4
    done = cli.ok("forget", "--keep-last", "1", "--keep-tag", "t1", "--prune", "--json").json
    assert [one["tags"] for one in done["kept"]] == [["t1"], ["t3"]]
    assert done["kept"][1]["reasons"] == ["last", "newest of its source"]
    assert done["prune"]["packs_deleted"] > 0
    cli.ok("verify", "--all", "--level", "restore")
    again = cli.ok("prune", "--json").json
    assert (again["packs_deleted"], again["packs_written"]) == (0, 0)
    events = cli.ok("inventory", "sql", "SELECT event FROM audit ORDER BY id", "--json").json["rows"]
    assert [row for row in events if row[0] in {"forget", "prune"}][:2] == [["forget"], ["prune"]]


def test_what_is_printed(cli: Cli) -> None:
    text = cli.ok("forget", "--keep-last", "1").text
    assert text.count("remove ") == 3
    assert "3 snapshots to remove, 1 kept" in text
    text = cli.ok("prune", "--dry-run").text
    assert "are not needed; to delete: " in text
    assert "given back" in cli.ok("prune", "--max-unused", "0").text


def test_the_configuration_holds_where_nothing_is_asked(cli: Cli) -> None:
    assert len(cli.ok("forget", "--dry-run", "--json").json["removed"]) == 0, "all of two days"
    (cli.home / "drkit.toml").write_text('[retention]\nkeep_last = 1\nkeep_tags = ["t0"]\n')
    assert [one["tags"] for one in cli.ok("forget", "--dry-run", "--json").json["removed"]] == [["t1"], ["t2"]]
    (cli.home / "drkit.toml").write_text('[retention]\nkeep_last = 1\nmin_age = "1h"\n')
    assert cli.ok("forget", "--json").json["removed"] == []


def test_wrong_options(cli: Cli) -> None:
    for words in (
        ("forget", "--keep-last", "0"),
        ("forget", "--keep-last", "-1"),
        ("forget", "--keep-within", "soon"),
        ("prune", "--max-unused", "lots"),
        ("prune", "--max-unused", "x%"),
        ("prune", "--max-repack", "-5"),
        ("prune", "--wait", "a while"),
    ):
        assert cli(*words).code == 2, words
    assert len(cli.ok("snapshots", "--json").json["snapshots"]) == 4


def test_an_unfinished_guarded_command_keeps_its_snapshot(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from drkit.guard.journal import Edit, Journal

    monkeypatch.setenv("DRKIT_STATE_DIR", str(cli.home / "state"))
    first = cli.ok("snapshots", "--json").json["snapshots"][0]["id"]
    journal = Journal.create(Edit("apply", os.fsencode(cli.home / "source"), b"p", first, b".drkit-0", ()))
    plan = cli.ok("forget", "--keep-last", "1", "--dry-run", "--json").json
    assert {one["id"]: one["reasons"] for one in plan["kept"]}[first] == ["unfinished guarded run"]
    journal.remove()


def test_unlock_by_command(cli: Cli) -> None:
    lock = cli.home / "repo/locks/prune-0123"
    lock.write_text(json.dumps({"kind": "prune", "host": "far", "pid": 7}))
    assert cli("prune").code == 11
    assert cli.ok("unlock", "--json").json == {"removed": [], "left": [{"name": "locks/prune-0123", "owner": "far 7"}]}
    os.utime(lock, (1_700_000_000, 1_700_000_000))
    assert cli.ok("unlock", "--json").json["removed"] == [{"name": "locks/prune-0123", "owner": "far 7"}]
    cli.ok("prune")
    lock.write_text("{}")
    assert "1 lock removed, 0 left" in cli.ok("unlock", "--all").text
