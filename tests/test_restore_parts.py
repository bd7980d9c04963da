"""What restoring is made of: mirroring, removing, the process that reads back, and the system calls below."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings

from drkit import osutil
from drkit.errors import RestoreMismatch, StoreError
from drkit.restore import build as build_module
from drkit.restore import restore_tree
from drkit.restore.contents import Contents
from drkit.restore.dirs import remove
from drkit.restore.mirror import mirror
from tests.support.restoring import REF, STAGE, FakeRepository, back_up, file, folder
from tests.support.trees import ROOT, Node, build, snapshot_tree, trees


class _opened:  # noqa: N801
    """A directory's descriptor for a block."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> int:
        self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def _unlinked(tree: dict[bytes, Any]) -> dict[bytes, Any]:
    return {path: {key: value for key, value in one.items() if key != "links"} for path, one in tree.items()}


class TestMirror:
    @settings(max_examples=40, deadline=None)
    @given(source=trees(max_leaves=10), target=trees(max_leaves=10))
    def test_the_target_becomes_the_source(
        self, source: Node, target: Node, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        scratch = tmp_path_factory.mktemp("mirror")
        for name, tree in (("source", source), ("target", target)):
            build(scratch / name, tree)
        with _opened(scratch / "source") as source_fd, _opened(scratch / "target") as target_fd:
            wanted = _unlinked(snapshot_tree(scratch / "source", root=True))
            for _ in range(2):  # again after it is done changes nothing
                mirror(source_fd, target_fd, f"{STAGE}.tmp".encode())
                assert _unlinked(snapshot_tree(scratch / "target", root=True)) == wanted
        assert _unlinked(snapshot_tree(scratch / "source", root=True)) == wanted

    def test_without_links_everything_is_copied(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        xattrs = (("user.a", b"1"),)
        children = {
            b"file": Node("f", mode=0o640, size=3_000_000, seed=1, xattrs=xattrs, owner=(5, 6) if ROOT else None),
            b"link": Node("l", target=b"nowhere"),
            b"pipe": Node("p", mode=0o604),
        }
        build(tmp_path / "source", Node("d", children=children))
        build(tmp_path / "target", Node("d", children={b"file": Node("d", children={b"x": Node("f")})}))
        with socket.socket(socket.AF_UNIX) as listening:
            with _opened(tmp_path / "source") as fd:
                listening.bind(f"/proc/self/fd/{fd}/socket")

            def refuse(*args: object, **kwargs: object) -> None:
                raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))

            monkeypatch.setattr(os, "link", refuse)
            with _opened(tmp_path / "source") as source_fd, _opened(tmp_path / "target") as target_fd:
                mirror(source_fd, target_fd, f"{STAGE}.tmp".encode())
        found, wanted = snapshot_tree(tmp_path / "target"), snapshot_tree(tmp_path / "source")
        assert found == wanted
        assert (tmp_path / "target/file").stat().st_ino != (tmp_path / "source/file").stat().st_ino


class TestRemove:
    @settings(max_examples=25, deadline=None)
    @given(tree=trees())
    def test_anything_can_be_removed(self, tree: Node, tmp_path_factory: pytest.TempPathFactory) -> None:
        scratch = tmp_path_factory.mktemp("remove")
        build(scratch / "tree", tree)
        (scratch / "kept").mkdir()
        with _opened(scratch) as fd:
            remove(fd, b"tree")
            remove(fd, b"tree")
        assert os.listdir(scratch) == ["kept"]

    def test_links_are_removed_and_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "victim").mkdir()
        (tmp_path / "victim/file").write_bytes(b"mine")
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree/link").symlink_to("../victim")
        (tmp_path / "link").symlink_to("victim")
        with _opened(tmp_path) as fd:
            remove(fd, b"tree")
            remove(fd, b"link")
        assert os.listdir(tmp_path) == ["victim"]
        assert os.listdir(tmp_path / "victim") == ["file"]

    def test_another_file_system_is_not_entered(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        build(tmp_path / "tree", Node("d", children={b"mounted": Node("d", children={b"x": Node("f")})}))
        inode = (tmp_path / "tree/mounted").stat().st_ino
        fstat = os.fstat

        def elsewhere(fd: int) -> os.stat_result:
            found = fstat(fd)
            return os.stat_result((*found[:2], 1 << 40, *found[3:10])) if found.st_ino == inode else found

        monkeypatch.setattr(os, "fstat", elsewhere)
        with _opened(tmp_path) as fd, pytest.raises(OSError, match="mounted here"):
            remove(fd, b"tree")
        assert (tmp_path / "tree/mounted/x").exists()


class TestSecondProcess:
    """Contents are read back by a second process where there are many files."""

    @pytest.fixture(autouse=True)
    def always(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(build_module, "_APART", 1)

    def test_it_agrees(self, tmp_path: Path) -> None:
        children = {
            b"empty": Node("f"),
            b"\xff\n": Node("f", size=10, seed=1),
            b"large": Node("f", size=3_000_000, seed=2),
            b"sealed": Node("f", mode=0, size=5, seed=2) if ROOT else Node("f"),
        }
        build(tmp_path / "source", Node("d", children={**children, b"dir": Node("d", children=children)}))
        repo, ref = back_up(tmp_path / "source")
        report = restore_tree(repo, ref, bytes(tmp_path / "out"))
        assert report.tree_sha256 == repo.load(ref).tree_sha256
        assert snapshot_tree(tmp_path / "out") == snapshot_tree(tmp_path / "source")

    @pytest.mark.parametrize("change", ["content", "gone", "pipe"])
    def test_it_finds_what_differs(self, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        original = Contents.finish
        expect = Contents.expect

        def later(self: Contents, path: bytes, digest: bytes) -> None:
            if path == b"dir/b":  # after the first process looked at it
                for stage_dir in tmp_path.glob(".drkit-*/dir/b"):
                    stage_dir.unlink()
                    if change == "content":
                        stage_dir.write_bytes(b"CONTENT")
                    elif change == "pipe":
                        os.mkfifo(stage_dir)
            expect(self, path, digest)

        monkeypatch.setattr(Contents, "expect", later)
        monkeypatch.setattr(Contents, "finish", original)
        repo = FakeRepository([file("a"), folder("dir"), file("dir/b"), file("dir/c")])
        with pytest.raises(RestoreMismatch, match="dir/b"):
            restore_tree(repo, REF, bytes(tmp_path / "out"))
        assert os.listdir(tmp_path) == []

    def test_where_there_is_none_the_first_reads_by_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", None)
        report = restore_tree(FakeRepository([file("a")]), REF, bytes(tmp_path / "out"))
        assert report.tree_sha256 == FakeRepository([file("a")]).tree

    def test_its_death_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        finish, before = Contents.finish, threading.active_count()

        def dead(self: Contents) -> list[bytes]:
            self._process.kill()
            self._process.wait()
            return finish(self)

        monkeypatch.setattr(Contents, "finish", dead)
        with pytest.raises(StoreError):
            restore_tree(FakeRepository([file("a")]), REF, bytes(tmp_path / "out"))
        assert os.listdir(tmp_path) == []
        assert threading.active_count() == before


class TestSystemCalls:
    def test_exchange_swaps_two_names(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").write_bytes(b"file")
        with _opened(tmp_path) as fd:
            osutil.rename_exchange(fd, b"a", fd, b"b")
            with pytest.raises(FileNotFoundError):
                osutil.rename_exchange(fd, b"a", fd, b"c")
        assert (tmp_path / "b").is_dir()
        assert (tmp_path / "a").read_bytes() == b"file"

    @pytest.mark.parametrize("native", [True, False])
    def test_noreplace_never_replaces(self, native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if not native:
            monkeypatch.setattr(osutil, "_libc_function", lambda name: None)
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        with _opened(tmp_path) as fd:
            with pytest.raises(FileExistsError):
                osutil.rename_noreplace(fd, b"a", fd, b"b")
            osutil.rename_noreplace(fd, b"a", fd, b"c")
            osutil.rename_noreplace(osutil.AT_FDCWD, bytes(tmp_path / "c"), fd, b"d")
        assert sorted(os.listdir(tmp_path)) == ["b", "d"]

    def test_without_the_calls_there_is_a_fallback_or_enosys(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(osutil, "_libc_function", lambda name: None)
        synced: list[bool] = []
        monkeypatch.setattr(os, "sync", lambda: synced.append(True))
        osutil.syncfs(0)
        assert synced
        with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
            osutil.rename_exchange(0, b"a", 0, b"b")

    def test_sync_errors_are_raised(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            osutil.syncfs(-1)
        osutil.fsync_dir(bytes(tmp_path))
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(NotADirectoryError):
            osutil.fsync_dir(bytes(tmp_path / "file"))

    def test_mount_points_are_unescaped(self) -> None:
        text = b"36 35 98:0 /mnt1 /mnt/with\\040space\\134 rw,noatime shared:1 - ext3 /dev/root rw\n\n"
        with mock.patch("builtins.open", mock.mock_open(read_data=text)):
            assert osutil.mount_points() == {b"/mnt/with space\\"}
        with mock.patch("builtins.open", side_effect=FileNotFoundError):
            assert osutil.mount_points() == frozenset()
