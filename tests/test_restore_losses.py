"""What cannot come back, or not as it was: it is said, and everything else comes back."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from drkit.clock import utc_now
from drkit.errors import IntegrityError, RestoreMismatch
from drkit.repo import Repository
from drkit.restore import build as build_module
from drkit.restore import restore_plugin, restore_tree
from drkit.restore.check import check_tree
from drkit.store import LocalStore
from tests.support.restoring import (
    REF,
    FakeRepository,
    back_up,
    file,
    folder,
    link,
    pipe,
    plugin_row,
    sha,
    small_files_ahead,  # noqa: F401 - every test here runs both ways
)
from tests.support.trees import ROOT, Node, build, snapshot_tree


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


def _umask() -> int:
    before = os.umask(0o022)
    os.umask(before)
    return before
