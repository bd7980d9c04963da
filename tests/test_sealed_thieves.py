"""No thief's change of the store of an encrypted repository goes unseen."""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from drkit import recovery
from drkit.repo import Repository
from drkit.seal.secret import read_key_file
from drkit.store.local import LocalStore
from tests.support.cli import Run
from tests.support.mini_repo import scan
from tests.support.recovering import run
from tests.support.sealed import Home, as_new, made_once


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory.mktemp("sealed") / "home")


@pytest.fixture
def home(made: Path) -> Home:
    return as_new(made)


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
