"""The inventory as a witness: a repository that was rewritten is without fault in itself, but not what was made."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs

from drkit.clock import utc_now
from drkit.format import snapshot as snapshot_format
from drkit.inventory import Inventory
from drkit.model import Level
from drkit.progress import NullProgress
from drkit.repo import Repository, SnapshotRef
from drkit.store import open_store
from drkit.verify import verify
from tests.support.cli import Cli


@pytest.fixture
def drkit(tmp_path: Path) -> Cli:
    """A source with a backup in the repository `repo`, told to the inventory `inventory.db`."""
    drkit = Cli(tmp_path, DRKIT_REPO="repo", DRKIT_INVENTORY="inventory.db")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/README.md").write_bytes(b"hello\n")
    drkit.ok("init")
    drkit.ok("backup", "source")
    return drkit


@pytest.fixture
def repo(tmp_path: Path, drkit: Cli) -> Repository:
    """The same repository, opened."""
    return Repository.open(open_store(str(tmp_path / "repo")))


def replace(repo: Repository, ref: SnapshotRef) -> SnapshotRef:
    """Put another snapshot in the place of one, as somebody would who can write to the repository."""
    name, data = snapshot_format.encode(structs.replace(repo.load(ref), host="elsewhere"))
    repo.store.put(name, data)
    repo.store.delete(ref.name)
    return repo.resolve("latest")


def test_verify_believes_the_inventory(drkit: Cli, repo: Repository) -> None:
    assert drkit.ok("--json", "verify").json["ok"]
    before = repo.resolve("latest")
    after = replace(repo, before)
    assert (after.time, after.id != before.id) == (before.time, True)
    assert verify(repo, [after], level=Level.CONTENT, progress=NullProgress()).ok
    for options in ([], ["--all", "--level", "exists"]):
        run = drkit("--json", "verify", *options)
        assert run.code == 20
        assert [finding["code"] for finding in run.json["findings"]] == ["snapshot-replaced"]
        assert before.id in run.json["findings"][0]["message"]


def test_another_tree_hash_is_a_finding_too(repo: Repository) -> None:
    ref = repo.resolve("latest")
    tree = repo.load(ref).tree_sha256
    for told, codes in [((ref.id, tree), []), (None, []), ((ref.id, "0" * 64), ["snapshot-replaced"])]:
        report = verify(repo, [ref], level=Level.EXISTS, witness=lambda _: told, progress=NullProgress())  # noqa: B023
        assert [finding.code for finding in report.findings] == codes


def test_without_an_inventory_nothing_is_missed(drkit: Cli, tmp_path: Path) -> None:
    (tmp_path / "inventory.db").unlink()
    assert drkit.ok("--json", "verify").json["ok"]


def test_the_inventory_in_the_source_is_dumped(drkit: Cli, tmp_path: Path) -> None:
    source, restored = tmp_path / "source", tmp_path / "restored"
    inside = Cli(tmp_path, DRKIT_REPO="repo", DRKIT_INVENTORY="source/inventory.db")
    for number in (1, 2):
        (source / "README.md").write_bytes(b"hello\n" * number)
        assert inside.ok("--json", "backup", "source").json["warnings"] == []
    assert sorted(os.listdir(source)) == ["README.md", "inventory.db"]
    inside.ok("restore", "--target", "restored")
    assert sorted(os.listdir(restored)) == ["README.md", "inventory.db"]
    with closing(sqlite3.connect(restored / "inventory.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM snapshots").fetchall() == [(1,)]


_OTHER = """
import sys
from drkit.clock import utc_now
from drkit.inventory import Inventory

with Inventory.open(sys.argv[1].encode(), now=utc_now) as inventory:
    for number in range(400):
        inventory.record("other", {"number": number}, {}, repo_id="r")
"""


@pytest.mark.parametrize("ours", [True, False], ids=["our own inventory", "that of somebody else"])
def test_no_row_of_another_process_is_lost(drkit: Cli, tmp_path: Path, *, ours: bool) -> None:
    path = tmp_path / "source/inventory.db"
    place = Cli(tmp_path, DRKIT_REPO="repo", DRKIT_INVENTORY=str(path if ours else tmp_path / "inventory.db"))
    Inventory.open(os.fsencode(path), now=utc_now).close()
    backups = 0
    with subprocess.Popen([sys.executable, "-c", _OTHER, str(path)]) as other:
        while other.poll() is None and backups < 100:
            assert place.ok("--json", "backup", "source").json["warnings"] == []
            backups += 1
        assert other.wait(timeout=60) == 0
    place.ok("restore", "--target", "restored")
    for found, least, most in ((path, 400, 400), (tmp_path / "restored/inventory.db", 0, 400)):
        with closing(sqlite3.connect(found)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            events = dict(db.execute("SELECT event, count(*) FROM audit GROUP BY event"))
        assert least <= events.get("other", 0) <= most
    assert backups > 0
