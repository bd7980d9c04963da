"""Copies: what goes, in which order, what is refused, and that a kill anywhere costs nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drkit.copy import CopyReport, copy
from drkit.errors import IntegrityError, LockedError, NoSpace, StoreError, UsageError
from drkit.model import Level
from drkit.progress import NullProgress
from drkit.repair import repair
from drkit.repo import Repository
from drkit.repo.lock import BackupLock, PruneLock
from drkit.repo.names import pack_name
from drkit.store import LocalStore, MemoryStore, Store, open_store
from drkit.verify import verify
from tests.support.cli import Cli
from tests.support.faults import FaultyStore
from tests.support.hrana import TOKEN, serving
from tests.support.repos import START, Bench, contents, names, pack_ids, small_packs

ROOT = Path(__file__).parent.parent


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    small_packs(monkeypatch)
    bench = Bench(tmp_path)
    for number in range(20):
        bench.plugin(f"plugins/p{number}")
    bench.back_up()
    return bench


def copied(bench: Bench, target: Store, *, dry_run: bool = False) -> CopyReport:
    return copy(bench.repo, target, dry_run=dry_run, progress=NullProgress(), now=lambda: bench.now)


def assert_equal(bench: Bench, target: Store) -> None:
    """All snapshots are there, whole to the level of content."""
    repo = Repository.open(target)
    report = verify(repo, repo.snapshots(), level=Level.CONTENT, every_pack=True, progress=NullProgress())
    assert report.findings == ()
    assert [ref.name for ref in repo.snapshots()] == [ref.name for ref in bench.repo.snapshots()]
    assert contents(repo) == bench.files()
    assert not repo.load_index().unindexed


def test_a_copy_is_the_repository(bench: Bench) -> None:
    target = MemoryStore("copy")
    report = copied(bench, target)
    assert report.created
    assert not report.findings
    assert len(report.packs) == len(pack_ids(bench.store)) > 5
    assert report.bytes == sum(info.size for info in bench.store.list("packs/"))
    assert_equal(bench, target)
    assert Repository.open(target).config == bench.repo.config
    assert names(target, "locks/") == []
    assert "recover.py" in names(target, "")


def test_only_what_is_new_is_sent(bench: Bench) -> None:
    target = MemoryStore("copy")
    copied(bench, target)
    before = {info.name: info for info in target.list("")}
    bench.write("plugins/p1/new.md", os.urandom(500))
    bench.back_up()
    planned = copied(bench, target, dry_run=True)
    assert {info.name: info for info in target.list("")} == before
    report = copied(bench, target)
    assert planned.packs == report.packs
    assert planned.snapshots == report.snapshots
    assert len(report.snapshots) == 1
    assert 0 < len(report.packs) < report.present
    del before["hints/newest.zst"]
    assert {info.name: info for info in target.list("") if info.name in before} == before
    assert_equal(bench, target)
    again = copied(bench, target)
    assert (again.packs, again.snapshots, again.bytes) == ((), (), 0)


def test_a_copy_that_breaks_off_anywhere_goes_on(bench: Bench) -> None:
    """Whatever put is the last that the target takes, no snapshot there lacks anything; the next copy completes it."""
    with FaultyStore(MemoryStore("copy")) as whole:
        copied(bench, whole)
    for number in range(whole.calls["put"] - 1):  # the last one is of hints that nobody needs
        target = MemoryStore("copy")
        with FaultyStore(target) as faulty:
            faulty.fail("put", after=number, times=None, error=NoSpace("full"))
            with pytest.raises(NoSpace):
                copied(bench, faulty)
        if names(target, "snapshots/"):
            assert_equal(bench, target)
        had = len(pack_ids(target))
        assert copied(bench, target).present == had
        assert_equal(bench, target)
    assert number > 10


def test_lost_answers_change_nothing(bench: Bench) -> None:
    target = MemoryStore("copy")
    with FaultyStore(target) as faulty:
        faulty.fail("put", prefix="packs/", after=2, error=StoreError("no answer"), done=True)
        with pytest.raises(StoreError, match="no answer"):
            copied(bench, faulty)
    copied(bench, target)
    assert_equal(bench, target)


def test_what_the_target_damages_is_put_again_or_told(bench: Bench) -> None:
    target = MemoryStore("copy")
    with FaultyStore(target) as faulty:
        faulty.corrupt("get", prefix="packs/", times=1)
        assert not copied(bench, faulty).findings
    assert_equal(bench, target)
    with FaultyStore(MemoryStore("other")) as faulty:
        faulty.corrupt("get", prefix="packs/", times=None)
        report = copied(bench, faulty)
        assert {finding.code for finding in report.findings} == {"copy-damaged", "snapshot-left-out"}
        assert (report.packs, report.snapshots, len(report.left_out)) == ((), (), 1)


def test_what_is_damaged_here_does_not_go(bench: Bench) -> None:
    good = bench.repo.snapshots()[0]
    bench.write("plugins/p1/new.md", os.urandom(500))
    known = set(pack_ids(bench.store))
    bench.back_up()
    bad = next(pack for pack in pack_ids(bench.store) if pack not in known)
    data = bytearray(bench.store.get(pack_name(bad)))
    data[0] ^= 1
    bench.store.put(pack_name(bad), data, overwrite=True)
    target = MemoryStore("copy")
    report = copied(bench, target)
    assert (report.findings[0].code, report.findings[0].object) == ("pack-damaged", pack_name(bad))
    assert report.snapshots == (good.id,)
    assert pack_name(bad) not in names(target, "packs/")
    repo = Repository.open(target)
    assert verify(repo, repo.snapshots(), level=Level.CONTENT, progress=NullProgress()).ok


def test_another_repository_and_the_same_store_are_refused(bench: Bench) -> None:
    other = MemoryStore("other")
    Repository.create(other, now=START)
    before = names(other, "")
    with pytest.raises(UsageError, match="another repository"):
        copied(bench, other)
    assert names(other, "") == before
    with pytest.raises(UsageError, match="the repository itself"):
        copied(bench, bench.store)


def test_a_prune_at_the_target_is_waited_for(bench: Bench) -> None:
    target = MemoryStore("copy")
    copied(bench, target)
    bench.back_up()
    with PruneLock(target, lambda: bench.now), pytest.raises(LockedError, match="a prune is working"):
        copied(bench, target)


def test_a_lock_that_is_taken_away_stops_the_snapshots(bench: Bench) -> None:
    target = MemoryStore("copy")

    def take_away() -> None:
        for name in names(target, "locks/"):
            target.delete(name)

    with FaultyStore(target) as faulty:
        faulty.act("put", take_away, prefix="index/")
        with pytest.raises(StoreError, match="lock of the copy was taken away"):
            copied(bench, faulty)
    assert names(target, "snapshots/") == []


@pytest.mark.parametrize("at", ["stat", "put"])
def test_two_first_copies_at_once_make_one_repository(bench: Bench, at: str) -> None:
    """The other comes between the look at an empty target and its settings, or between these two."""
    target = MemoryStore("copy")
    with FaultyStore(target) as faulty:
        faulty.act(at, lambda: copied(bench, target), prefix="drkit")
        report = copied(bench, faulty)
    assert not report.created
    assert_equal(bench, target)


def test_damaged_settings_at_the_target_lead_to_repair(bench: Bench) -> None:
    target = MemoryStore("copy")
    copied(bench, target)
    for name in ("drkit.json", "drkit-copy.json"):
        target.put(name, b"{}", overwrite=True)
    with pytest.raises(IntegrityError) as caught:
        copied(bench, target)
    assert "drkit repair" in caught.value.hint


def test_the_lock_is_that_of_a_backup(bench: Bench) -> None:
    """So that a prune of the target keeps what is being copied."""
    seen: list[str] = []
    target = MemoryStore("copy")
    with FaultyStore(target) as faulty:
        faulty.act("put", lambda: seen.extend(names(target, "locks/")), prefix="packs/", times=None)
        copied(bench, faulty)
    assert seen
    assert {name.startswith(f"locks/{BackupLock.kind}-") for name in seen} == {True}


# The command


def test_the_command_records_and_verifies(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LocalStore(str(tmp_path / "repo")))
    bench.plugin("plugins/a")
    cli = Cli(tmp_path, DRKIT_REPO=str(tmp_path / "repo"))
    assert cli("backup", str(bench.source)).code == 0
    planned = cli("copy", "--to", str(tmp_path / "copy"), "--dry-run", "--json")
    assert planned.code == 0
    assert not (tmp_path / "copy").exists()
    done = cli("copy", "--to", str(tmp_path / "copy"), "--verify", "content", "--json")
    assert done.code == 0
    assert done.json["snapshots"] == planned.json["snapshots"]
    assert done.json["verify"]["level"] == "content"
    assert done.json["verify"]["ok"]
    recorded = cli("inventory", "sql", "SELECT store, level, ok FROM verifications", "--json").json
    assert str(tmp_path / "copy") in str(recorded)
    packs = cli("inventory", "sql", "SELECT pack FROM copies WHERE store LIKE '%/copy'", "--json").json
    assert done.json["packs"][0] in str(packs)
    text = cli("copy", "--to", str(tmp_path / "copy"))
    assert text.code == 0
    assert "copied 0 snapshots in 0 packs" in text.text
    restored = cli("restore", "latest", "--repo", str(tmp_path / "copy"), "--target", str(tmp_path / "back"), "--json")
    assert restored.code == 0


@pytest.mark.parametrize("way", ["copied", "backed up to"])
def test_disaster_only_the_turso_database_is_left(tmp_path: Path, way: str) -> None:
    """The laptop, its repository, inventory and caches are gone. The URL, the token and the database are there."""
    home, database = tmp_path / "laptop", tmp_path / "turso.db"
    home.mkdir()
    bench = Bench(home, LocalStore(str(home / "repo")))
    for number in range(20):
        bench.plugin(f"plugins/p{number}")
    bench.write("plugins/p1/large.bin", os.urandom(5 << 20))
    with serving(database) as server:
        here = Cli(home, TURSO_DATABASE_URL=server.url, TURSO_AUTH_TOKEN=TOKEN, DRKIT_REPO=str(home / "repo"))
        if way == "copied":
            made = here("backup", str(bench.source), "--json")
            assert here("copy", "--to", "turso:").code == 0
        else:
            assert here("init", "--repo", "turso:").code == 0
            made = here("backup", str(bench.source), "--repo", "turso:", "--json")
        assert made.code == 0, made
    files = bench.files()
    shutil.rmtree(home)
    bare = tmp_path / "bare"
    bare.mkdir()
    with serving(database) as server:
        there = Cli(bare, TURSO_DATABASE_URL=server.url, TURSO_AUTH_TOKEN=TOKEN, DRKIT_REPO="turso:")
        run = there("restore", "latest", "--target", str(bare / "back"), "--json")
        assert run.code == 0, run
        assert run.json["tree_sha256"] == made.json["tree_sha256"]
        assert run.json["lost"] == []
        assert 0 < run.json["duration_s"] < 600
        proof = there("verify", "--all", "--level", "restore", "--json")
        assert proof.json["ok"]
    back = bare / "back"
    assert {
        os.fsencode(path.relative_to(back)): path.read_bytes() for path in back.rglob("*") if path.is_file()
    } == files


def test_python_alone_takes_the_objects_out_of_a_file(tmp_path: Path) -> None:
    """The program in docs/copies.md, and then the repository's own recover.py."""
    bench = Bench(tmp_path, LocalStore(str(tmp_path / "here")))
    bench.plugin("plugins/a")
    bench.write("large.bin", os.urandom((3 << 20) + 1))
    made = bench.back_up()
    target = open_store(f"libsql-file:{tmp_path}/offsite.db")
    copied(bench, target)
    target.close()
    page = (ROOT / "docs/copies.md").read_text(encoding="utf-8")
    program = page.partition("```python\n")[2].partition("```")[0]
    for words in (["-c", program], ["repo/recover.py", "--target", "back"]):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
    assert f"tree hash equal: {made.tree_sha256}" in done.stdout
    assert (tmp_path / "back/large.bin").read_bytes() == bench.files()[b"large.bin"]


KILLED = """
import os, sys
from datetime import UTC, datetime
from drkit.copy import copy
from drkit.progress import NullProgress
from drkit.repair import repair
from drkit.repo import Repository
from drkit.store import LocalStore
work, here, there, after = sys.argv[1:]
left = int(after)

class Dying(LocalStore):
    def put(self, *args, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        super().put(*args, **options)

quiet = {"progress": NullProgress(), "now": lambda: datetime.now(UTC)}
if work == "copy":
    copy(Repository.open(LocalStore(here)), Dying(there), **quiet)
else:
    repair(Dying(there), [LocalStore(here)], **quiet)
"""


@pytest.mark.parametrize("work", ["copy", "repair"])
def test_kill_9_before_any_put_costs_nothing(bench: Bench, tmp_path: Path, work: str) -> None:
    """Both go on where they were, and the locks of the dead do not stop them."""
    here = LocalStore(str(tmp_path / "here"))
    here.prepare()
    for info in bench.store.list(""):
        here.put(info.name, bench.store.get(info.name))
    bench.store = here
    for number in range(0, 40, 3):
        there = LocalStore(str(tmp_path / f"there{number}"))
        if work == "repair":
            copied(bench, there)
            for name in names(there, "")[::2]:
                there.delete(name)
        arguments = [work, here.url, there.url, str(number)]
        done = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, timeout=60, check=False)
        assert done.returncode in (0, -signal.SIGKILL)
        if work == "copy":
            copied(bench, there)
        else:
            assert repair(there, [here], progress=NullProgress(), now=lambda: bench.now).ok
        assert_equal(bench, there)
        if done.returncode == 0:
            break
    assert number > 5
    assert done.returncode == 0
