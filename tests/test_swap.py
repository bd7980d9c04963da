"""Recovery of a swap that somebody died in: what it believes, and what it leaves alone."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from base64 import b64encode
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from drkit import osutil
from drkit.errors import LockedError, StoreError, UsageError
from drkit.restore import build as build_module
from drkit.restore import recover_leftovers, restore_tree
from drkit.restore.check import check_tree
from tests.support.restoring import REF, STAGE, FakeRepository, file, leftovers
from tests.support.trees import ROOT, Node, build


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
