"""Every command works on an encrypted repository as on a plain one, and no thief's change of its store goes unseen."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from drkit import recovery
from drkit.repo import Repository
from drkit.seal.secret import read_key_file
from drkit.store.local import LocalStore
from tests.support.cli import Cli, Run
from tests.support.mini_repo import scan
from tests.support.recovering import run

PLUGIN = "plugins/p1"


class Home:
    """A source of six plugins, and an encrypted repository with a backup of it, opened with a key file."""

    def __init__(self, path: Path) -> None:
        self.path, self.source, self.repo, self.copy = path, path / "source", path / "repo", path / "copy"
        self.key = path / "key"
        self.cli = Cli(path, DRKIT_REPO=str(self.repo), DRKIT_KEY_FILE=str(self.key), DRKIT_STATE_DIR=str(path / "s"))
        for number in range(6):
            self.write(f"plugins/p{number}/.claude-plugin/plugin.json", b'{"name":"p%d"}' % number)
            for skill in range(5):
                content = hashlib.shake_256(b"%d %d" % (number, skill)).digest(30_000)
                self.write(f"plugins/p{number}/skills/s{skill}.md", content)
        del self.cli.environ["DRKIT_KEY_FILE"]  # there is none yet: init makes it
        self.cli.ok("init", "--encrypt", "--key-file", str(self.key))
        self.cli.environ["DRKIT_KEY_FILE"] = str(self.key)
        self.back_up()

    def write(self, path: str, data: bytes) -> None:
        (self.source / path).parent.mkdir(parents=True, exist_ok=True)
        (self.source / path).write_bytes(data)

    def back_up(self) -> str:
        return str(self.cli.ok("backup", str(self.source), "--json").json["snapshot"])

    def more(self) -> None:
        """Two more backups, each with something new."""
        for number in range(2):
            self.write(f"{PLUGIN}/skills/s{number}.md", os.urandom(20_000))
            self.back_up()

    def restored(self, *arguments: str) -> bool:
        """Whether everything comes back, equal to the source."""
        target = self.path / "target"
        shutil.rmtree(target, ignore_errors=True)
        done = self.cli("restore", "--target", str(target), *arguments)
        return done.code == 0 and scan(target) == scan(self.source)

    def objects(self, folder: str = "", root: Path | None = None) -> dict[str, bytes]:
        root = root or self.repo
        files = (path for path in sorted((root / folder).rglob("*")) if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}

    def change(self, name: str, data: bytes) -> None:
        path = self.repo / name
        path.chmod(0o644)
        path.write_bytes(data)

    def flip(self, name: str, at: int) -> None:
        data = (self.repo / name).read_bytes()
        self.change(name, data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])

    def largest_pack(self) -> str:
        packs = self.objects("packs")
        return max(packs, key=lambda name: len(packs[name]))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three snapshots and a copy, made once; each test gets its own at the same path."""
    home = Home(tmp_path_factory.mktemp("sealed") / "home")
    home.more()
    home.cli.ok("copy", "--to", str(home.copy), "--verify", "content")
    shutil.copytree(home.path, home.path.with_name("kept"), symlinks=True)
    return home.path


@pytest.fixture
def home(made: Path) -> Home:
    shutil.rmtree(made)
    shutil.copytree(made.with_name("kept"), made, symlinks=True)
    found = Home.__new__(Home)
    found.path, found.source, found.repo, found.copy = made, made / "source", made / "repo", made / "copy"
    found.key = made / "key"
    found.cli = Cli(made, DRKIT_REPO=str(found.repo), DRKIT_KEY_FILE=str(found.key), DRKIT_STATE_DIR=str(made / "s"))
    return found


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


# -- thieves


def test_a_repository_that_is_not_encrypted_any_more_gets_no_backup(home: Home) -> None:
    """Somebody puts a plain repository in its place, to have the next night's files in clear."""
    plain = home.path / "plain"
    del home.cli.environ["DRKIT_KEY_FILE"]
    home.cli.ok("init", "--repo", str(plain))
    home.cli.environ["DRKIT_KEY_FILE"] = str(home.key)
    shutil.rmtree(home.repo)
    shutil.copytree(plain, home.repo)
    before = home.objects()
    done = home.cli("backup", str(home.source))
    assert (done.code, "is not encrypted" in done.err) == (2, True)
    assert home.objects() == before
    looked = home.cli("snapshots")
    assert (looked.code, "not encrypted" in looked.err) == (3, True)
    told = run(home.repo, "--list", "--key-file", home.key)
    assert "is not encrypted" in told.err


def _forged(home: Home, **changes: object) -> None:
    for name in ("drkit.json", "drkit-copy.json"):
        record = json.loads((home.repo / name).read_bytes())
        del record["checksum"]
        record |= changes
        text = json.dumps(record, sort_keys=True, separators=(",", ":"))
        record["checksum"] = hashlib.sha256(text.encode()).hexdigest()
        home.change(name, json.dumps(record).encode())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"repository_id": "f" * 32}, 12),
        ({"format": {"major": 1, "minor": 0, "requires": []}}, 20),
        ({"format": {"major": 1, "minor": 5, "requires": ["encryption"]}}, 20),
        ({"sealed": ""}, 20),
        ({"encryption": {"kdf": {"salt": "AAAAAAAAAAAAAAAAAAAAAA=="}, "cipher": "AES-256-GCM"}}, 12),
        ({"encryption": {"kdf": {"salt": "AAAA", "n": 1 << 30}, "cipher": "AES-256-GCM"}}, 20),
    ],
)
def test_forged_settings(home: Home, changes: dict[str, object], code: int) -> None:
    _forged(home, **changes)
    before = home.objects()
    for command in (("snapshots",), ("backup", str(home.source)), ("verify",)):
        assert home.cli(*command).code == code, command
    assert home.objects() == before


def test_going_back_in_time_is_seen_by_the_inventory(home: Home) -> None:
    yesterday = home.path / "yesterday"
    shutil.copytree(home.repo, yesterday)
    home.more()
    shutil.rmtree(home.repo)
    shutil.copytree(yesterday, home.repo)
    assert home.cli.ok("verify", "--all", "--level", "content", "--json").json["findings"] == []
    done = home.cli("doctor", "--json")
    assert (done.code, "snapshot-vanished" in codes(done)) == (20, True)
    shutil.rmtree(home.repo / "snapshots")
    assert "snapshot-vanished" in codes(home.cli("doctor", "--json"))
    home.back_up()
    assert "snapshot-vanished" not in codes(home.cli("doctor", "--json"))


def test_a_false_recover_py_is_seen_and_put_right(home: Home) -> None:
    home.change("recover.py", b"import os; os.system('steal')\n")
    assert "recovery-differs" in codes(home.cli("doctor", "--json"))
    home.cli.ok("repair")
    assert (home.repo / "recover.py").read_bytes() == recovery.files()["recover.py"]


def codes(done: Run) -> set[str]:
    return {finding["code"] for finding in done.json["findings"]}


def test_a_forged_slot_takes_no_slot_of_a_copy_away(home: Home) -> None:
    """Slots lie in clear: whoever can write here could else have the copies lose the sheet of paper."""
    home.cli.ok("key", "export")
    home.cli.ok("copy", "--to", str(home.copy))
    sheet = next(name for name, data in home.objects("keys").items() if b"sheet" in data and "-copy" not in name)
    kept = home.objects("keys", home.copy)
    for name in (sheet, sheet.replace(".json", "-copy.json")):
        (home.repo / name).unlink()
    record = {"kind": "keyfile", "created": "2030-01-01T00:00:00+00:00", "host": "x", "label": "", "wrapped": "AAAA"}
    data = json.dumps({**record, "replaces": [sheet[5:69]]}).encode()
    (home.repo / f"keys/{hashlib.sha256(data).hexdigest()}.json").write_bytes(data)
    home.write("more", b"to copy")
    home.back_up()
    assert home.cli("copy", "--to", str(home.copy)).code in {0, 3}
    assert kept.items() <= home.objects("keys", home.copy).items()
    # A real rotation does.
    home.cli.ok("key", "rotate", "--drop-others")
    home.cli.ok("copy", "--to", str(home.copy))
    assert not kept.keys() & home.objects("keys", home.copy).keys()


def test_objects_of_another_repository_with_the_same_key_are_strangers(home: Home) -> None:
    other = home.path / "other"
    Repository.create(LocalStore(str(other)), now=datetime.now(UTC), secrets=(read_key_file(str(home.key)),))
    home.cli.ok("backup", str(home.source / "plugins"), "--repo", str(other))
    for name, data in home.objects(root=other).items():
        if name.startswith(("snapshots/", "packs/", "index/")):
            (home.repo / name).parent.mkdir(exist_ok=True)
            (home.repo / name).write_bytes(data)
    done = home.cli("verify", "--all", "--level", "content", "--json")
    assert done.code == 20
    assert {finding["object"].rpartition(" (")[2] for finding in done.json["findings"]} == {"not sealed)"}
    assert len(home.cli("snapshots", "--json").json["snapshots"]) == 3
    assert home.cli("restore", "--target", str(home.path / "target")).code in {0, 3}
    assert scan(home.path / "target") == scan(home.source)


def test_snapshots_under_each_others_names(home: Home) -> None:
    snapshots = home.objects("snapshots")
    first, second, third = snapshots
    home.change(first, snapshots[third])
    home.change(third, snapshots[first])
    assert home.cli("verify", "--all").code == 20
    assert home.cli("restore", "--target", str(home.path / "target")).code == 3  # the second, and it says so
    home.cli.ok("repair", "--from", str(home.copy))
    assert home.restored()
    assert home.objects("snapshots").keys() == {first, second, third}


def test_an_old_prune_record_and_old_hints_lose_nothing(home: Home) -> None:
    """Objects that change may be replayed: the worst is that something is stored again."""
    home.cli.ok("forget", "--keep-last", "2", "--prune")
    old = {name: data for name, data in home.objects().items() if name.startswith(("prunes/", "hints/"))}
    assert {name.split("/")[0] for name in old} == {"prunes", "hints"}
    home.more()
    home.cli.ok("forget", "--keep-last", "1", "--prune")
    for name, data in old.items():
        (home.repo / name).unlink(missing_ok=True)
        (home.repo / name).write_bytes(data)
    assert home.cli.ok("verify", "--all", "--level", "content", "--json").json["findings"] == []
    home.write("new", b"file")
    home.back_up()
    assert home.restored()
