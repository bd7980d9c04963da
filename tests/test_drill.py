"""Drills: what came back is what was backed up, in time, or the drill fails and says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from unittest import mock

import pytest
from msgspec import structs

from drkit.clock import utc_now
from drkit.drill import DrillOptions, DrillReport, choose, drill
from drkit.drill.restorer import RESTORERS
from drkit.errors import UsageError
from drkit.model import PluginRow
from drkit.progress import NullProgress
from drkit.repo import Repository, SnapshotRef
from drkit.store import open_store
from drkit.store.local import LocalStore
from tests.support.restoring import back_up

ROOT = Path(__file__).parent.parent
BOTH = pytest.mark.parametrize("by", list(RESTORERS))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A marketplace of a few plugins, odd names and modes among them."""
    path = tmp_path / "source"
    script = ROOT / "scripts/marketplace.py"
    subprocess.run([sys.executable, script, path, "--plugins", "14"], check=True, capture_output=True)
    return path


@pytest.fixture
def made(source: Path, tmp_path: Path) -> tuple[Repository, SnapshotRef]:
    """A repository in a directory, and its snapshot."""
    return back_up(source, Repository.create(LocalStore(bytes(tmp_path / "repo")), now=utc_now()))


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where drills restore to; it must be empty again after each."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def run(
    made: tuple[Repository, SnapshotRef],
    targets: Sequence[PluginRow | None] = (None,),
    options: DrillOptions | None = None,
    later: timedelta = timedelta(0),
) -> DrillReport:
    return drill(
        *made, targets, options=options or DrillOptions(), now=lambda: utc_now() + later, progress=NullProgress()
    )


def rows_of(made: tuple[Repository, SnapshotRef]) -> list[PluginRow]:
    repo, ref = made
    return list(repo.plugins(repo.load(ref)))


def damage(made: tuple[Repository, SnapshotRef], path: bytes) -> None:
    """Zero the frame that holds a file's content."""
    repo, ref = made
    for segment in repo.segments(repo.load(ref), below=path):
        for entry in segment.entries:
            if entry.raw_path == path:
                place = segment.places[entry.sha256]
                name = f"packs/{place.pack.hex()[:2]}/{place.pack.hex()}.zst"
                data = bytearray(repo.store.get(name))
                data[place.frame_offset : place.frame_offset + place.frame_length] = bytes(place.frame_length)
                repo.store.put(name, data, overwrite=True)
                return
    raise AssertionError(path)


class TestRestore:
    @BOTH
    def test_everything_and_each_plugin_comes_back(
        self, made: tuple[Repository, SnapshotRef], source: Path, scratch: Path, by: str
    ) -> None:
        rows = rows_of(made)
        assert len(rows) >= 14
        targets = [None, *(rows if by == "drkit" else rows[:3])]
        report = run(made, targets, DrillOptions(by=by))
        assert report.passed, report
        assert [done.plugin for done in report.drills] == [None, *(row.raw_path for row in targets if row)]
        files = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
        whole = report.drills[0]
        assert (whole.files, whole.bytes) == (len(files), sum(path.stat().st_size for path in files))
        for done, row in zip(report.drills[1:], rows, strict=False):
            assert (done.files, done.bytes) == (row.files, row.bytes)
        for done in report.drills:
            assert 0 <= done.first_byte_s <= done.restore_s <= done.total_s
            assert abs(done.restore_s + done.verify_s - done.total_s) < 0.001
            assert (done.by, done.store, done.reason) == (by, made[0].store.url, "")
        assert list(scratch.iterdir()) == []

    def test_targets_have_their_own_defaults(self, made: tuple[Repository, SnapshotRef]) -> None:
        report = run(made, [None, rows_of(made)[0]])
        assert [done.rto_s for done in report.drills] == [1800, 300]

    @BOTH
    def test_plugins_of_any_name_come_back(self, tmp_path: Path, by: str) -> None:
        source = bytes(tmp_path / "odd")
        for path in (b"", b"-rf", b"a b", b"odd\xff", b"quo'te\n"):
            os.makedirs(os.path.join(source, path, b".claude-plugin"))
            with open(os.path.join(source, path, b".claude-plugin/plugin.json"), "w", encoding="utf-8") as file:
                file.write('{"name": "same"}')
        made = back_up(source, Repository.create(LocalStore(bytes(tmp_path / "repo")), now=utc_now()))
        rows = rows_of(made)
        assert len(rows) == 5
        report = run(made, rows, DrillOptions(by=by))
        assert report.passed, report
        assert [done.plugin for done in report.drills] == [row.raw_path for row in rows]
        assert [done.files for done in report.drills] == [row.files for row in rows]

    @BOTH
    def test_lost_content_fails_its_drill_and_no_other(
        self, made: tuple[Repository, SnapshotRef], source: Path, scratch: Path, by: str
    ) -> None:
        big = source / "plugins" / "zz-last" / "SKILL.md"
        (big.parent / ".claude-plugin").mkdir(parents=True)
        (big.parent / ".claude-plugin/plugin.json").write_text("{}")
        big.write_bytes(Random(1).randbytes(1_500_000))
        made = back_up(source, made[0])
        damage(made, b"plugins/zz-last/SKILL.md")
        rows = rows_of(made)
        report = run(made, [rows[-1], rows[1]], DrillOptions(by=by))
        assert [done.passed for done in report.drills] == [False, True]
        assert "lost, the first is " in report.drills[0].reason
        assert not report.passed
        assert list(scratch.iterdir()) == []

    @BOTH
    def test_another_tree_than_recorded_fails(self, made: tuple[Repository, SnapshotRef], by: str) -> None:
        row = structs.replace(rows_of(made)[0], tree_sha256="0" * 64)
        (done,) = run(made, [row], DrillOptions(by=by)).drills
        assert not done.passed
        assert "0" * 64 in done.reason

    def test_a_store_that_fails_fails_the_drill(self, made: tuple[Repository, SnapshotRef]) -> None:
        shutil.rmtree(os.path.join(os.fsdecode(made[0].store.directory or b""), "packs"))
        (done,) = run(made).drills
        assert not done.passed
        assert done.reason

    def test_recover_py_has_no_drkit(self, made: tuple[Repository, SnapshotRef]) -> None:
        program = Path(made[0].store.url) / "recover.py"
        program.chmod(0o600)
        program.write_text("import importlib.util, sys\nsys.exit(f'found {importlib.util.find_spec(\"drkit\")}')\n")
        (done,) = run(made, options=DrillOptions(by="recover.py")).drills
        assert not done.passed
        assert done.reason == "recover.py ended with exit code 1: found None"

    def test_recover_py_that_hangs_is_stopped(self, made: tuple[Repository, SnapshotRef]) -> None:
        program = Path(made[0].store.url) / "recover.py"
        program.chmod(0o600)
        program.write_text("import time\ntime.sleep(60)\n")
        with mock.patch("drkit.drill.restorer.PATIENCE_S", 0.5):
            (done,) = run(made, options=DrillOptions(by="recover.py", rto_s=0.1)).drills
        assert not done.passed
        assert "was stopped after" in done.reason

    def test_recover_py_where_zstandard_must_be_lent(
        self, made: tuple[Repository, SnapshotRef], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "which", lambda _: None)
        assert run(made, options=DrillOptions(by="recover.py")).passed

    def test_recover_py_needs_a_directory(self, source: Path) -> None:
        made = back_up(source)
        with pytest.raises(UsageError, match=r"recover\.py cannot read memory:"):
            run(made, options=DrillOptions(by="recover.py"))
        assert run(made).passed

    def test_cold_needs_a_directory(self, made: tuple[Repository, SnapshotRef], source: Path) -> None:
        assert run(made, options=DrillOptions(cold=True)).passed
        with pytest.raises(UsageError, match="cannot be dropped"):
            run(back_up(source), options=DrillOptions(cold=True))

    def test_a_plugin_that_others_may_not_enter_leaves_no_scratch(self, tmp_path: Path, scratch: Path) -> None:
        closed = tmp_path / "closed/deep"
        closed.mkdir(parents=True)
        (closed / "file").write_text("x")
        closed.chmod(0o500)
        (closed / "file").chmod(0)
        closed.parent.chmod(0o500)
        try:
            report = run(back_up(tmp_path / "closed"))
        finally:
            closed.parent.chmod(0o700)
            closed.chmod(0o700)
        assert report.passed or os.geteuid()
        assert list(scratch.iterdir()) == []


class TestTargets:
    def test_over_the_rto_fails(self, made: tuple[Repository, SnapshotRef]) -> None:
        (done,) = run(made, options=DrillOptions(rto_s=1e-9)).drills
        assert not done.passed
        assert "over the RTO" in done.reason

    def test_over_the_rpo_fails(self, made: tuple[Repository, SnapshotRef]) -> None:
        options = DrillOptions(rpo_s=3600)
        assert run(made, options=options, later=timedelta(minutes=59)).passed
        (done,) = run(made, options=options, later=timedelta(minutes=61)).drills
        assert not done.passed
        assert "over the RPO of 3600 s" in done.reason
        assert done.age_s == pytest.approx(3660, abs=60)

    def test_a_clock_that_went_back_is_no_age(self, made: tuple[Repository, SnapshotRef]) -> None:
        assert run(made, later=timedelta(days=-9)).drills[0].age_s == 0

    def test_the_witness_can_speak_against(self, made: tuple[Repository, SnapshotRef]) -> None:
        report = drill(
            *made,
            [None],
            options=DrillOptions(),
            now=lambda: datetime.now(UTC),
            progress=NullProgress(),
            witness=lambda ref, snap: f"{ref.id} was {snap.tree_sha256}",
        )
        assert not report.passed
        assert report.drills[0].reason == f"{made[1].id} was {made[0].load(made[1]).tree_sha256}"

    def test_no_drill_is_no_pass(self, made: tuple[Repository, SnapshotRef]) -> None:
        assert not run(made, []).passed


class TestChoose:
    def test_repeated_samples_cover_everything(self, made: tuple[Repository, SnapshotRef]) -> None:
        repo, ref = made
        drilled: list[bytes] = []

        def order(paths: Sequence[bytes], count: int) -> list[bytes]:
            return sorted(paths, key=lambda path: drilled.index(path) if path in drilled else -1)[:count]

        every = {row.raw_path for row in rows_of(made)}
        for round_ in range(-(-len(every) // 4)):
            chosen = choose(repo, repo.load(ref), 4, order=order, random=Random(round_))
            assert len(chosen) == 4
            drilled += [row.raw_path for row in chosen if row.raw_path not in drilled]
        assert set(drilled) == every

    def test_without_history_it_is_random(self, made: tuple[Repository, SnapshotRef]) -> None:
        repo, ref = made
        samples = {
            tuple(row.raw_path for row in choose(repo, repo.load(ref), 3, random=Random(seed))) for seed in range(8)
        }
        assert len(samples) > 1
        assert all(len(set(sample)) == 3 for sample in samples)

    def test_no_more_than_there_are(self, made: tuple[Repository, SnapshotRef]) -> None:
        repo, ref = made
        assert len(choose(repo, repo.load(ref), 10_000, random=Random(1))) == len(rows_of(made))

    def test_without_plugins_there_is_no_sample(self, tmp_path: Path) -> None:
        (tmp_path / "plain").mkdir()
        (tmp_path / "plain/file").write_text("x")
        repo, ref = back_up(tmp_path / "plain")
        with pytest.raises(UsageError, match="no plugins") as error:
            choose(repo, repo.load(ref), 1, random=Random(1))
        assert "--full" in error.value.hint


def test_the_store_is_only_read(made: tuple[Repository, SnapshotRef]) -> None:
    before = [(info.name, info.size, info.modified) for info in open_store(made[0].store.url).list("")]
    assert run(made, [None, rows_of(made)[0]]).passed
    assert [(info.name, info.size, info.modified) for info in made[0].store.list("")] == before
