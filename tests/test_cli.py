"""The command line as scripts meet it: output and JSON keys."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from drkit.cli.app import commands, load
from drkit.errors import StoreCorrupt
from drkit.store.local import LocalStore
from tests.support.cli import Cli, backup, with_two_plugins


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return with_two_plugins(tmp_path)


def run_for_json(cli: Cli, name: str) -> Any:
    """Run each command once in a way that ends well, but for doctor, which finds one disk too few."""
    old = backup(cli)
    (cli.home / "source/one/SKILL.md").write_text("changed\n")
    words = {
        "init": ["init", "--repo", "other"],
        "backup": ["backup", "source", "--verify", "content"],
        "copy": ["copy", "--to", "other"],
        "diff": ["diff", old, backup(cli)],
        "find": ["find", "SKILL.md"],
        "restore": ["restore", "--target", "out"],
        "restore-plugin": ["restore-plugin", "the-one", "--target", "out"],
        "schedule": ["schedule", "print", "--systemd"],
    }
    run = cli("--json", *words.get(name, [name]))
    assert run.code == (3 if name == "doctor" else 0), run
    return run.json


@pytest.mark.parametrize("name", [name for name, module in commands() if module.KEYS and " " not in name])
def test_json_has_exactly_the_documented_keys(cli: Cli, name: str) -> None:
    keys: dict[str, str] = load(name).KEYS
    result = run_for_json(cli, name)
    assert list(result) == list(keys)
    for key, text in keys.items():
        if items := re.search(r"\{(.+?)\}", text):
            expected = items[1].split(", ")
            for item in result[key]:
                assert set(expected) <= set(item)
                assert "and the other keys" in text or list(item) == expected


CONTRACT = {
    "backup": "snapshot parent files plugins bytes_source bytes_added files_unchanged packs duration_s tree_sha256 "
    "warnings",
    "snapshots": "snapshots",
    "plugins": "plugins",
    "verify": "level ok snapshots packs_read bytes_read findings",
    "restore": "snapshot files bytes tree_sha256 lost duration_s",
    "restore-plugin": "snapshot files bytes tree_sha256 lost duration_s",
    "diff": "added removed modified",
    "drill": "drills passed",
}


@pytest.mark.parametrize("name", CONTRACT)
def test_the_keys_of_the_contract_are_documented(name: str) -> None:
    assert set(CONTRACT[name].split()) <= set(load(name).KEYS)


def test_the_values_of_a_round(cli: Cli) -> None:
    first = cli.ok("backup", "source", "--json", "--tag", "a", "--tag", "b", "--host", "h").json
    assert (first["files"], first["plugins"], first["parent"], first["warnings"]) == (4, 2, None, [])
    second = cli.ok("backup", "source", "--json", "--host", "h").json
    assert second["parent"] == first["snapshot"]
    assert second["tree_sha256"] == first["tree_sha256"]
    listed = cli.ok("snapshots", "--json").json["snapshots"]
    assert [row["id"] for row in listed] == [first["snapshot"], second["snapshot"]]
    assert listed[0]["tags"] == ["a", "b"]
    assert listed[0]["host"] == "h"
    assert listed[0]["source"] == str(cli.home / "source")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", listed[0]["time"])
    plugins = cli.ok("plugins", "--json").json["plugins"]
    assert [(row["path"], row["name"], row["version"], row["files"]) for row in plugins] == [
        ("one", "the-one", "1.2", 2),
        ("two", "the-two", "1.2", 2),
    ]


def test_text_output(cli: Cli) -> None:
    run = cli.ok("backup", "source")
    assert re.match(r"snapshot [0-9a-f]{12}: 4 files, 2 plugins, 86 B; 0 files unchanged\nadded ", run.text)
    assert cli.ok("backup", "source", "-q").out == b""
    lines = cli.ok("snapshots").text.splitlines()
    assert lines[0].split() == ["ID", "TIME", "(UTC)", "HOST", "SOURCE", "FILES", "PLUGINS", "SIZE", "TAGS"]
    assert len(lines) == 3
    assert cli.ok("plugins").text.splitlines()[1].split()[:3] == ["one", "the-one", "1.2"]
    assert cli.ok("ls", "latest", "one").text.splitlines() == [
        "one",
        "one/.claude-plugin",
        "one/.claude-plugin/plugin.json",
        "one/SKILL.md",
    ]
    assert cli.ok("ls", "-l", "latest", "one/SKILL.md").text.startswith("-rw")
    assert cli.ok("cat", "latest", "one/SKILL.md").out == b"# one\n"


def test_dry_run_stores_nothing(cli: Cli) -> None:
    run = cli.ok("backup", "source", "--dry-run")
    assert "would add" in run.text
    assert cli.ok("snapshots", "--json").json == {"snapshots": [], "lost": []}


def test_diff_output(cli: Cli) -> None:
    old = backup(cli)
    (cli.home / "source/one/SKILL.md").write_text("changed\n")
    (cli.home / "source/two/SKILL.md").unlink()
    (cli.home / "source/new\n").touch()
    backup(cli)
    run = cli.ok("diff", old, "latest")
    assert run.text.splitlines() == [
        "+ new\\n",
        "- two/SKILL.md",
        "M one/SKILL.md",
        "1 added, 1 removed, 1 modified",
    ]
    result = cli.ok("diff", old, "latest", "--json").json
    assert (result["added"], result["removed"], result["modified"]) == (["new\n"], ["two/SKILL.md"], ["one/SKILL.md"])


def test_names_that_are_no_utf8_come_through(cli: Cli) -> None:
    with open(os.fsencode(cli.home) + b"/source/odd\xff", "wb") as file:
        file.write(b"odd content")
    backup(cli)
    assert "odd\\xff" in cli.ok("ls").text.splitlines()
    assert cli.ok("cat", "latest", "odd\udcff").out == b"odd content"
    entries = cli.ok("ls", "latest", "odd\udcff", "--json").json["entries"]
    assert [(entry["path"], entry["path_b64"], entry["type"]) for entry in entries] == [("odd\\xff", "b2Rk/w==", "f")]
    assert cli("ls", "latest", "no\udcff", "--json").error["message"].startswith("there is no no\\xff")
    assert b"  odd\xff\n" in cli.ok("manifest", "latest", "--sha256sums").out


def test_what_is_not_read_becomes_a_warning_and_exit_3(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if os.fsencode(path).endswith(b"SKILL.md"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    run = cli("backup", "source")
    assert run.code == 3
    assert run.err.count("warning: ") == 2
    assert "snapshot" in run.text
    run = cli("backup", "source", "--json")
    assert run.code == 3
    assert len(run.json["warnings"]) == 2
    assert run.err == ""


def test_damaged_snapshots_are_listed_as_lost(cli: Cli) -> None:
    backup(cli)
    kept = backup(cli)
    damaged = min((cli.home / "repo/snapshots").iterdir())
    damaged.chmod(0o600)
    damaged.write_text("{}")
    run = cli("snapshots", "--json")
    assert run.code == 3
    assert [row["id"] for row in run.json["snapshots"]] == [kept]
    assert damaged.name in run.json["lost"][0]
    assert "warning: " in cli("snapshots").err


@pytest.mark.parametrize("words", [("snapshots",), ("find", "SKILL.md")])
def test_a_snapshot_that_the_disk_cannot_read_hides_no_other(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    backup(cli)
    kept = backup(cli)
    damaged = min(path.name for path in (cli.home / "repo/snapshots").iterdir())
    get = LocalStore.get

    def broken(store: LocalStore, name: str) -> bytes:
        if name.endswith(damaged):
            raise StoreCorrupt(f"cannot read {name}: Input/output error")
        return get(store, name)

    monkeypatch.setattr(LocalStore, "get", broken)
    run = cli(*words)
    assert run.code == 3
    assert kept[:12] in run.text
    assert damaged in run.err
    assert "drkit verify --all" in run.err


def test_damage_on_the_way_is_told_and_makes_exit_3(cli: Cli) -> None:
    whole = backup(cli)
    backup(cli)
    newest = max((cli.home / "repo/snapshots").iterdir())
    for file in (newest, cli.home / "repo/drkit.json"):
        file.chmod(0o600)
        file.write_text("{}")
    run = cli("ls", "--json")
    assert (run.code, run.json["snapshot"]) == (3, whole)
    warnings = [json.loads(line) for line in run.err.splitlines()]
    assert [(warning["type"], warning["code"]) for warning in warnings] == [
        ("warning", "settings-damaged"),
        ("warning", "snapshot-damaged"),
    ]
    assert warnings[1]["object"] == f"snapshots/{newest.name}"
    assert all(warning["repair"] for warning in warnings)
    run = cli("ls")
    assert (run.code, run.err.count("warning: ")) == (3, 2)


@pytest.mark.parametrize("level", ["exists", "packs", "content", "restore"])
def test_verify_at_every_level(cli: Cli, level: str) -> None:
    snapshot = backup(cli)
    result = cli.ok("verify", "--level", level, "--json").json
    assert (result["level"], result["ok"], result["snapshots"]) == (level, True, [snapshot])
    assert f"verified at level {level}: 1 snapshot" in cli.ok("verify", "--all", "--level", level).text


def test_verify_prints_its_findings_once_and_exits_20(cli: Cli) -> None:
    backup(cli)
    (pack,) = (cli.home / "repo/packs").rglob("*.zst")
    pack.chmod(0o600)
    pack.write_bytes(pack.read_bytes()[:-1] + b"x")
    (cli.home / "repo/drkit-copy.json").unlink()
    run = cli("verify", "--level", "packs", "--json")
    assert (run.code, run.err) == (20, "")
    assert not run.json["ok"]
    assert {finding["code"] for finding in run.json["findings"]} == {"settings-missing", "pack-damaged"}
    run = cli("verify", "--level", "packs")
    assert (run.code, run.err) == (20, "")
    assert run.text.count("repair: ") == 2
    assert "NOT verified at level packs: 1 snapshot, 1 pack read" in run.text
    assert cli("verify", "--level", "exists", "-q").code == 20
