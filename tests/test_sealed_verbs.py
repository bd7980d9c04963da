"""Every command works on an encrypted repository as on a plain one."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mini_repo import scan
from tests.support.recovering import run
from tests.support.sealed import PLUGIN, Home, as_new, made_once


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory.mktemp("sealed") / "home")


@pytest.fixture
def home(made: Path) -> Home:
    return as_new(made)


def test_backup_verify_restore_and_looking(home: Home) -> None:
    for level in ("exists", "packs", "content", "restore"):
        assert home.cli.ok("verify", "--all", "--level", level, "--json").json["findings"] == []
    assert home.restored()
    home.cli.ok("restore-plugin", PLUGIN, "--target", str(home.path / "plugin"))
    assert scan(home.path / "plugin") == scan(home.source / PLUGIN)
    snapshots = [one["id"] for one in home.cli.ok("snapshots", "--json").json["snapshots"]]
    assert len(snapshots) == 3
    assert home.cli.ok("diff", *snapshots[:2], "--json").json["modified"] == [f"{PLUGIN}/skills/s0.md"]
    content = (home.source / PLUGIN / "skills/s0.md").read_bytes()
    assert home.cli.ok("cat", "latest", f"{PLUGIN}/skills/s0.md").out == content
    assert hashlib.sha256(content).hexdigest() in home.cli.ok("manifest", "latest", "--sha256sums").text
    assert f"{PLUGIN}/skills/s4.md" in home.cli.ok("find", "s4.md").text
    unchanged = home.cli.ok("backup", str(home.source), "--json").json
    assert unchanged["files_unchanged"] == unchanged["files"]


def test_nothing_is_told_without_the_key(home: Home) -> None:
    (home.path / "wrong").write_text("A" * 43 + "=\n")
    before = home.objects()
    commands = (
        ("backup", str(home.source)), ("snapshots",), ("verify",), ("restore", "--target", str(home.path / "t")),
        ("copy", "--to", str(home.path / "new")), ("prune",), ("forget", "--keep-last", "1"), ("repair",),
        ("ls",), ("drill",), ("guard", "check", PLUGIN, "--source", str(home.source)),
    )  # fmt: skip
    for value, message in ((str(home.path / "wrong"), "does not open"), ("", "no key was given")):
        home.cli.environ["DRKIT_KEY_FILE"] = value
        refused = {command[0]: home.cli(*command) for command in commands}
        assert {name: one.code for name, one in refused.items()} == dict.fromkeys(refused, 12)
        assert all(message in one.err for one in refused.values())
        assert len({one.err for name, one in refused.items() if name != "guard"}) == 1
    assert home.objects() == before
    assert not (home.path / "new").exists()
    assert not (home.path / "t").exists()


def test_a_copy_has_the_same_keys_and_names_and_other_bytes(home: Home) -> None:
    here, there = home.objects(), home.objects(root=home.copy)
    clear = {name for name in here if not name.endswith(".enc")}
    assert {name for name in here if name.startswith(("packs/", "snapshots/"))} <= there.keys()
    assert {name: here[name] for name in clear} == {name: there[name] for name in clear}
    assert [name for name in there if name.startswith("packs/") and there[name] == here[name]] == []
    assert home.restored("--repo", str(home.copy))
    assert run(home.copy, "--check", "--key-file", home.key).code == 0
    home.write("later", b"than the copy")
    home.back_up()
    again = home.cli.ok("copy", "--to", str(home.copy), "--json").json
    assert (len(again["snapshots"]), len(again["packs"])) == (1, 1)
    assert home.restored("--repo", str(home.copy))


def test_a_copy_into_another_repository_is_refused(home: Home) -> None:
    del home.cli.environ["DRKIT_KEY_FILE"]
    home.cli.ok("init", "--repo", str(home.path / "plain"))
    home.cli.environ["DRKIT_KEY_FILE"] = str(home.key)
    before = home.objects(root=home.path / "plain")
    assert home.cli("copy", "--to", str(home.path / "plain")).code == 2
    assert home.objects(root=home.path / "plain") == before


def test_forget_and_prune(home: Home) -> None:
    before = home.objects("packs")
    home.cli.ok("forget", "--keep-last", "1", "--prune")
    assert not before.keys() & home.objects("packs").keys()
    assert len(home.objects("snapshots")) == 1
    assert home.cli.ok("verify", "--level", "content", "--json").json["findings"] == []
    assert home.restored()
    assert run(home.repo, "--check", "--key-file", home.key).code == 0


@pytest.mark.parametrize("at", [0, 1, 2, 20, 70_000, -1])
def test_a_changed_pack_is_found_and_healed_from_a_copy(home: Home, at: int) -> None:
    name = home.largest_pack()
    at %= len(home.objects()[name])
    home.flip(name, at)
    found = home.cli("verify", "--all", "--level", "packs", "--json")
    assert found.code == 20
    assert "does not authenticate" in str(found.json["findings"]) or at == 1
    healed = home.cli.ok("repair", "--from", str(home.copy), "--json").json
    assert {one["object"] for one in healed["healed"]} <= {one["object"] for one in found.json["findings"]}
    assert len(healed["quarantined"]) == 1
    assert home.cli.ok("verify", "--all", "--level", "content", "--json").json["findings"] == []
    assert home.restored()


def test_without_a_copy_only_what_was_hit_is_lost(home: Home) -> None:
    name = home.largest_pack()
    home.flip(name, 150_000)
    target = home.path / "target"
    done = home.cli("restore", "--target", str(target), "--json")
    assert done.code == 3
    lost = {one["path"] if isinstance(one, dict) else one for one in done.json["lost"]}
    files = {path.relative_to(home.source).as_posix(): path.read_bytes() for path in home.source.rglob("*.md")}
    back = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*.md")}
    assert back.items() <= files.items()
    assert files.keys() - back.keys() == lost & files.keys()
    assert len(back) >= 4, "what lies before the damage in its frame is kept"


def _delete(folder: str) -> Callable[[Home], None]:
    return lambda home: shutil.rmtree(home.repo / folder)


def _damage_settings(home: Home) -> None:
    for name in ("drkit.json", "drkit-copy.json"):
        home.change(name, b"{}")


def _damage_slots(home: Home) -> None:
    for name in home.objects("keys"):
        home.flip(name, 20)


@pytest.mark.parametrize(
    ("harm", "code"),
    [(_delete("packs"), 20), (_delete("index"), 0), (_delete("snapshots"), 2), (_damage_settings, 20)],
)
def test_what_a_copy_brings_back(home: Home, harm: Callable[[Home], None], code: int) -> None:
    harm(home)
    assert home.cli("verify", "--level", "packs").code in {code, 3}
    home.cli.ok("repair", "--from", str(home.copy))
    assert home.cli.ok("verify", "--all", "--level", "content", "--json").json["findings"] == []
    assert home.restored()


@pytest.mark.parametrize("harm", [_delete("keys"), _damage_slots])
def test_key_slots_come_back_from_a_copy(home: Home, harm: Callable[[Home], None]) -> None:
    harm(home)
    assert home.cli("snapshots").code in {12, 20}
    assert home.cli("repair", "--from", str(home.copy)).code == 0
    assert home.restored()


def test_one_damaged_copy_of_a_slot_or_of_the_settings_is_told_and_healed(home: Home) -> None:
    first, _ = home.objects("keys")
    home.flip(first, 30)
    home.flip("drkit-copy.json", 30)
    assert home.restored() or home.cli("snapshots").code == 3
    healed = home.cli.ok("repair", "--json").json
    assert {"drkit-copy.json", first} <= {one["object"] for one in healed["healed"]}
    assert run(home.repo, "--list", "--key-file", home.key).err == ""


def test_a_store_that_lost_everything_comes_back(home: Home) -> None:
    shutil.rmtree(home.repo)
    home.repo.mkdir()
    home.cli.ok("repair", "--from", str(home.copy))
    assert home.restored()
    home.more()
    assert home.restored()


def test_drills(home: Home) -> None:
    for arguments in (("--sample", "2"), ("--full",), ("--full", "--standalone"), ("--plugin", PLUGIN, "--standalone")):
        assert home.cli.ok("drill", *arguments, "--json").json["passed"], arguments
    day = home.cli.ok("drill", "--game-day", "--json").json
    assert day["passed"]
    del home.cli.environ["DRKIT_KEY_FILE"]
    assert home.cli("drill", "--full", "--standalone").code == 12


def test_guarded_edits(home: Home) -> None:
    edited = home.source / PLUGIN / "skills/s0.md"
    assert home.cli.ok("guard", "check", PLUGIN, "--source", str(home.source), "--json").json["permitted"]
    command = ("guard", "exec", PLUGIN, "--source", str(home.source), "--json", "--")
    done = home.cli.ok(*command, "sh", "-c", f"echo edited > {edited}").json
    assert (done["passed"], done["changed"]) == (True, [f"{PLUGIN}/skills/s0.md"])
    before = scan(home.source)
    refused = home.cli(*command, "sh", "-c", f"echo spoilt > {edited}; rm -r {home.source}/plugins/p2; false")
    assert refused.code == 30
    assert scan(home.source) == before


def test_the_inventory_comes_back_from_the_sealed_rows(home: Home) -> None:
    (home.path / "data/drkit/inventory.db").unlink()
    assert home.cli.ok("inventory", "rebuild", "--json").json["snapshots"] == 0  # all were recorded
    counted = home.cli.ok("inventory", "sql", "SELECT count(*) AS n FROM snapshots", "--json").json
    assert counted["rows"] == [[3]]
