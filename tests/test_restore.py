"""Restoring a snapshot into a directory: everything comes back exactly, or it is said what does not."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from drkit import osutil
from drkit.clock import utc_now
from drkit.errors import IntegrityError, NoSpace, RestoreMismatch, StoreError, UsageError
from drkit.model import Place, sort_key
from drkit.repo import Repository, SnapshotRef
from drkit.restore import build as build_module
from drkit.restore import restore_plugin, restore_tree, tree
from drkit.restore.check import check_tree
from drkit.store import LocalStore
from tests.support.restoring import (
    REF,
    FakeReader,
    FakeRepository,
    back_up,
    file,
    folder,
    leftovers,
    link,
    pipe,
    plugin_row,
    sha,
)
from tests.support.trees import ROOT, Node, build, snapshot_tree, trees


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small tree with one of each kind."""
    path = tmp_path / "source"
    build(
        path,
        Node(
            "d",
            mode=0o755,
            children={
                b"README.md": Node("f", size=5, seed=1),
                b"empty": Node("f"),
                b"same": Node("f", size=5, seed=1),
                b"skills": Node(
                    "d",
                    mode=0o2755,
                    children={
                        b"SKILL.md": Node("f", mode=0o4755, size=3000, seed=2),
                        b"link": Node("l", target=b"../README.md"),
                        b"pipe": Node("p", mode=0o620),
                    },
                ),
                b"two": Node("h"),
                b"void": Node("d", mode=0o500),
            },
        ),
    )
    return path


@pytest.fixture(autouse=True, params=["one thread", "a thread ahead"])
def _threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are decoded by the thread that writes them, large ones ahead: everything is tried both ways."""
    if request.param == "a thread ahead":
        monkeypatch.setattr(build_module, "_SMALL", 0)


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


class TestTarget:
    def test_a_target_with_content_is_refused(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        target = tmp_path / "out"
        build(target, OTHER)
        before = snapshot_tree(target, root=True)
        with pytest.raises(UsageError, match="not empty") as error:
            restore_tree(repo, ref, bytes(target))
        assert "--delete" in error.value.hint
        assert snapshot_tree(target, root=True) == before

    def test_delete_makes_the_target_the_snapshot(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        target = tmp_path / "out"
        build(target, OTHER)
        inode = target.stat().st_ino
        report = restore_tree(repo, ref, bytes(target), delete=True)
        assert report.method == "exchange"
        assert target.stat().st_ino != inode
        assert snapshot_tree(target) == snapshot_tree(source)
        assert leftovers(tmp_path) == []

    def test_an_empty_target_keeps_its_owner_and_mode(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        target = tmp_path / "out"
        target.mkdir()
        target.chmod(0o1730)
        restore_tree(repo, ref, bytes(target))
        assert target.stat().st_mode & 0o7777 == 0o1730
        assert snapshot_tree(target) == snapshot_tree(source)

    def test_a_new_target_gets_what_the_umask_leaves(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        before = os.umask(0o027)
        try:
            restore_tree(repo, ref, bytes(tmp_path / "new/deep/out"))
        finally:
            os.umask(before)
        assert (tmp_path / "new/deep/out").stat().st_mode & 0o7777 == 0o750
        assert snapshot_tree(tmp_path / "new/deep/out") == snapshot_tree(source)

    def test_a_link_to_a_directory_means_the_directory(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        (tmp_path / "real").mkdir()
        (tmp_path / "out").symlink_to("real")
        restore_tree(repo, ref, bytes(tmp_path / "out"))
        assert (tmp_path / "out").is_symlink()
        assert snapshot_tree(tmp_path / "real") == snapshot_tree(source)

    def test_a_relative_target_counts_from_the_working_directory(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repo, ref = back_up(source)
        monkeypatch.chdir(tmp_path)
        restore_tree(repo, ref, b"out/")
        assert snapshot_tree(tmp_path / "out") == snapshot_tree(source)

    @pytest.mark.parametrize("what", ["file", "dangling"])
    def test_what_is_no_directory_is_refused(self, what: str, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        target = tmp_path / "out"
        if what == "file":
            target.write_bytes(b"mine")
        else:
            (tmp_path / "file").write_bytes(b"mine")
            target.symlink_to("file")
        with pytest.raises(UsageError, match="not a directory"):
            restore_tree(repo, ref, bytes(target), delete=True)
        assert target.read_bytes() == b"mine"

    def test_nothing_is_inherited_from_where_it_is_staged(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        above = tmp_path / "above"
        above.mkdir()
        above.chmod(0o2755)
        restore_tree(repo, ref, bytes(above / "out"))
        assert snapshot_tree(above / "out") == snapshot_tree(source)

    def test_an_empty_mount_point_is_filled_from_inside(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        target = tmp_path / "out"
        (target / "lost+found").mkdir(parents=True)
        target.chmod(0o751)
        inode = target.stat().st_ino
        with mock.patch.object(osutil, "mount_points", return_value=frozenset({bytes(target)})):
            report = restore_tree(repo, ref, bytes(target))
        assert report.method == ("rename" if ROOT else "files")  # its owner may not move what he may not write
        assert target.stat().st_ino == inode
        assert target.stat().st_mode & 0o7777 == 0o751
        found = snapshot_tree(target)
        assert found.pop(b"lost+found")
        assert found == snapshot_tree(source)

    def test_where_nothing_can_be_moved_up_it_is_linked(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As with a directory that its owner may not write: it cannot go to another parent."""
        repo, ref = back_up(source)
        target = tmp_path / "out"
        target.mkdir()
        moved = 0
        rename_noreplace = osutil.rename_noreplace

        def refuse(dir_a: int, a: bytes, dir_b: int, b: bytes) -> None:
            nonlocal moved
            moved += 1
            if moved == 3:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), a)
            rename_noreplace(dir_a, a, dir_b, b)

        monkeypatch.setattr(osutil, "rename_noreplace", refuse)
        monkeypatch.setattr(osutil, "mount_points", lambda: frozenset({bytes(target)}))
        assert restore_tree(repo, ref, bytes(target)).method == "files"
        assert snapshot_tree(target) == snapshot_tree(source)
        assert leftovers(tmp_path) == []

    def test_lost_and_found_of_a_source_goes_into_that_of_the_target(self, source: Path, tmp_path: Path) -> None:
        (source / "lost+found").mkdir()
        (source / "lost+found/#1234").write_bytes(b"found")
        repo, ref = back_up(source)
        target = tmp_path / "out"
        (target / "lost+found").mkdir(parents=True)
        with mock.patch.object(osutil, "mount_points", return_value=frozenset({bytes(target)})):
            restore_tree(repo, ref, bytes(target))
        assert snapshot_tree(target) == snapshot_tree(source)
        assert leftovers(tmp_path) == []

    def test_what_is_mounted_below_is_not_taken_along(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        target = tmp_path / "out"
        build(target, OTHER)
        mounts = frozenset({bytes(target / "mine")})
        with (
            mock.patch.object(osutil, "mount_points", return_value=mounts),
            pytest.raises(UsageError, match="mounted inside"),
        ):
            restore_tree(repo, ref, bytes(target), delete=True)
        assert snapshot_tree(target)[b"mine/data"]


@pytest.fixture
def mount_point(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MiB, where mounting is permitted."""
    path = tmp_path / "mounted"
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "none", str(path)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.skipif(not ROOT, reason="only root may mount")
class TestItsOwnRepository:
    """No restore replaces the repository that it reads from, or a part of it."""

    @pytest.fixture
    def backed_up(self, tmp_path: Path) -> tuple[Repository, SnapshotRef]:
        """A plugin that holds the repository it is backed up to."""
        (tmp_path / "around").mkdir()
        build(
            tmp_path / "around/source",
            Node("d", children={b".claude-plugin": Node("d", children={b"plugin.json": Node("f", size=2, seed=1)})}),
        )
        store = LocalStore(bytes(tmp_path / "around/source/deep/repo"))
        repo = Repository.create(store, now=utc_now())
        return back_up(tmp_path / "around/source", repo, excludes=("/deep",))

    @pytest.mark.parametrize("dry_run", [False, True])
    @pytest.mark.parametrize(
        ("target", "how"),
        [
            ("around/source/deep/repo", "is"),
            ("around/link", "is"),
            ("around/source/deep/repo/sub/new", "lies in"),
            ("around/link/packs", "lies in"),
            ("around/source/deep", "holds"),
            ("around/source", "holds"),
            ("around", "holds"),
            ("/", "holds"),
        ],
    )
    def test_it_is_no_target(
        self, target: str, how: str, dry_run: bool, backed_up: tuple[Repository, SnapshotRef], tmp_path: Path
    ) -> None:
        repo, ref = backed_up
        (tmp_path / "around/link").symlink_to("source/deep/repo")
        before = snapshot_tree(tmp_path)
        path = os.fsencode(tmp_path / target)
        plugin = repo.plugin(repo.load(ref), ".")
        with pytest.raises(UsageError, match=f"{how} the repository") as error:
            restore_tree(repo, ref, path, delete=True, dry_run=dry_run)
        assert error.value.hint
        with pytest.raises(UsageError, match=f"{how} the repository"):
            restore_plugin(repo, ref, plugin, target=path, dry_run=dry_run)
        assert snapshot_tree(tmp_path) == before

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_a_plugin_that_holds_it_is_not_replaced(
        self, dry_run: bool, backed_up: tuple[Repository, SnapshotRef], tmp_path: Path
    ) -> None:
        repo, ref = backed_up
        before = snapshot_tree(tmp_path)
        plugin = repo.plugin(repo.load(ref), ".")
        for source in (None, bytes(tmp_path / "around/source/deep/repo")):
            with pytest.raises(UsageError, match="the repository"):
                restore_plugin(repo, ref, plugin, in_place_source=source, dry_run=dry_run)
        assert snapshot_tree(tmp_path) == before

    def test_what_lies_beside_it_is_replaced(self, backed_up: tuple[Repository, SnapshotRef], tmp_path: Path) -> None:
        repo, ref = backed_up
        for name in ("repo2", "rep", "other"):
            target = tmp_path / "around/source/deep" / name
            build(target, OTHER)
            assert restore_tree(repo, ref, bytes(target), delete=True).files == 1


class TestMounted:
    def test_a_mount_point_is_filled_and_replaced(self, source: Path, mount_point: Path) -> None:
        repo, ref = back_up(source)
        assert restore_tree(repo, ref, bytes(mount_point)).method == "rename"
        assert snapshot_tree(mount_point) == snapshot_tree(source)
        build(mount_point / "mine", OTHER)
        assert restore_tree(repo, ref, bytes(mount_point), delete=True).method == "files"
        assert snapshot_tree(mount_point) == snapshot_tree(source)

    def test_a_mount_below_the_target_is_refused(self, source: Path, mount_point: Path) -> None:
        repo, ref = back_up(source)
        (mount_point / "precious").write_bytes(b"data")
        with pytest.raises(UsageError, match="mounted inside"):
            restore_tree(repo, ref, bytes(mount_point.parent), delete=True)
        assert (mount_point / "precious").read_bytes() == b"data"

    def test_too_little_room_is_said_before_anything_is_written(self, tmp_path: Path, mount_point: Path) -> None:
        (tmp_path / "source").mkdir()
        for number in range(12):
            (tmp_path / f"source/{number}").write_bytes(os.urandom(1 << 20))
        repo, ref = back_up(tmp_path / "source")
        with mock.patch.object(os, "mkdir", side_effect=AssertionError), pytest.raises(NoSpace, match="needs"):
            restore_tree(repo, ref, bytes(mount_point))
        assert os.listdir(mount_point) == []

    def test_holes_need_no_room(self, tmp_path: Path, mount_point: Path) -> None:
        (tmp_path / "source").mkdir()
        with open(tmp_path / "source/sparse", "wb") as file:
            file.write(b"head")
            file.truncate(300 << 20)
        repo, ref = back_up(tmp_path / "source")
        report = restore_tree(repo, ref, bytes(mount_point))
        assert report.bytes == 300 << 20
        assert (mount_point / "sparse").stat().st_blocks * 512 < 8 << 20
        assert snapshot_tree(mount_point) == snapshot_tree(tmp_path / "source")

    def test_a_disk_that_fills_up_is_left_as_it_was(self, tmp_path: Path, mount_point: Path) -> None:
        (tmp_path / "source").mkdir()
        for number in range(12):
            (tmp_path / f"source/{number}").write_bytes(os.urandom(1 << 20))
        repo, ref = back_up(tmp_path / "source")
        with mock.patch.object(tree, "check_space"), pytest.raises(NoSpace):
            restore_tree(repo, ref, bytes(mount_point))
        assert os.listdir(mount_point) == []


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


class TestLosses:
    def test_everything_else_comes_back(self, tmp_path: Path) -> None:
        lost, kept = file("a/lost", b"gone"), file("a/kept")
        repo = FakeRepository([folder("a"), kept, lost, file("b"), file("empty", b"")])
        report = restore_tree(repo, REF, bytes(tmp_path / "out"))
        assert [one.path for one in report.lost] == ["a/lost"]
        assert "no pack holds it" in report.lost[0].reason
        assert sorted(map(os.fsdecode, snapshot_tree(tmp_path / "out"))) == ["a", "a/kept", "b", "empty"]
        assert (report.files, report.bytes) == (3, 14)

    @pytest.mark.parametrize("missing", [0, 1, 2])
    def test_a_large_file_is_whole_or_not_there(self, missing: int, tmp_path: Path) -> None:
        pieces = [bytes([number]) * 1_000_000 for number in (1, 2, 3)]
        whole = b"".join(pieces)
        large = file("large", whole, blobs=tuple(sha(piece) for piece in pieces))
        second = file("later", b"content")
        pieces.pop(missing)
        repo = FakeRepository([large, second], blobs=[*pieces, b"content"])
        report = restore_tree(repo, REF, bytes(tmp_path / "out"))
        assert [one.path for one in report.lost] == ["large"]
        assert os.listdir(tmp_path / "out") == ["later"]

    def test_a_lost_segment_is_listed_and_what_lies_below_it_comes_back(self, tmp_path: Path) -> None:
        repo = FakeRepository([file("a")], "its pack is missing", [file("dir/deep/x"), file("dir/deep/y"), file("z")])
        report = restore_tree(repo, REF, bytes(tmp_path / "out"))
        assert [one.reason for one in report.lost if "its pack is missing" in one.reason]
        assert sorted(map(os.fsdecode, snapshot_tree(tmp_path / "out"))) == [
            "a",
            "dir",
            "dir/deep",
            "dir/deep/x",
            "dir/deep/y",
            "z",
        ]
        assert (tmp_path / "out/dir").stat().st_mode & 0o777 == 0o777 & ~_umask()

    def test_a_linked_name_of_a_lost_file_is_lost_too(self, tmp_path: Path) -> None:
        repo = FakeRepository([file("a", b"gone", link=7), file("b", b"gone", link=7), file("c")])
        report = restore_tree(repo, REF, bytes(tmp_path / "out"))
        assert [one.path for one in report.lost] == ["a", "b"]

    def test_a_name_that_cannot_be_made_takes_what_lies_below_along(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mkdir = os.mkdir

        def refuse(path: bytes, *args: int, **kwargs: int) -> None:
            if path == b"bad":
                raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ), path)
            mkdir(path, *args, **kwargs)

        repo = FakeRepository([file("a"), folder("bad"), folder("bad/sub"), file("bad/sub/x"), file("c")])
        monkeypatch.setattr(os, "mkdir", refuse)
        report = restore_tree(repo, REF, bytes(tmp_path / "out"))
        assert [one.path for one in report.lost] == ["bad", "bad/sub", "bad/sub/x"]
        assert sorted(os.listdir(tmp_path / "out")) == ["a", "c"]


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


def _become_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


class TestReadBack:
    """What the disk did not keep is found before it takes the target's place."""

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda path: path.write_bytes(b"CONTENT"), "another content"),
            (lambda path: path.write_bytes(b"shorter"[:3]), "3 bytes instead of 7"),
            (lambda path: path.chmod(0o600), "mode 600 instead of 644"),
            (lambda path: os.utime(path, ns=(5, 5)), "modification time"),
            (lambda path: path.unlink(), "missing"),
            (lambda path: (path.unlink(), path.mkdir()), "another type"),
            (lambda path: (path.unlink(), path.symlink_to("elsewhere")), "cannot be read back"),
            (_become_pipe, "another type"),
            (lambda path: (path.parent / "extra").write_bytes(b""), "2 entries instead of 1"),
        ],
    )
    def test_a_difference_is_found(
        self, change: Callable[[Path], object], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = check_tree

        def spoil(fd: int, *args: Any, **kwargs: Any) -> Any:
            path = Path(f"/proc/self/fd/{fd}/dir/file")
            found = path.stat()
            change(path)
            if match == "another content":
                os.utime(path, ns=(found.st_mtime_ns, found.st_mtime_ns))
            return original(fd, *args, **kwargs)

        monkeypatch.setattr(build_module, "check_tree", spoil)
        repo = FakeRepository([folder("dir"), file("dir/file")])
        with pytest.raises(RestoreMismatch, match=match):
            restore_tree(repo, REF, bytes(tmp_path / "out"))
        assert os.listdir(tmp_path) == []

    def test_a_hard_link_that_became_a_copy_is_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        original = check_tree

        def spoil(fd: int, *args: Any, **kwargs: Any) -> Any:
            path = Path(f"/proc/self/fd/{fd}/b")
            path.unlink()
            shutil.copy2(path.parent / "a", path)
            return original(fd, *args, **kwargs)

        monkeypatch.setattr(build_module, "check_tree", spoil)
        repo = FakeRepository([file("a", link=7), file("b", link=7)])
        with pytest.raises(RestoreMismatch, match="no hard link to a"):
            restore_tree(repo, REF, bytes(tmp_path / "out"))

    def test_a_snapshot_that_does_not_fit_its_manifest_is_found(self, tmp_path: Path) -> None:
        with pytest.raises(RestoreMismatch, match="hashes to"):
            restore_tree(FakeRepository([file("a")], tree="0" * 64), REF, bytes(tmp_path / "out"))
        assert os.listdir(tmp_path) == []


def _unlinked(one: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key != "links"}


def _umask() -> int:
    before = os.umask(0o022)
    os.umask(before)
    return before


OTHER = Node("d", children={b"mine": Node("d", children={b"data": Node("f", size=9, seed=1)}), b"x": Node("f")})


class TestNotes:
    """What this user or this file system cannot set is left out, said, and not taken for damage."""

    @pytest.fixture
    def not_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 4711)

    @pytest.mark.usefixtures("not_root")
    def test_owners_and_the_bits_that_would_be_another_users(self, tmp_path: Path) -> None:
        other: dict[str, Any] = {"uid": 4242, "gid": 4243}
        entries = [file("a", mode=0o4755, **other), folder("d", mode=0o2770, **other), file("own", mode=0o4711)]
        own = {"uid": os.getuid(), "gid": os.getgid()}
        report = restore_tree(FakeRepository([*entries[:2], replace(entries[2], **own)]), REF, bytes(tmp_path / "out"))
        assert any("owners could not be set" in note for note in report.notes)
        assert any("set-user-ID" in note for note in report.notes)
        found = snapshot_tree(tmp_path / "out")
        assert [one["mode"] for one in found.values()] == [0o755, 0o770, 0o4711]
        assert {one["owner"] for one in found.values()} == {(os.getuid(), os.getgid())}

    @pytest.mark.usefixtures("not_root")
    def test_what_its_owner_cannot_read_is_read_back_first(self, tmp_path: Path) -> None:
        own: dict[str, Any] = {"uid": os.getuid(), "gid": os.getgid()}
        entries = [folder("d", mode=0o100, **own), file("d/x", mode=0, **own), file("e", mode=0o200, **own)]
        report = restore_tree(FakeRepository(entries), REF, bytes(tmp_path / "out"))
        assert report.notes == ()
        modes = []
        for name in ("e", "d", "d/x"):
            modes.append((tmp_path / "out" / name).lstat().st_mode & 0o7777)
            (tmp_path / "out" / name).chmod(0o700)
        assert modes == [0o200, 0o100, 0]

    @pytest.mark.skipif(not ROOT or not shutil.which("setpriv"), reason="takes root, and setpriv to have less of it")
    def test_a_root_that_modes_keep_out_reads_back_first(self, tmp_path: Path) -> None:
        """As in a container that was started without the capability to override them."""
        source = tmp_path / "source"
        shut = Node("d", mode=0, children={b"x": Node("f", mode=0, size=5, seed=1), b"dir": Node("d", mode=0o300)})
        build(source, Node("d", children={b"shut": shut, b"y": Node("f", mode=0o300, size=5, seed=2)}))
        local = Repository.create(LocalStore(bytes(tmp_path / "repo")), now=utc_now())
        back_up(source, local)
        target, without = tmp_path / "out", "-dac_override,-dac_read_search"
        command = [sys.executable, "-m", "drkit", "restore", "--repo", str(tmp_path / "repo"), "--target", str(target)]
        subprocess.run(
            ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}", *command],
            check=True,
            capture_output=True,
            timeout=60,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        assert snapshot_tree(target) == snapshot_tree(source)

    def test_extended_attributes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: object, name: str, *args: object, **kwargs: object) -> None:
            code = errno.ENOTSUP if name == "user.a" else errno.ENOSPC
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "setxattr", refuse)
        repo = FakeRepository([file("a", xattrs={"user.a": "eA=="}), link("l", "x", xattrs={"trusted.b": "eA=="})])
        report = restore_tree(repo, REF, bytes(tmp_path / "out"))
        assert [note for note in report.notes if "trusted.b, user.a" in note]
        assert report.lost == ()

    def test_modes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fchmod = os.fchmod

        def refuse(fd: int, mode: int) -> None:
            if mode not in (0o700, 0o777 & ~_umask()):
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            fchmod(fd, mode)

        monkeypatch.setattr(os, "fchmod", refuse)
        report = restore_tree(FakeRepository([file("a", mode=0o666)]), REF, bytes(tmp_path / "out"))
        assert any("modes could not be set" in note for note in report.notes)

    def test_devices(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object, **kwargs: object) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "mknod", refuse)
        repo = FakeRepository([file("a"), replace(pipe("null"), type="c", rdev=os.makedev(1, 3))])
        report = restore_tree(repo, REF, bytes(tmp_path / "out"))
        assert any("1 devices were not made" in note and "null" in note for note in report.notes)
        assert (report.others, report.lost) == (0, ())
        with pytest.raises(IntegrityError, match="null"):
            restore_plugin(
                FakeRepository([folder("p"), replace(pipe("p/null"), type="c", rdev=259)]),
                REF,
                plugin_row("p"),
                in_place_source=bytes(tmp_path),
            )

    @pytest.mark.skipif(not ROOT, reason="only root can make devices")
    def test_devices_as_root(self, tmp_path: Path) -> None:
        repo = FakeRepository([replace(pipe("null", mode=0o666), type="c", rdev=os.makedev(1, 3))])
        try:
            os.mknod(tmp_path / "probe", 0o20600, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("devices cannot be made here")
        report = restore_tree(repo, REF, bytes(tmp_path / "out"))
        found = (tmp_path / "out/null").stat()
        assert (found.st_rdev, found.st_mode & 0o7777, report.others) == (os.makedev(1, 3), 0o666, 1)

    def test_hard_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object, **kwargs: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
        repo = FakeRepository([file("a", link=7), file("b", link=7), file("c", link=7)])
        report = restore_tree(repo, REF, bytes(tmp_path / "out"))
        assert any("hard links" in note for note in report.notes)
        assert {path.read_bytes() for path in (tmp_path / "out").iterdir()} == {b"content"}
        assert report.files == 3

    def test_times_of_a_coarse_file_system(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        utime = os.utime

        def coarse(path: Any, *, ns: tuple[int, int], **kwargs: Any) -> None:
            utime(path, ns=(ns[0], ns[1] // 2_000_000_000 * 2_000_000_000), **kwargs)

        monkeypatch.setattr(os, "utime", coarse)
        report = restore_tree(FakeRepository([folder("d"), file("d/a")]), REF, bytes(tmp_path / "out"))
        assert any("times" in note for note in report.notes)

    def test_times_that_the_file_system_cannot_store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        utime = os.utime

        def clamped(path: Any, *, ns: tuple[int, int], **kwargs: Any) -> None:
            utime(path, ns=(max(ns[0], -(10**18)), max(ns[1], -(10**18))), **kwargs)

        monkeypatch.setattr(os, "utime", clamped)
        far = -3 * 10**18
        entries = [folder("d", mtime_ns=far), file("d/a", mtime_ns=far), link("l", "x", mtime_ns=far)]
        report = restore_tree(FakeRepository(entries), REF, bytes(tmp_path / "out"))
        assert any(note.startswith("3 times") for note in report.notes)
