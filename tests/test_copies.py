"""The configured stores: `drkit backup` keeps them in step by a policy, and the commands take their names."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.support.homes import STORES, Home, assert_equal, configured
from tests.support.hrana import TOKEN, serving


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return configured(tmp_path)


# A backup and its copies


def test_a_backup_brings_every_store_up_to_date(home: Home) -> None:
    first = home.copies()
    assert [(copy["ok"], copy["created"], copy["snapshots"], copy["lag"]) for copy in first.values()] == [
        (True, True, 1, 0)
    ] * 2
    assert first["usb"]["url"] == home.store("usb")
    assert first["box"]["url"] == f"libsql-file:{home.store('box.db')}"
    second = home.copies()
    assert [(copy["created"], copy["snapshots"], copy["lag_s"]) for copy in second.values()] == [(False, 1, 0.0)] * 2
    assert all(0 < second[name]["bytes"] < first[name]["bytes"] for name in second)
    assert_equal(home, "usb")
    box = home.ok("snapshots", "--repo", "box", "--json").json["snapshots"]
    assert box == home.ok("snapshots", "--json").json["snapshots"]
    assert home.ok("verify", "--all", "--store", "box", "--json").json["ok"]


def test_what_was_recorded_of_the_backup_is_in_the_copies(home: Home) -> None:
    """So that an inventory that is rebuilt from a copy is a witness of every snapshot there."""
    home.copies()
    home.copies()
    bare = Home(home.home, XDG_DATA_HOME=str(home.home / "bare"), DRKIT_REPO="usb")
    assert bare.ok("inventory", "rebuild", "--json").json["snapshots"] == 0
    recorded = bare.ok("inventory", "sql", "SELECT bytes_added FROM snapshots", "--json").json["rows"]
    assert len(recorded) == 2
    assert None not in [row[0] for row in recorded]


def test_one_store_that_fails_does_not_stop_the_others(home: Home) -> None:
    home.broken("usb")
    run = home.backup()
    assert run.code == 3
    usb, box = run.json["copies"]
    assert (usb["ok"], box["ok"]) == (False, True)
    assert "usb" in usb["error"]
    assert (usb["lag"], box["lag"]) == (1, 0)
    assert json.loads(run.err.splitlines()[0])["code"] == "copy-failed"
    home.mended("usb")
    again = home.copies()
    assert again["usb"]["snapshots"] == 2
    assert_equal(home, "usb")


def test_a_store_that_cannot_even_be_opened_is_one_that_fails(home: Home) -> None:
    home.configure(f'{STORES}[stores.odd]\nurl = "ftp://server/b"\n[copies]\nrequire = 2\n')
    run = home.backup()
    assert run.code == 0
    assert [copy["ok"] for copy in run.json["copies"]] == [True, True, False]
    assert "cannot open this ftp: store" in run.json["copies"][2]["error"]
    assert [store["lag"] for store in home.ok("status", "--json").json["stores"]] == [0, 0, 0, 1]


def test_a_store_that_had_copies_and_is_empty_is_not_filled_unasked(home: Home) -> None:
    """A disk that is not mounted leaves an empty directory, on another disk."""
    home.copies()
    shutil.rmtree(home.home / "usb")
    (home.home / "usb").mkdir()
    run = home.backup()
    assert run.code == 3
    assert "no repository" in run.json["copies"][0]["error"]
    assert "mount" in run.err
    assert home("copy", "--all").code == 3
    assert os.listdir(home.home / "usb") == []
    home.ok("copy", "--to", "usb")
    assert all(copy["ok"] for copy in home.copies().values())
    assert_equal(home, "usb")


def test_as_many_as_required_are_enough(home: Home) -> None:
    home.configure(f"{STORES}[copies]\nrequire = 1\n")
    home.broken("usb")
    run = home.backup()
    assert run.code == 0
    assert [copy["ok"] for copy in run.json["copies"]] == [False, True]
    assert "usb" in run.err
    home.configure(f"{STORES}[copies]\nrequire = 2\n")
    assert home.backup().code == 3
    home.configure(f"{STORES}[copies]\nrequire = 0\n")
    (home.home / "box.db").unlink()
    home.broken("box.db")
    assert home.backup().code == 0


def test_a_store_that_lags_too_far_is_told_even_if_enough_others_are_up_to_date(home: Home) -> None:
    home.configure(f"{STORES}[copies]\nrequire = 1\nmax_lag = 2\n")
    home.copies()
    home.broken("usb")
    assert [home.backup().code for _ in range(3)] == [0, 0, 3]
    run = home("copy", "--all", "--json")
    assert run.code == 3
    assert run.json["copies"][0]["lag"] == 3
    text = home("backup", "source")
    assert text.code == 3
    assert "lacks 4 snapshots" in text.err
    assert "drkit copy --to usb" in text.err


def test_without_copies_and_for_a_dry_run_no_store_is_touched(home: Home) -> None:
    assert home.copies("--no-copies") == {}
    assert home.copies("--dry-run") == {}
    assert not (home.home / "usb").exists()
    assert not (home.home / "box.db").exists()


def test_the_stores_are_those_of_the_repository_that_the_file_names(home: Home) -> None:
    """Another one must never be copied into them."""
    home.ok("init", "--repo", "other")
    assert home.copies("--repo", "other") == {}
    assert not (home.home / "usb").exists()
    refused = home("copy", "--all", "--repo", "other", "--json")
    assert refused.code == 2
    assert "no stores" in refused.error["message"]
    home.copies()
    assert set(home.copies("--repo", "usb")) == {"box"}, "a copy that is backed up to is brought nowhere but to others"
    home.configure(STORES.replace('repo = "repo"\n', ""))
    assert set(home.copies("--repo", "repo")) == {"usb", "box"}
    alone = home.ok("repair", "--repo", "other", "--json")
    assert alone.json["sources"] == []
    assert "another repository" in alone.err
    stranger = home.backup("--repo", "other")
    assert stranger.code == 3
    assert "another repository" in stranger.json["copies"][0]["error"]


def test_the_repository_may_be_one_of_the_stores(home: Home) -> None:
    home.configure('repo = "main"\n[stores.main]\nurl = "repo"\n[stores.usb]\nurl = "usb"\n')
    assert set(home.copies()) == {"usb"}
    assert_equal(home, "usb")


def test_the_repository_under_another_name_is_no_copy_of_itself(home: Home) -> None:
    os.symlink("repo", home.home / "usb")
    run = home.backup()
    assert run.code == 3
    usb, box = run.json["copies"]
    assert (usb["ok"], box["ok"]) == (False, True)
    assert "are the same store" in usb["error"]


def test_damage_here_does_not_go_and_is_told(home: Home) -> None:
    home.copies("--no-copies")
    pack = next((home.home / "repo/packs").rglob("*.zst"))
    pack.chmod(0o600)
    pack.write_bytes(bytes(pack.stat().st_size))
    run = home.backup()
    assert run.code == 3
    assert all(not copy["ok"] and pack.name in copy["error"] for copy in run.json["copies"])


def test_an_append_only_store_is_never_asked_to_replace(home: Home) -> None:
    home.configure(STORES.replace('url = "usb"', 'url = "usb"\nappend_only = true'))
    home.copies()
    home.copies()
    for _ in range(3):
        home.backup("--no-copies")
    home.ok("forget", "--keep-last", "2")
    home.ok("prune", "--max-unused", "0")
    assert home.copies()["usb"]["ok"]
    home.ok("forget", "--keep-last", "1")
    home.ok("prune", "--max-unused", "0")
    assert home.copies()["usb"]["ok"]
    denied = home("forget", "--keep-last", "1", "--repo", "usb", "--json")
    assert denied.code == 13
    assert "append-only" in denied.error["message"]
    assert home.ok("verify", "--all", "--store", "usb", "--json").json["ok"]


def test_an_encrypted_repository_and_its_copies(home: Home) -> None:
    shutil.rmtree(home.home / "repo")
    home.configure(STORES.replace('url = "usb"', 'url = "usb"\nappend_only = true'))
    keyed = Home(home.home, DRKIT_PASSWORD="correct horse")
    keyed.ok("init", "--encrypt")
    assert all(copy["created"] and copy["lag"] == 0 for copy in keyed.copies().values())
    assert all(copy["snapshots"] == 1 for copy in keyed.copies().values())
    assert home.backup().code == 12
    assert home.ok("status", "--json").json["stores"][1]["lag"] == 0, "the inventory is not encrypted"
    shutil.rmtree(home.home / "repo/packs")
    assert len(keyed.ok("repair", "--json").json["sources"]) == 2
    for name in ("repo", "usb", "box"):
        assert keyed.ok("verify", "--all", "--store", name, "--level", "restore", "--json").json["ok"]


def test_a_bare_machine_is_told_every_store_that_is_left(home: Home) -> None:
    with serving(home.home / "turso.db") as server:
        online = Home(home.home, TURSO_DATABASE_URL=server.url, TURSO_AUTH_TOKEN=TOKEN)
        online.configure(f'{STORES}[stores.away]\nurl = "turso:"\n')
        made = online.backup()
        assert made.code == 0
        for name in ("repo", "data", "source"):
            shutil.rmtree(home.home / name)
        commands = online.ok("inventory", "pull", "--json").json["commands"]
        stores = [shlex.split(command)[4] for command in commands]
        assert set(stores) == {copy["url"] for copy in made.json["copies"]} | {home.store("repo")}
        command = next(command for command in commands if "turso+http" in command)
        assert online.ok(*shlex.split(command)[1:], "--json").json["tree_sha256"] == made.json["tree_sha256"]


# By hand


def test_copy_to_a_name_and_to_all(home: Home) -> None:
    home.backup("--no-copies")
    planned = home.ok("copy", "--all", "--dry-run", "--json").json
    assert [copy["snapshots"] for copy in planned["copies"]] == [1, 1]
    assert not (home.home / "usb").exists()
    one = home.ok("copy", "--to", "usb", "--json").json
    assert one["target"] == home.store("usb")
    assert one["copies"][0]["name"] == "usb"
    every = home.ok("copy", "--all", "--json").json
    assert [copy["snapshots"] for copy in every["copies"]] == [0, 1]
    assert every["packs"] == one["packs"]
    assert_equal(home, "usb")
    assert home("copy", "--json").error["code"] == 2
    assert home("copy", "--all", "--to", "usb", "--json").error["code"] == 2


def test_a_misspelt_name_does_not_become_a_directory(home: Home) -> None:
    """It would look like a copy far away, and be one on this disk."""
    home.backup("--no-copies")
    run = home("copy", "--to", "ubs")
    assert (run.code, "names no store 'ubs'; it has usb, box" in run.err) == (2, True)
    assert not (home.home / "ubs").exists()
    home.ok("copy", "--to", "./ubs")
    home.ok("copy", "--to", "ubs")


def test_copy_to_all_tells_what_failed_and_does_the_rest(home: Home) -> None:
    home.backup("--no-copies")
    home.broken("usb")
    run = home("copy", "--all")
    assert run.code == 3
    assert "usb" in run.err
    assert "box.db" in run.text
    home.mended("usb")
    assert home("copy", "--all").code == 0


def test_repair_takes_the_stores_of_the_file(home: Home) -> None:
    home.copies()
    pack = next((home.home / "repo/packs").rglob("*.zst"))
    pack.unlink()
    home.broken("usb")
    run = home.ok("repair", "--json")
    assert run.json["sources"] == [f"libsql-file:{home.store('box.db')}"]
    assert run.json["healed"][0]["source"] == run.json["sources"][0]
    assert "usb" in run.err
    assert home.ok("verify", "--all", "--json").json["ok"]
    home.mended("usb")
    shutil.rmtree(home.home / "usb/packs")
    mended = home.ok("repair", "--repo", "usb", "--json").json
    assert mended["sources"] == [home.store("repo"), f"libsql-file:{home.store('box.db')}"]
    assert_equal(home, "usb")
    shutil.rmtree(home.home / "repo")
    assert home.ok("repair", "--from", "box", "--json").json["sources"] == [f"libsql-file:{home.store('box.db')}"]
    assert home.ok("verify", "--all", "--json").json["ok"]


def test_one_place_is_lost_another_is_damaged_and_everything_comes_back(home: Home) -> None:
    for _ in range(3):
        made = home.backup()
    before = {path: path.read_bytes() for path in (home.home / "source").rglob("*") if path.is_file()}
    shutil.rmtree(home.home / "repo")
    for pack in (home.home / "usb/packs").rglob("*.zst"):
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(data)
    shutil.rmtree(home.home / "source")
    assert home.ok("repair", "--json").json["ok"]
    assert home.ok("repair", "--repo", "usb", "--json").json["ok"]
    for name in ("repo", "usb", "box"):
        back = home.ok("restore", "latest", "--repo", name, "--target", f"back-{name}", "--json").json
        assert back["tree_sha256"] == made.json["tree_sha256"]
        for path, content in before.items():
            assert (home.home / f"back-{name}" / path.relative_to(home.home / "source")).read_bytes() == content


def test_a_name_is_taken_wherever_a_store_is(home: Home) -> None:
    home.copies()
    assert home.ok("drill", "--store", "usb", "--json").json["drills"][0]["store"] == home.store("usb")
    assert home.ok("plugins", "--repo", "box", "--json").json["plugins"][0]["path"] == "one"
    there = Cli(home.home, DRKIT_REPO="box")
    assert there.ok("restore-plugin", "one", "--target", "out", "--json").json["lost"] == []
    assert home("doctor", "--store", "box", "--json").json["abilities"][0]["ok"]
    (home.home / "box").mkdir()
    assert home("snapshots", "--repo", "./box", "--json").error["code"] == 10


def test_a_turso_database_is_kept_in_step(home: Home) -> None:
    with serving(home.home / "turso.db") as server:
        online = Home(home.home, TURSO_DATABASE_URL=server.url, TURSO_AUTH_TOKEN=TOKEN)
        online.configure('repo = "repo"\n[stores.away]\nurl = "turso:"\n')
        assert online.copies()["away"]["lag"] == 0
        assert online.copies()["away"]["snapshots"] == 1
        shown = online("status", "--json").json["stores"]
        assert [(store["name"], store["lag"]) for store in shown] == [("repo", 0), ("away", 0)]
    run = online.backup()
    assert run.code == 3
    assert not run.json["copies"][0]["ok"]
    assert run.json["copies"][0]["lag"] == 1
