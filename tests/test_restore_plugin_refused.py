"""A plugin that cannot be replaced in one step: another way is found, or the live one is left as it is."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drkit import osutil
from drkit.errors import DrkitError, IntegrityError, RestoreMismatch, UsageError
from drkit.restore import plugin as plugin_module
from drkit.restore import recover_leftovers, restore_plugin
from drkit.restore.check import check_tree
from tests.support.crash import crash_points
from tests.support.plugins import MARKER, refusing, restore, two_plugins
from tests.support.restoring import REF, FakeRepository, back_up, file, folder, leftovers, plugin_row
from tests.support.trees import ROOT, Node, build, snapshot_tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return two_plugins(tmp_path / "source")


class TestRefusal:
    """The live plugin stays exactly as it is where the restored one would not be right."""

    @pytest.mark.parametrize("dry_run", [False, True])
    @pytest.mark.parametrize("exclude", ["node_modules", "*.log", "/category/outer/inner/*.log", "category/**/deep"])
    def test_what_was_excluded_is_not_deleted(self, exclude: str, dry_run: bool, source: Path, tmp_path: Path) -> None:
        inner = source / "category/outer/inner"
        (inner / "node_modules/deep").mkdir(parents=True)
        (inner / "node_modules/deep/x").write_bytes(b"only here")
        (inner / "run.log").write_bytes(b"only here")
        repo, ref = back_up(source, excludes=(exclude,))
        before = snapshot_tree(source, root=True)
        for name, path in (("category/outer", None), ("category/outer/inner", bytes(source))):
            row = repo.plugin(repo.load(ref), name)
            with pytest.raises(UsageError, match=r"excluded: category/outer/inner/(node_modules|run\.log)") as error:
                restore_plugin(repo, ref, row, in_place_source=path, dry_run=dry_run)
            assert "--target" in error.value.hint
        assert snapshot_tree(source, root=True) == before
        restore(repo, ref, "category/outer", target=tmp_path / "out")

    def test_excludes_that_match_nothing_in_the_live_plugin_hinder_nothing(self, source: Path) -> None:
        (source / "node_modules").mkdir()
        repo, ref = back_up(source, excludes=("node_modules", "/outer"))
        (source / "category/outer/a").unlink()
        restore(repo, ref, "category/outer")
        shutil.rmtree(source / "category/outer")
        restore(repo, ref, "category/outer")
        assert (source / "category/outer/a").exists()
        assert (source / "node_modules").exists()

    def test_a_plugin_at_the_root_keeps_what_was_excluded(self, tmp_path: Path) -> None:
        build(tmp_path / "source", Node("d", children={**MARKER, b"cache": Node("f", size=5, seed=2)}))
        repo, ref = back_up(tmp_path / "source", excludes=("/cache",))
        with pytest.raises(UsageError, match="excluded: cache"):
            restore(repo, ref, ".")
        assert (tmp_path / "source/cache").exists()

    @pytest.mark.parametrize(
        "segments",
        [
            ([folder("p"), file("p/kept"), file("p/lost", b"gone")],),
            ([folder("p"), file("p/kept")], "its pack is missing"),
        ],
    )
    def test_losses(self, segments: tuple[Any, ...], tmp_path: Path) -> None:
        build(tmp_path / "p", Node("d", children={b"lost": Node("f", size=3, seed=1)}))
        before = snapshot_tree(tmp_path, root=True)
        with pytest.raises(IntegrityError, match="was left as it is") as error:
            restore_plugin(FakeRepository(*segments), REF, plugin_row("p"), in_place_source=bytes(tmp_path))
        assert "--target" in error.value.hint
        assert _without_root_time(snapshot_tree(tmp_path, root=True)) == _without_root_time(before)

    def test_missing_directories_above_are_gone_again(self, tmp_path: Path) -> None:
        repo = FakeRepository([folder("a"), folder("a/b"), folder("a/b/p"), file("a/b/p/lost", b"gone")])
        with pytest.raises(IntegrityError):
            restore_plugin(repo, REF, plugin_row("a/b/p"), in_place_source=bytes(tmp_path))
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("refused", [(), (errno.EINVAL,), (errno.EXDEV,)])
    def test_a_tree_that_is_wrong_when_live_is_taken_back(
        self, refused: tuple[int, ...], source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repo, ref = back_up(source)
        (source / "category/outer/a").write_bytes(b"the present state")
        before = snapshot_tree(source / "category/outer", root=True)
        for code in refused:
            monkeypatch.setattr(osutil, "rename_exchange", refusing(code))
        monkeypatch.setattr(plugin_module, "check_tree", _wrong_when_live(source / "category/outer"))
        with pytest.raises(RestoreMismatch, match="extra"):
            restore(repo, ref, "category/outer")
        assert snapshot_tree(source / "category/outer", root=True) == before
        assert leftovers(source) == []

    @pytest.mark.parametrize("refused", [(), (errno.EINVAL,), (errno.EXDEV,)])
    def test_killed_while_it_is_taken_back(
        self, refused: tuple[int, ...], source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repo, ref = back_up(source)
        live = source / "category/outer"
        new = snapshot_tree(live, root=True)
        (live / "a").write_bytes(b"the present state")
        old = snapshot_tree(live, root=True)
        shutil.copytree(source, source.parent / "kept", symlinks=True)
        for code in refused:
            monkeypatch.setattr(osutil, "rename_exchange", refusing(code))
        monkeypatch.setattr(plugin_module, "check_tree", _wrong_when_live(live))

        def make() -> Path:
            shutil.rmtree(source)
            shutil.copytree(source.parent / "kept", source, symlinks=True)
            return source

        def attempt(_: Path) -> None:
            with pytest.raises(RestoreMismatch):
                restore(repo, ref, "category/outer")

        for point in crash_points(make, attempt):
            recover_leftovers(bytes(live.parent))
            found = _content(snapshot_tree(live, root=True))
            found.pop(b"extra", None)  # died before it was taken back, with what the "disk" made of it
            assert found in (_content(old), _content(new)), (point.number, point.call)
            assert leftovers(source) == []

    def test_what_is_mounted_in_it(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        repo, ref = back_up(source)
        before = snapshot_tree(source, root=True)
        monkeypatch.setattr(osutil, "mount_points", lambda: frozenset({bytes(source / "category/outer/inner")}))
        with pytest.raises(UsageError, match="mounted inside"):
            restore(repo, ref, "category/outer")
        assert snapshot_tree(source, root=True) == before

    @pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
    def test_another_failure_of_the_exchange(self, code: int, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        repo, ref = back_up(source)
        before = snapshot_tree(source / "category/outer", root=True)
        monkeypatch.setattr(osutil, "rename_exchange", refusing(code))
        with pytest.raises(DrkitError):
            restore(repo, ref, "category/outer")
        assert snapshot_tree(source / "category/outer", root=True) == before
        assert leftovers(source) == []


def _wrong_when_live(live: Path) -> Callable[..., Any]:
    """A check that finds something extra, as if the disk had made it while the tree took its place."""

    def check(*args: Any, **kwargs: Any) -> Any:
        (live / "extra").write_bytes(b"")
        try:
            return check_tree(*args, **kwargs)
        except RestoreMismatch as error:
            raise RestoreMismatch(f"extra: {error}") from error

    return check


def _content(tree: dict[bytes, Any]) -> dict[bytes, Any]:
    return {path: (one["type"], one["mode"], one.get("sha256")) for path, one in tree.items()}


def _without_root_time(tree: dict[bytes, Any]) -> dict[bytes, Any]:
    """The directory above has the stage made and removed in it, so its time changes."""
    return {**tree, b"": {**tree[b""], "mtime_ns": 0}}


class TestWays:
    @pytest.mark.parametrize(
        ("code", "method"),
        [
            (errno.ENOSYS, "rename"),
            (errno.EINVAL, "rename"),
            (errno.EBUSY, "files"),
            (errno.EXDEV, "files"),
            (errno.EACCES, "files"),
            (errno.EPERM, "files"),
            (errno.EROFS, "files"),
        ],
    )
    def test_the_report_says_which_way_was_used(
        self, code: int, method: str, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repo, ref = back_up(source)
        wanted = snapshot_tree(source / "category/outer", root=True)
        (source / "category/outer/a").unlink()
        monkeypatch.setattr(osutil, "rename_exchange", refusing(code))
        assert restore(repo, ref, "category/outer").method == method
        assert snapshot_tree(source / "category/outer", root=True) == wanted
        assert leftovers(source) == []

    def test_where_the_rename_pair_fails_too(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        repo, ref = back_up(source)
        monkeypatch.setattr(osutil, "rename_exchange", refusing(errno.ENOSYS))
        monkeypatch.setattr(osutil, "rename_noreplace", refusing(errno.EXDEV))
        assert restore(repo, ref, "category/outer").method == "files"

    @pytest.mark.skipif(not ROOT, reason="only root may mount")
    def test_a_lower_layer_of_an_overlay(self, source: Path, tmp_path: Path) -> None:
        """Directories of a lower layer can be neither exchanged nor renamed."""
        for name in ("upper", "work", "merged"):
            (tmp_path / name).mkdir()
        layers = f"lowerdir={source},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
        mount = ["mount", "-t", "overlay", "overlay", "-o", layers, str(tmp_path / "merged")]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("overlays cannot be mounted here")
        live = tmp_path / "merged/category/outer"
        try:
            repo, ref = back_up(tmp_path / "merged")
            wanted = snapshot_tree(live, root=True)
            (live / "a").write_bytes(b"broken")
            (live / "junk").mkdir()
            assert restore(repo, ref, "category/outer").method == "files"
            assert snapshot_tree(live, root=True) == wanted
            assert leftovers(tmp_path / "merged") == []
        finally:
            subprocess.run(["umount", str(tmp_path / "merged")], check=True)

    def test_without_hard_links_files_are_copied(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        repo, ref = back_up(source)
        wanted = snapshot_tree(source / "category/outer", root=True)
        (source / "category/outer/a").unlink()
        monkeypatch.setattr(osutil, "rename_exchange", refusing(errno.EXDEV))
        monkeypatch.setattr(os, "link", refusing(errno.EXDEV))
        assert restore(repo, ref, "category/outer").method == "files"
        assert snapshot_tree(source / "category/outer", root=True) == wanted
