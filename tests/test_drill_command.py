"""`drkit drill` as scripts and CI meet it: exit codes, JSON, JUnit XML, what is recorded."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from drkit.drill import junit
from drkit.errors import LockedError
from tests.support.cli import Cli

ROOT = Path(__file__).parent.parent
CONTRACT = ["plugin", "store", "restore_s", "verify_s", "total_s", "rto_s", "passed"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A command line with a marketplace that is backed up."""
    script = ROOT / "scripts/marketplace.py"
    subprocess.run([sys.executable, script, tmp_path / "source", "--plugins", "12"], check=True, capture_output=True)
    cli = Cli(tmp_path, DRKIT_REPO=str(tmp_path / "repo"), XDG_DATA_HOME=str(tmp_path / "data"))
    cli.ok("init")
    cli.ok("backup", "source")
    return cli


def query(cli: Cli, sql: str) -> list[Any]:
    """Ask the inventory's file in a process of its own, with SQLite's own module."""
    path = cli.home / "data/drkit/inventory.db"
    with sqlite3.connect(path) as connection:
        rows = connection.execute(sql).fetchall()
    connection.close()
    return rows


@pytest.mark.parametrize("standalone", [[], ["--standalone"]])
def test_a_drill_passes_and_is_recorded(cli: Cli, standalone: list[str]) -> None:
    result = cli.ok("drill", "--full", "--json", *standalone).json
    (done,) = result["drills"]
    assert set(CONTRACT) <= set(done)
    assert (result["passed"], done["passed"], done["plugin"]) == (True, True, None)
    assert (done["store"], done["rto_s"], done["rpo_s"]) == (str(cli.home / "repo"), 1800, 86400)
    by = "recover.py" if standalone else "drkit"
    assert query(cli, "SELECT snapshot, plugin, by, passed FROM drills") == [(result["snapshot"], None, by, 1)]
    assert list((cli.home / "repo/inventory").iterdir())


def test_one_plugin_by_name_and_the_default(cli: Cli) -> None:
    paths = [row["path"] for row in cli.ok("plugins", "--json").json["plugins"]]
    (done,) = cli.ok("drill", "--plugin", paths[3], "--json").json["drills"]
    assert (done["plugin"], done["rto_s"]) == (paths[3], 300)
    (done,) = cli.ok("drill", "--json").json["drills"]
    assert done["plugin"] in set(paths) - {paths[3]}
    assert "1 drill of snapshot" in cli.ok("drill").text


def test_samples_cover_everything_before_anything_comes_again(cli: Cli) -> None:
    plugins = len(cli.ok("plugins", "--json").json["plugins"])
    drilled: list[str] = []
    for _ in range(-(-plugins // 5)):
        drilled += [done["plugin"] for done in cli.ok("drill", "--sample", "5", "--json").json["drills"]]
    assert len(set(drilled[:plugins])) == plugins
    assert query(cli, "SELECT COUNT(*), SUM(passed) FROM drills") == [(len(drilled), len(drilled))]


def test_a_source_without_plugins_is_drilled_whole(cli: Cli) -> None:
    (cli.home / "plain").mkdir()
    (cli.home / "plain/file").write_text("x")
    cli.ok("backup", "plain")
    assert [done["plugin"] for done in cli.ok("drill", "--json").json["drills"]] == [None]
    assert "no plugins" in cli("drill", "--sample", "2", "--json").error["message"]


def test_a_miss_exits_22_and_says_so_everywhere(cli: Cli) -> None:
    run = cli("drill", "--full", "--rto", "0.000001s", "--junit", "drill.xml", "--json")
    assert (run.code, run.json["passed"], run.json["drills"][0]["passed"]) == (22, False, False)
    suite = ET.fromstring((cli.home / "drill.xml").read_bytes()).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert "over the RTO" in failure.get("message", "")
    ((passed, reason),) = query(cli, "SELECT passed, reason FROM drills")
    assert (passed, "over the RTO" in reason) == (0, True)
    run = cli("drill", "--full", "--rto", "0.000001s", "-q")
    assert run.code == 22
    assert "FAILED  everything" in run.text
    assert "over the RTO" in run.text


def test_an_old_snapshot_exits_22(cli: Cli) -> None:
    run = cli("drill", "--rpo", "0.000001s")
    assert run.code == 22
    assert "over the RPO" in run.text


def test_damage_exits_22(cli: Cli) -> None:
    for pack in (cli.home / "repo/packs").rglob("*.zst"):
        pack.chmod(0o600)
        data = pack.read_bytes()
        pack.write_bytes(bytes(1000) + data[1000:])
    run = cli("drill", "--full", "--json")
    assert run.code == 22
    assert "lost" in run.json["drills"][0]["reason"]


def test_junit_of_what_passed(cli: Cli) -> None:
    result = cli.ok("drill", "--sample", "3", "--junit", "drill.xml", "--json").json
    root = ET.fromstring((cli.home / "drill.xml").read_bytes())
    assert root.tag == "testsuites"
    cases = root.findall("testsuite/testcase")
    assert [case.get("name") for case in cases] == [done["plugin"] for done in result["drills"]]
    assert all(case.get("classname") == "drkit.drill.drkit" and len(case) == 0 for case in cases)
    assert float(root.get("time", "")) == pytest.approx(sum(done["total_s"] for done in result["drills"]), abs=0.01)
    assert cli("drill", "--junit", "no/where.xml", "-q").code == 2


def test_junit_escapes_what_xml_cannot_have() -> None:
    case = junit.Case("a\x00\udcff<é>", 'g"', 1.0, "line\nbreak\x1b")
    from drkit.clock import utc_now

    root = ET.fromstring(junit.encode("suite", [case], utc_now()))
    found = root.find("testsuite/testcase")
    assert found is not None
    assert (found.get("name"), found.get("classname")) == ("a\\x00\\udcff<é>", 'g"')
    assert found[0].text == "line\\nbreak\\x1b"


def test_from_another_store(cli: Cli) -> None:
    subprocess.run(["cp", "-a", cli.home / "repo", cli.home / "other"], check=True)
    done = cli.ok("drill", "--store", str(cli.home / "other"), "--json").json["drills"][0]
    assert done["store"] == str(cli.home / "other")
    assert cli("drill", "--store", "nowhere", "--json").error["code"] == 10


@pytest.fixture
def three(cli: Cli) -> Cli:
    """The repository with two configured stores beside it, both up to date."""
    (cli.home / "drkit.toml").write_text('repo = "repo"\n[stores.usb]\nurl = "usb"\n[stores.far]\nurl = "far"\n')
    del cli.environ["DRKIT_REPO"]
    cli.ok("copy", "--all")
    return cli


def stores(cli: Cli, *words: str) -> list[str]:
    """Drill, and return from which store each came."""
    result = cli.ok("--json", "drill", *words).json
    assert all(done["passed"] and done["snapshot"] == result["snapshot"] for done in result["drills"])
    return [os.path.basename(done["store"]) for done in result["drills"]]


def test_a_sample_is_dealt_out_to_the_stores(three: Cli) -> None:
    """What was drilled least recently comes first: the store, and in it the plugin."""
    assert sorted(stores(three, "--all-stores", "--sample", "4")) == ["far", "repo", "repo", "usb"]
    assert stores(three, "--all-stores") == ["repo"]
    assert sorted(stores(three, "--store", "far", "--store", "usb", "--sample", "2")) == ["far", "usb"]
    assert stores(three, "--store", "usb", "--full") == ["usb"]
    assert stores(three, "--all-stores") == ["repo"]
    assert stores(three, "--all-stores") == ["far"]
    assert stores(three, "--all-stores", "--full") == ["repo", "usb", "far"]
    assert len(query(three, "SELECT DISTINCT store FROM drills WHERE passed = 1")) == 3
    from_usb = query(three, f"SELECT plugin FROM drills WHERE plugin IS NOT NULL AND store = '{three.home / 'usb'}'")
    assert len(set(from_usb)) == len(from_usb) == 2
    assert f"from {three.home / 'far'}: " in three.ok("drill", "--all-stores", "--full").text
    assert "give one of them" in three("drill", "--all-stores", "--store", "usb").err


def test_a_store_that_cannot_be_opened_fails_its_drill_and_no_other(three: Cli) -> None:
    (three.home / "usb/drkit.json").unlink()
    (three.home / "usb/drkit-copy.json").unlink()
    run = three("--json", "drill", "--all-stores", "--full", "--junit", "drill.xml")
    assert run.code == 22
    assert [(os.path.basename(one["store"]), one["passed"]) for one in run.json["drills"]] == [
        ("repo", True),
        ("usb", False),
        ("far", True),
    ]
    assert "drkit.json" in run.json["drills"][1]["reason"]
    assert len(ET.fromstring((three.home / "drill.xml").read_bytes()).findall("testsuite/testcase/failure")) == 1


def test_a_copy_that_lies_behind_misses_the_rpo(three: Cli) -> None:
    for path in (three.home / "usb/snapshots").iterdir():
        stamp = path.name.replace(path.name[:8], "20200101", 1)
        path.rename(path.with_name(stamp))
    run = three("--json", "drill", "--store", "usb", "--store", "far", "--full")
    assert run.code == 22
    assert [one["passed"] for one in run.json["drills"]] == [False, True]


def test_a_game_day_destroys_the_store_and_each_other_one_brings_it_back(three: Cli) -> None:
    (three.home / "source/later").write_text("x")
    three.ok("backup", "source", "--no-copies")
    three.ok("copy", "--to", "far")
    three.ok("drill", "--all-stores", "--full")  # its rows must come back from the repository's own store
    names = sorted(str(path) for path in three.home.rglob("*") if path.is_file() and "inventory" not in str(path))
    result = three.ok("--json", "drill", "--game-day", "--all-stores").json
    usb, far = (loss for loss in result["losses"] if loss["loss"] == "store")
    assert (usb["survived"], far["survived"]) == (True, True)
    assert "which was restored instead" in usb["how"]  # that copy is a backup behind
    assert "instead" not in far["how"]
    assert "'drkit repair' brought" in far["how"]
    left = sorted(str(path) for path in three.home.rglob("*") if path.is_file() and "inventory" not in str(path))
    assert left == names
    pack = next((three.home / "far/packs").glob("*/*.zst"))
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[len(data) // 3] ^= 1
    pack.write_bytes(data)
    run = three("--json", "drill", "--game-day", "--all-stores")
    assert run.code == 22
    (failed,) = [loss for loss in run.json["losses"] if not loss["passed"]]
    assert failed["loss"] == "store"
    assert str(three.home / "far") in failed["what"]
    assert "lost" in failed["reason"]
    of_a_copy = three.ok("--json", "drill", "--game-day", "--store", "usb").json["losses"]
    assert [loss["loss"] for loss in of_a_copy] == ["index", "pack", "snapshot", "store"]


def test_a_sealed_repository_and_its_copy(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    cli = Cli(tmp_path, DRKIT_INVENTORY="inventory.db", DRKIT_PASSWORD="correct horse battery")
    (tmp_path / "source/a/.claude-plugin").mkdir(parents=True)
    (tmp_path / "source/a/.claude-plugin/plugin.json").write_text('{"name": "a"}')
    (tmp_path / "source/a/text").write_text("content\n" * 1000)
    (tmp_path / "drkit.toml").write_text('repo = "repo"\n[stores.usb]\nurl = "usb"\n[guard]\ncopies = 2\n')
    cli.ok("init", "--encrypt")
    cli.ok("backup", "source")
    cli.ok("guard", "exec", "a", "--source", "source", "--", "touch", str(tmp_path / "source/a/new"))
    cli.ok("backup", "source")
    assert sorted(stores(cli, "--all-stores", "--sample", "2")) == ["repo", "usb"]
    losses = cli.ok("--json", "drill", "--game-day", "--all-stores").json["losses"]
    assert [loss["loss"] for loss in losses] == ["index", "pack", "snapshot", "inventory", "store"]
    rule = {check["name"]: check for check in cli("--json", "doctor").json["rule"]}
    assert rule["2 kinds of store"]["evidence"] == f"local: {tmp_path / 'repo'}, usb"


def test_a_game_day(cli: Cli) -> None:
    (cli.home / "source/later").write_text("x")
    cli.ok("backup", "source")
    cli.ok("drill")
    before = sorted(path.name for path in (cli.home / "repo/snapshots").iterdir())
    result = cli.ok("drill", "--game-day", "--junit", "day.xml", "--json").json
    assert [loss["loss"] for loss in result["losses"]] == ["index", "pack", "snapshot", "inventory", "store"]
    assert [loss["survived"] for loss in result["losses"] if loss["loss"] != "pack"] == [True] * 4
    assert result["drills"] == []
    assert sorted(path.name for path in (cli.home / "repo/snapshots").iterdir()) == before
    assert len(ET.fromstring((cli.home / "day.xml").read_bytes()).findall("testsuite/testcase")) == 5
    assert query(cli, "SELECT COUNT(*) FROM audit WHERE event = 'game-day'") == [(1,)]
    text = cli.ok("drill", "--game-day").text
    assert "deleted the whole index" in text
    assert "survived, in " in text


def test_rows_that_do_not_come_back_fail_the_game_day(cli: Cli) -> None:
    cli.ok("drill")
    for rows in (cli.home / "repo/inventory").iterdir():
        rows.unlink()
    run = cli("drill", "--game-day", "--json")
    assert run.code == 22
    (loss,) = [loss for loss in run.json["losses"] if not loss["passed"]]
    assert loss["loss"] == "inventory"
    assert "2 rows of the inventory did not come back" in loss["reason"]


def test_without_an_inventory_it_still_drills(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from drkit.inventory import Inventory

    def locked(*_: object, **__: object) -> Inventory:
        raise LockedError("another process holds the inventory")

    monkeypatch.setattr(Inventory, "open", locked)
    run = cli("drill")
    assert "passed" in run.text
    assert "another process holds the inventory" in run.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--full", "--sample", "1"], "give one of"),
        (["--plugin", "x", "--game-day"], "give one of"),
        (["--rto", "soon"], "'soon' is no span of time"),
        (["--rpo", "0s"], "'0s' is no span of time"),
        (["--sample", "0"], "--sample"),
        (["--plugin", "nothing"], "there is no plugin 'nothing'"),
    ],
)
def test_wrong_usage(cli: Cli, words: list[str], message: str) -> None:
    error = cli("drill", "--json", *words).error
    assert error["code"] == 2
    assert message in error["message"]


def test_scratch_is_where_tmpdir_says(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    (cli.home / "scratch").mkdir()
    cli.environ["TMPDIR"] = str(cli.home / "scratch")
    cli.ok("drill")
    assert os.listdir(cli.home / "scratch") == []
