"""Where a snapshot is restored to: what is there is kept or replaced as asked, and nothing beside it is touched."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from drkit import osutil
from drkit.clock import utc_now
from drkit.errors import NoSpace, UsageError
from drkit.repo import Repository, SnapshotRef
from drkit.restore import restore_plugin, restore_tree, tree
from drkit.store import LocalStore
from tests.support.restoring import (
    back_up,
    leftovers,
    one_of_each,
    small_files_ahead,  # noqa: F401 - every test here runs both ways
)
from tests.support.trees import ROOT, Node, build, snapshot_tree

OTHER = Node("d", children={b"mine": Node("d", children={b"data": Node("f", size=9, seed=1)}), b"x": Node("f")})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return one_of_each(tmp_path / "source")


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
