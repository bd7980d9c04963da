"""Game days: things are lost in a copy, and the report says what came of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import pytest

from drkit.clock import utc_now
from drkit.copy import copy
from drkit.drill import DrillOptions, GameDayReport, Loss, compare, game_day, gameday
from drkit.drill.gameday import Heal
from drkit.drill.restorer import RESTORERS, Restored
from drkit.errors import IntegrityError, NoSpace
from drkit.format.settings import ParitySettings
from drkit.model import PluginRow, show_path
from drkit.progress import NullProgress
from drkit.repair import repair
from drkit.repo import Repository, SnapshotRef
from drkit.restore import restore_tree
from drkit.store.base import Store
from drkit.store.local import LocalStore
from drkit.store.memory import MemoryStore
from tests.support.restoring import back_up

ROOT = Path(__file__).parent.parent
Made = tuple[Repository, SnapshotRef]


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the copies lie; it must be empty again after each."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A marketplace of a few plugins, odd names and modes among them."""
    path = tmp_path / "source"
    script = ROOT / "scripts/marketplace.py"
    subprocess.run([sys.executable, script, path, "--plugins", "14"], check=True, capture_output=True)
    return path


@pytest.fixture
def made(source: Path, tmp_path: Path) -> Made:
    """A repository with two snapshots that differ, and the newer one."""
    repo, _ = back_up(source, Repository.create(LocalStore(bytes(tmp_path / "repo")), now=utc_now()))
    (source / "later.md").write_text("written after the first backup\n")
    return back_up(source, repo)


def objects(store: Store) -> list[tuple[str, bytes]]:
    return [(info.name, store.get(info.name)) for info in store.list("")]


def run(made: Made, by: str = "drkit", rto_s: float = 1800, seed: int = 1, rebuild: bool = True) -> GameDayReport:
    def from_store(store: Store, path: bytes) -> str:
        assert store.url != made[0].store.url
        assert not os.path.exists(path)
        return f"{len(list(store.list('snapshots/')))} snapshots were found"

    return game_day(
        *made,
        options=DrillOptions(by=by, rto_s=rto_s),
        progress=NullProgress(),
        random=Random(seed),
        rebuild=from_store if rebuild else None,
    )


@pytest.mark.parametrize("by", list(RESTORERS))
def test_what_is_lost_is_survived_or_named(made: Made, scratch: Path, by: str) -> None:
    before = objects(made[0].store)
    report = run(made, by)
    assert report.passed, report
    index, pack, snapshot, inventory = report.losses
    assert [loss.loss for loss in report.losses] == ["index", "pack", "snapshot", "inventory"]
    assert index.survived
    assert index.what == "deleted the whole index (2)"
    assert pack.survived == (not pack.lost)
    assert pack.what.startswith("flipped bit ")
    assert snapshot.survived
    assert made[1].name in snapshot.what
    assert made[0].snapshots()[0].id[:12] in snapshot.how
    assert inventory.survived
    assert inventory.how.startswith("2 snapshots were found, in ")
    assert all(loss.total_s > 0 for loss in report.losses)
    assert objects(made[0].store) == before
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("by", list(RESTORERS))
def test_a_flip_that_costs_a_stretch_of_the_manifest_names_all_of_it(made: Made, by: str) -> None:
    repo, ref = made
    segments = list(repo.segments(repo.load(ref)))
    place = segments[-1].place
    assert place is not None
    with (
        mock.patch.object(gameday, "_content_place", return_value=place),
        mock.patch.object(Random, "randrange", return_value=0),  # the first byte of the frame costs all of it
    ):
        pack = run(made, by).losses[1]
    gone = [one for one in segments if one.place and one.place.frame_offset == place.frame_offset]
    files = {
        show_path(path) for one in gone for entry, path in zip(one.entries, one.paths, strict=True) if entry.type == "f"
    }
    assert len(files) > len(gone) > 0
    assert pack.passed, pack
    assert not pack.survived
    assert files <= set(pack.lost)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_bit_is_flipped_is_noticed(made: Made, seed: int) -> None:
    pack = run(made, seed=seed, rebuild=False).losses[1]
    assert pack.passed, pack
    assert pack.survived == (not pack.lost)


def test_the_only_snapshot_is_not_survived_but_noticed(source: Path) -> None:
    snapshot = run(back_up(source), rebuild=False).losses[2]
    assert (snapshot.survived, snapshot.passed) == (False, True)
    assert "no older snapshot" in snapshot.how


@pytest.mark.parametrize("by", list(RESTORERS))
def test_a_snapshot_that_its_parity_gives_back_is_called_that(source: Path, tmp_path: Path, by: str) -> None:
    store = LocalStore(bytes(tmp_path / "repo"))
    made = back_up(source, Repository.create(store, now=utc_now(), parity=ParitySettings(8, 2)))
    snapshot = run(made, by, rebuild=False).losses[2]
    assert snapshot.passed, snapshot
    assert snapshot.survived == (by == "drkit")
    assert ("its parity gave it back" if by == "drkit" else "no older snapshot") in snapshot.how
    (source / "later.md").write_text("written after the first backup\n")
    snapshot = run(back_up(source, made[0]), by, rebuild=False).losses[2]
    assert (snapshot.passed, snapshot.survived) == (True, True)
    assert ("its parity gave it back" if by == "drkit" else made[1].id[:12]) in snapshot.how


def test_a_tree_without_content_has_no_bit_to_flip(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/file").touch()
    report = run(back_up(tmp_path / "empty"))
    assert report.passed
    assert "no bit" in report.losses[1].what


def heal(lost: Store, left: Store) -> str:
    report = repair(lost, [left], progress=NullProgress(), now=utc_now)
    return f"{len(report.healed)} objects came back"


def destroyed(made: Made, *others: Store, by: str = "drkit", with_heal: Heal = heal) -> list[Loss]:
    """Lose the store alone; return what came of it."""
    options = DrillOptions(by=by, rto_s=1800)
    report = game_day(
        *made, options=options, progress=NullProgress(), heal=with_heal, others=others, now=utc_now, random=Random(1)
    )
    return [loss for loss in report.losses if loss.loss == "store"]


@pytest.mark.parametrize("by", list(RESTORERS))
def test_a_destroyed_store_comes_back_from_another(made: Made, scratch: Path, by: str) -> None:
    before = objects(made[0].store)
    (loss,) = destroyed(made, by=by)
    assert (loss.passed, loss.survived, loss.lost) == (True, True, ()), loss
    assert "'drkit copy' has filled" in loss.what
    assert "objects came back, in " in loss.how
    assert objects(made[0].store) == before
    assert list(scratch.iterdir()) == []


def test_each_other_store_is_tried_and_only_read(made: Made, tmp_path: Path) -> None:
    behind, whole, empty = (MemoryStore(name) for name in ("behind", "whole", "empty"))
    for store in (behind, whole):
        copy(made[0], store, progress=NullProgress(), now=utc_now)
    behind.delete(made[1].name)
    foreign, _ = back_up(tmp_path / "source", Repository.create(MemoryStore("foreign"), now=utc_now()))
    before = objects(behind), objects(whole)
    late, full, nothing, other = destroyed(made, behind, whole, empty, foreign.store)
    assert (objects(behind), objects(whole)) == before
    assert (late.passed, late.survived) == (True, True)
    assert "which was restored instead" in late.how
    assert full.passed
    assert "instead" not in full.how
    assert not nothing.passed
    assert "no drkit repository" in nothing.reason
    assert not other.passed
    assert "another repository" in other.reason


def test_a_store_that_is_not_healed_fails(made: Made) -> None:
    def leaves(lost: Store, left: Store) -> str:
        copy(Repository.open(left), lost, progress=NullProgress(), now=utc_now)
        pack = next(lost.list("packs/"))
        lost.put(pack.name, bytes(pack.size), overwrite=True)
        return "something came back"

    (loss,) = destroyed(made, with_heal=leaves)
    assert not loss.passed
    assert loss.reason


def test_over_the_rto_fails(made: Made) -> None:
    report = run(made, rto_s=1e-9)
    assert not report.passed
    assert all("over the RTO" in loss.reason for loss in report.losses)


def test_an_inventory_that_cannot_be_rebuilt_fails(made: Made) -> None:
    def broken(store: Store, path: bytes) -> str:
        raise IntegrityError("nothing is left")

    report = game_day(*made, options=DrillOptions(), progress=NullProgress(), random=Random(1), rebuild=broken)
    assert not report.passed
    assert (report.losses[3].loss, report.losses[3].reason) == ("inventory", "nothing is left")


def test_a_flip_that_verify_overlooks_fails(made: Made) -> None:
    with mock.patch.object(gameday, "_noticed", return_value=False):
        pack = run(made).losses[1]
    assert not pack.passed
    assert "did not notice" in pack.reason


def test_a_wrong_file_that_nobody_names_fails(made: Made) -> None:
    def spoils(store: Store, spec: str, plugin: PluginRow | None, target: bytes, **options: Any) -> Restored:
        found = RESTORERS["drkit"](store, spec, plugin, target, **options)
        Path(os.fsdecode(target), "later.md").write_text("written after the first restore\n")
        return found

    with mock.patch.dict(RESTORERS, {"spoils": spoils}):
        report = run(made, "spoils")
    assert not report.losses[0].passed
    assert "1 files came back wrong without a word, the first is later.md" in report.losses[0].reason


def test_no_space_is_said_before_anything_is_copied(made: Made, scratch: Path) -> None:
    full = os.statvfs_result((4096, 4096, 10, 1, 1, 10, 10, 10, 0, 255))
    with mock.patch.object(os, "statvfs", return_value=full), pytest.raises(NoSpace, match="a game day needs"):
        run(made)
    assert list(scratch.iterdir()) == []


def test_every_kind_of_difference_is_found(made: Made, tmp_path: Path) -> None:
    repo, ref = made
    target = tmp_path / "tree"
    restore_tree(repo, ref, bytes(target))
    entries = [entry for segment in repo.segments(repo.load(ref)) for entry in segment.entries]
    assert compare.differences(repo.segments(repo.load(ref)), bytes(target)) == ([], [], [])
    files = [entry.raw_path for entry in entries if entry.type == "f" and entry.size and not entry.link]
    links = [entry.raw_path for entry in entries if entry.type == "l"]
    wrong = {files[0], files[1], files[2], links[0]}
    at = {path: os.path.join(bytes(target), path) for path in (*files, *links)}
    content = Path(os.fsdecode(at[files[0]])).read_bytes()
    Path(os.fsdecode(at[files[0]])).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.chmod(at[files[1]], 0o604)
    os.unlink(at[files[2]])
    os.mkdir(at[files[2]])
    os.unlink(at[links[0]])
    os.symlink("elsewhere", at[links[0]])
    os.unlink(at[files[3]])
    found, missing, unknown = compare.differences(repo.segments(repo.load(ref)), bytes(target))
    assert set(found) - {show_path(os.path.dirname(path)) for path in wrong} == set(map(show_path, wrong))
    assert missing == [show_path(files[3])]
    assert unknown == []
    gaps = [(show_path(files[0]), show_path(files[1])), (show_path(files[2]), "")]
    found, missing, unknown = compare.differences(repo.segments(repo.load(ref)), bytes(target), gaps)
    assert show_path(files[1]) in found
    assert {show_path(files[0]), show_path(files[2]), show_path(files[3])} <= set(unknown)
    assert missing == []
