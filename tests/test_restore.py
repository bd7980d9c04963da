"""Restoring a snapshot into a directory: everything comes back exactly."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from drkit import osutil
from drkit.errors import StoreError, UsageError
from drkit.model import Place, sort_key
from drkit.restore import restore_tree
from tests.support.restoring import (
    REF,
    FakeReader,
    FakeRepository,
    back_up,
    file,
    folder,
    one_of_each,
    sha,
    small_files_ahead,  # noqa: F401 - every test here runs both ways
)
from tests.support.trees import ROOT, Node, build, snapshot_tree, trees


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return one_of_each(tmp_path / "source")


class TestExactness:
    @settings(max_examples=60, deadline=None)
    @given(tree=trees())
    def test_what_was_backed_up_comes_back(self, tree: Node) -> None:
        _there_and_back(tree)

    def test_names_that_mean_something_to_another_system_come_back(self) -> None:
        names = (b"C:\\x", b"\\\\host\\share", b"NUL", b"e:x", b"end. ")
        inner = {name: Node("f", size=3, seed=at) for at, name in enumerate(names, 1)}
        _there_and_back(Node("d", children={b"d:\\": Node("d", children=dict(inner)), b"d:\\dir": Node("d"), **inner}))

    @settings(max_examples=5, deadline=None)
    @given(tree=trees(large=True, max_leaves=6))
    def test_large_files_come_back(self, tree: Node) -> None:
        _there_and_back(tree)

    def test_report_counts_what_is_on_disk(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        report = restore_tree(repo, ref, bytes(tmp_path / "out"))
        found = [path.lstat() for path in (tmp_path / "out").rglob("*")]
        kinds = [oct(info.st_mode)[2:-4].rjust(2, "0") for info in found]
        assert report.files == kinds.count("10") == 5
        assert (report.dirs, report.links, report.others) == (2, 1, 1)
        assert report.bytes == sum(info.st_size for info in found if oct(info.st_mode)[2:-4] == "10")
        assert report.tree_sha256 == repo.load(ref).tree_sha256
        assert report.snapshot == ref.id
        assert report.lost == ()
        assert report.notes == ()
        assert report.duration_s > 0


def _there_and_back(tree: Node) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source, out = os.path.join(scratch, "source"), os.path.join(scratch, "out")
        build(source, tree)
        repo, ref = back_up(Path(source))
        report = restore_tree(repo, ref, os.fsencode(out))
        assert report.lost == ()
        assert report.notes == () or not ROOT
        assert snapshot_tree(out) == snapshot_tree(source)
        assert sorted(os.listdir(scratch)) == ["out", "source"]


class TestInclude:
    @pytest.mark.parametrize(
        ("patterns", "expected"),
        [
            (("SKILL.md",), ["skills", "skills/SKILL.md"]),
            (("*.md",), ["README.md", "skills", "skills/SKILL.md"]),
            (("/*.md",), ["README.md"]),
            (("skills",), ["skills", "skills/SKILL.md", "skills/link", "skills/pipe"]),
            (("skills/l*", "void"), ["skills", "skills/link", "void"]),
            (("**/pipe",), ["skills", "skills/pipe"]),
        ],
    )
    def test_only_what_matches_comes_with_the_directories_above(
        self, patterns: tuple[str, ...], expected: list[str], source: Path, tmp_path: Path
    ) -> None:
        repo, ref = back_up(source)
        report = restore_tree(repo, ref, bytes(tmp_path / "out"), include=patterns)
        found, whole = snapshot_tree(tmp_path / "out"), snapshot_tree(source)
        assert [os.fsdecode(path) for path in found] == expected
        for path, one in found.items():
            assert _unlinked(one) == _unlinked(whole[path])
        assert report.files + report.dirs + report.links + report.others == len(expected)
        assert report.lost == ()

    def test_a_hard_link_without_its_first_name_is_a_copy(self, tmp_path: Path) -> None:
        (tmp_path / "source").mkdir()
        (tmp_path / "source/a").write_bytes(b"shared")
        for name in ("b", "c"):
            os.link(tmp_path / "source/a", tmp_path / "source" / name)
        repo, ref = back_up(tmp_path / "source")
        restore_tree(repo, ref, bytes(tmp_path / "out"), include=("b", "c"))
        assert snapshot_tree(tmp_path / "out")[b"c"]["links"] == (b"b", b"c")
        assert (tmp_path / "out/b").read_bytes() == b"shared"

    def test_what_matches_nothing_is_an_error(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        with pytest.raises(UsageError, match="no-such"):
            restore_tree(repo, ref, bytes(tmp_path / "out"), include=("no-such",))
        assert not (tmp_path / "out").exists()

    def test_it_excludes_delete(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        with pytest.raises(UsageError, match="--delete"):
            restore_tree(repo, ref, bytes(tmp_path / "out"), include=("*.md",), delete=True)


def _unlinked(one: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key != "links"}


class TestDryRun:
    @pytest.mark.parametrize("exists", [False, True])
    def test_it_counts_and_writes_nothing(self, exists: bool, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        target = tmp_path / "above/out"
        if exists:
            target.mkdir(parents=True)
        before = snapshot_tree(tmp_path)
        report = restore_tree(repo, ref, bytes(target), dry_run=True)
        assert snapshot_tree(tmp_path) == before
        real = restore_tree(repo, ref, bytes(target))
        counts = ("snapshot", "files", "dirs", "links", "others", "bytes", "tree_sha256", "lost")
        assert [getattr(report, key) for key in counts] == [getattr(real, key) for key in counts]

    def test_it_refuses_what_the_restore_would_refuse(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        with pytest.raises(UsageError, match="not empty"):
            restore_tree(repo, ref, bytes(source), dry_run=True)


class TestContent:
    def test_runs_of_zeros_become_holes(self, tmp_path: Path) -> None:
        pieces = [b"x" + bytes(500_000), bytes(4 << 20), b"y" * 70_000 + bytes(65_536) + b"z", bytes(100_000)]
        whole = b"".join(pieces)
        repo = FakeRepository([file("large", whole, blobs=tuple(sha(piece) for piece in pieces))], blobs=pieces)
        restore_tree(repo, REF, bytes(tmp_path / "out"))
        path = tmp_path / "out/large"
        assert path.read_bytes() == whole
        assert path.stat().st_blocks * 512 < 400_000

    def test_small_files_have_none(self, tmp_path: Path) -> None:
        repo = FakeRepository([file("small", bytes(1 << 20))], blobs=[bytes(1 << 20)])
        restore_tree(repo, REF, bytes(tmp_path / "out"))
        assert (tmp_path / "out/small").stat().st_blocks * 512 >= 1 << 20

    def test_a_repeated_blob_is_read_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []
        blob = FakeReader.blob

        def count(self: FakeReader, blob_id: str, place: Place | None) -> bytes:
            asked.append(blob_id)
            return blob(self, blob_id, place)

        monkeypatch.setattr(FakeReader, "blob", count)
        repo = FakeRepository([file(f"{number:03}") for number in range(100)])
        assert restore_tree(repo, REF, bytes(tmp_path / "out")).files == 100
        assert asked == [sha(b"content")]

    def test_a_deep_tree_needs_few_descriptors(self, tmp_path: Path) -> None:
        path, entries = "", []
        for _ in range(700):
            path += "/d" if path else "d"
            entries.append(folder(path))
        entries.append(file(path + "/x"))
        entries += [file(path.rpartition("/")[0][: 2 * 300 + 1] + "/e"), file("z")]
        entries.sort(key=lambda entry: sort_key(entry.raw_path))
        repo = FakeRepository(entries)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
        try:
            report = restore_tree(repo, REF, bytes(tmp_path / "out"))
            restore_tree(FakeRepository([file("y")]), REF, bytes(tmp_path / "out"), delete=True)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (report.dirs, report.files) == (700, 3)
        assert os.listdir(tmp_path / "out") == ["y"]

    def test_many_files_are_synced_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[int] = []
        monkeypatch.setattr(osutil, "syncfs", synced.append)
        restore_tree(FakeRepository([file(f"{number:03}") for number in range(65)]), REF, bytes(tmp_path / "many"))
        assert len(synced) == 1
        monkeypatch.setattr(os, "fsync", synced.append)
        restore_tree(FakeRepository([file(f"{number:03}") for number in range(64)]), REF, bytes(tmp_path / "few"))
        assert len(synced) > 1 + 64

    def test_a_write_error_found_while_syncing_fails_the_restore(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(osutil, "syncfs", fail)
        repo = FakeRepository([file(f"{number:03}") for number in range(65)])
        with pytest.raises(StoreError, match="Input/output error"):
            restore_tree(repo, REF, bytes(tmp_path / "out"))
        assert os.listdir(tmp_path) == []

    def test_progress_ends_at_the_totals(self, source: Path, tmp_path: Path) -> None:
        class Watch:
            def __init__(self) -> None:
                self.stages: list[list[int]] = []

            def start(self, total_files: int | None, total_bytes: int | None, what: str) -> None:
                self.stages.append([total_files or 0, total_bytes or 0, 0, 0])

            def advance(self, files: int, bytes: int) -> None:  # noqa: A002
                self.stages[-1][2] += files
                self.stages[-1][3] += bytes

        watch = Watch()
        repo, ref = back_up(source)
        restore_tree(repo, ref, bytes(tmp_path / "out"), progress=watch)
        assert watch.stages
        for total_files, total_bytes, files, size in watch.stages:
            assert (files, size) == (total_files, total_bytes)
