"""What recovery believes and what it leaves alone; mirroring; the system calls below."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import threading
from base64 import b64encode
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings

from drkit import osutil
from drkit.errors import LockedError, RestoreMismatch, StoreError, UsageError
from drkit.restore import build as build_module
from drkit.restore import recover_leftovers, restore_tree
from drkit.restore.check import check_tree
from drkit.restore.contents import Contents
from drkit.restore.dirs import remove
from drkit.restore.mirror import mirror
from tests.support.restoring import REF, FakeRepository, back_up, file, folder, leftovers
from tests.support.trees import ROOT, Node, build, snapshot_tree, trees

STAGE = ".drkit-0123456789abcdef"


def stage(directory: Path, *records: dict[str, Any], content: bool = True) -> Path:
    """Leave a stage and a journal, as a process that died would."""
    if content:
        (directory / STAGE).mkdir()
        (directory / STAGE / "new").write_bytes(b"new")
    lines = [json.dumps(record) + "\n" for record in records]
    journal = directory / f"{STAGE}.journal"
    journal.write_text("".join(lines))
    journal.chmod(0o600)
    return journal


def live(name: str) -> str:
    return b64encode(name.encode()).decode()


class TestWhatIsBelieved:
    def test_a_stage_that_was_never_swapped_is_removed(self, tmp_path: Path) -> None:
        (tmp_path / "p").mkdir()
        stage(tmp_path, {"state": "staging", "live": live("p")})
        messages = recover_leftovers(bytes(tmp_path))
        assert len(messages) == 1
        assert str(tmp_path / "p") in messages[0]
        assert os.listdir(tmp_path) == ["p"]
        assert recover_leftovers(bytes(tmp_path)) == []

    @pytest.mark.parametrize("text", ["", "{", '{"state": "sw', '{"state": 5}\n', "\0\0\0\n"])
    def test_a_journal_without_a_whole_record_means_that_nothing_began(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "p").mkdir()
        stage(tmp_path).write_text(text)
        assert len(recover_leftovers(bytes(tmp_path))) == 1
        assert os.listdir(tmp_path) == ["p"]

    def test_the_last_whole_record_counts(self, tmp_path: Path) -> None:
        journal = stage(tmp_path, {"state": "staging", "live": live("p")}, {"state": "done", "live": live("p")})
        with open(journal, "a") as out:
            out.write('{"state": "swap", "method": "fi')
        recover_leftovers(bytes(tmp_path))
        assert os.listdir(tmp_path) == []

    def test_a_process_that_lives_is_left_alone(self, tmp_path: Path) -> None:
        journal = stage(tmp_path, {"state": "staging", "live": live("p")})
        with open(journal) as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            assert recover_leftovers(bytes(tmp_path)) == []
            assert len(leftovers(tmp_path)) == 2
        assert len(recover_leftovers(bytes(tmp_path))) == 1

    @pytest.mark.parametrize("name", ["../victim", "a/b", "..", ".", "/etc"])
    def test_a_name_that_leaves_the_directory_is_not_believed(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "victim").mkdir()
        stage(tmp_path / "in", {"state": "swap", "method": "files", "live": live(name)})
        assert "makes no sense" in recover_leftovers(bytes(tmp_path / "in"))[0]
        assert (tmp_path / "victim").is_dir()

    @pytest.mark.skipif(not ROOT, reason="only root can give files away")
    def test_somebody_elses_journal_is_not_believed(self, tmp_path: Path) -> None:
        journal = stage(tmp_path, {"state": "staging", "live": live("p")})
        os.chown(journal, 12345, 12345)
        assert recover_leftovers(bytes(tmp_path)) == []
        assert (tmp_path / STAGE / "new").exists()

    @pytest.mark.parametrize("how", ["writable", "linked", "symlink", "pipe", "other name"])
    def test_what_others_could_have_made_is_not_believed(self, how: str, tmp_path: Path) -> None:
        journal = stage(tmp_path, {"state": "staging", "live": live("p")})
        if how == "writable":
            journal.chmod(0o666)
        elif how == "linked":
            os.link(journal, tmp_path / "elsewhere")
        elif how == "other name":
            journal.rename(tmp_path / ".drkit-short.journal")
        else:
            journal.rename(tmp_path / "elsewhere")
            journal.symlink_to("elsewhere") if how == "symlink" else os.mkfifo(journal)
        assert recover_leftovers(bytes(tmp_path)) == []
        assert (tmp_path / STAGE / "new").exists()

    def test_a_directory_that_is_not_there_has_no_leftovers(self, tmp_path: Path) -> None:
        assert recover_leftovers(bytes(tmp_path / "no")) == []


class TestUnclear:
    def test_what_somebody_made_meanwhile_is_left_alone_with_everything_else(self, tmp_path: Path) -> None:
        """Died between the two renames; then somebody made the plugin anew: three trees, and each may be wanted."""
        for name in ("p", f"{STAGE}.old"):
            (tmp_path / name).mkdir()
        stage(tmp_path, {"state": "swap", "method": "rename", "live": live("p"), "new": [1, 2], "old": [1, 3]})
        before = sorted(os.listdir(tmp_path))
        assert "alone" in recover_leftovers(bytes(tmp_path))[0]
        assert sorted(os.listdir(tmp_path)) == before

    def test_a_target_that_appears_meanwhile_is_not_replaced(self, tmp_path: Path) -> None:
        target = tmp_path / "out"

        def meanwhile(*args: Any, **kwargs: Any) -> Any:
            target.mkdir()
            (target / "mine").write_bytes(b"data")
            return check_tree(*args, **kwargs)

        with mock.patch.object(build_module, "check_tree", meanwhile), pytest.raises(StoreError, match="somebody else"):
            restore_tree(FakeRepository([file("a")]), REF, bytes(target), delete=True)
        assert os.listdir(tmp_path) == ["out"]
        assert os.listdir(target) == ["mine"]

    def test_a_target_that_is_filled_meanwhile_is_not_replaced(self, tmp_path: Path) -> None:
        target = tmp_path / "out"
        target.mkdir()

        def meanwhile(*args: Any, **kwargs: Any) -> Any:
            (target / "mine").write_bytes(b"data")
            return check_tree(*args, **kwargs)

        with mock.patch.object(build_module, "check_tree", meanwhile), pytest.raises(UsageError, match="not empty"):
            restore_tree(FakeRepository([file("a")]), REF, bytes(target))
        assert os.listdir(tmp_path) == ["out"]
        assert os.listdir(target) == ["mine"]

    def test_a_target_that_is_replaced_meanwhile_stays(self, tmp_path: Path) -> None:
        target = tmp_path / "out"
        target.mkdir()

        def meanwhile(*args: Any, **kwargs: Any) -> Any:
            (tmp_path / "other").mkdir()
            (tmp_path / "other/mine").write_bytes(b"data")
            target.rmdir()
            (tmp_path / "other").rename(target)
            return check_tree(*args, **kwargs)

        with mock.patch.object(build_module, "check_tree", meanwhile), pytest.raises(StoreError, match="somebody else"):
            restore_tree(FakeRepository([file("a")]), REF, bytes(target), delete=True)
        assert os.listdir(tmp_path) == ["out"]
        assert os.listdir(target) == ["mine"]

    def test_two_restores_inside_of_one_mount_point(self, tmp_path: Path) -> None:
        target = tmp_path / "out"
        target.mkdir()
        held = stage(target, {"state": "staging"}, content=False).open()
        fcntl.flock(held, fcntl.LOCK_EX)
        mounts = mock.patch.object(osutil, "mount_points", return_value=frozenset({bytes(target)}))
        with held, mounts, pytest.raises(LockedError):
            restore_tree(FakeRepository([file("a")]), REF, bytes(target), delete=True)
        assert os.listdir(target) == [f"{STAGE}.journal"]

    def test_a_failed_recovery_is_an_error_that_can_be_tried_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "p").mkdir()
        stage(tmp_path, {"state": "swap", "method": "files", "live": live("p")})
        with monkeypatch.context() as patch:

            def fail(*args: object, **kwargs: object) -> None:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

            patch.setattr(os, "link", fail)
            with pytest.raises(StoreError, match="neither finished nor undone"):
                recover_leftovers(bytes(tmp_path))
        assert len(recover_leftovers(bytes(tmp_path))) == 1
        assert os.listdir(tmp_path) == ["p"]
        assert (tmp_path / "p/new").read_bytes() == b"new"

    def test_an_old_tree_that_cannot_be_removed_becomes_a_note(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build(tmp_path / "out", Node("d", children={b"stuck": Node("f")}))
        unlink = os.unlink

        def refuse(path: Any, **kwargs: Any) -> None:
            if path in ("stuck", b"stuck"):
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            unlink(path, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", refuse)
            report = restore_tree(FakeRepository([file("a")]), REF, bytes(tmp_path / "out"), delete=True)
            assert "was left in" in report.notes[0]
            assert len(recover_leftovers(bytes(tmp_path))) == 1
        assert os.listdir(tmp_path / "out") == ["a"]
        assert len(recover_leftovers(bytes(tmp_path))) == 1
        assert os.listdir(tmp_path) == ["out"]


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
