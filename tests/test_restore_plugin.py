"""Restoring one plugin: into a directory, or in place, where the live one is replaced as a whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from drkit import osutil
from drkit.errors import DrkitError, IntegrityError, RestoreMismatch, UsageError
from drkit.repo import Repository, SnapshotRef
from drkit.restore import plugin as plugin_module
from drkit.restore import recover_leftovers, restore_plugin
from drkit.restore.check import check_tree
from tests.support.crash import crash_points
from tests.support.restoring import REF, FakeRepository, back_up, file, folder, leftovers, plugin_row, tree_hash
from tests.support.trees import ROOT, Node, build, snapshot_tree, trees

MARKER = {b".claude-plugin": Node("d", children={b"plugin.json": Node("f", size=2, seed=1)})}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two plugins, one in the other, and files of no plugin."""
    inner = Node("d", mode=0o711, mtime_ns=5, children={**MARKER, b"x": Node("f", size=5, seed=2)})
    outer = Node("d", mode=0o2750, mtime_ns=7, children={**MARKER, b"a": Node("f", size=9, seed=1), b"inner": inner})
    category = Node("d", mode=0o751, mtime_ns=9, children={b"outer": outer, b"note": Node("f")})
    path = tmp_path / "source"
    build(path, Node("d", mode=0o755, children={b"category": category, b"README": Node("f", size=3, seed=1)}))
    return path


def restore(
    repo: Repository, ref: SnapshotRef, name: str, target: Path | None = None, in_place: Path | None = None
) -> Any:
    row = repo.plugin(repo.load(ref), name)
    report = restore_plugin(
        repo,
        ref,
        row,
        target=bytes(target) if target else None,
        in_place_source=bytes(in_place) if in_place else None,
    )
    assert report.tree_sha256 == row.tree_sha256
    return report


class TestTarget:
    @pytest.mark.parametrize("name", ["category/outer", "category/outer/inner"])
    def test_its_content_comes_directly_into_the_directory(self, name: str, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        report = restore(repo, ref, name, target=tmp_path / "out")
        assert snapshot_tree(tmp_path / "out", root=True) == snapshot_tree(source / name, root=True)
        assert report.method == "rename"

    def test_an_empty_directory_gets_the_plugins_own_mode(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        (tmp_path / "out").mkdir(mode=0o700)
        assert restore(repo, ref, "category/outer", target=tmp_path / "out").method == "exchange"
        assert snapshot_tree(tmp_path / "out", root=True) == snapshot_tree(source / "category/outer", root=True)

    def test_a_directory_with_content_is_refused(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        with pytest.raises(UsageError, match="not empty") as error:
            restore(repo, ref, "category/outer", target=source)
        assert "--delete" not in error.value.hint

    def test_what_is_lost_is_left_out(self, tmp_path: Path) -> None:
        repo = FakeRepository([folder("p"), file("p/kept"), file("p/lost", b"gone"), file("q")])
        report = restore_plugin(repo, REF, plugin_row("p"), target=bytes(tmp_path / "out"))
        assert [one.path for one in report.lost] == ["lost"]
        assert os.listdir(tmp_path / "out") == ["kept"]

    def test_a_plugin_at_the_root_is_the_source(self, tmp_path: Path) -> None:
        build(tmp_path / "source", Node("d", children={**MARKER, b"x": Node("f", size=5, seed=2)}))
        repo, ref = back_up(tmp_path / "source")
        restore(repo, ref, ".", target=tmp_path / "out")
        assert snapshot_tree(tmp_path / "out") == snapshot_tree(tmp_path / "source")

    def test_a_cold_store_is_asked_for_the_manifest_once(self, source: Path, tmp_path: Path) -> None:
        """With each pass reading it again, the same ranges would be asked for again."""
        repo, ref = back_up(source)
        asked: list[tuple[Any, ...]] = []
        get_range = repo.store.get_range

        def watch(*args: Any) -> bytes:
            asked.append(args)
            return get_range(*args)

        cold = Repository.open(repo.store)
        with mock.patch.object(repo.store, "get_range", watch):
            restore(cold, ref, "category/outer/inner", in_place=source)
        assert len(asked) <= 4
        assert len(set(asked)) >= len(asked) - 1  # the plugin table and the manifest may share a frame

    def test_a_row_that_promises_few_files_holds_no_more(self, tmp_path: Path) -> None:
        entries = [folder("p"), *(folder(f"p/{number:05}") for number in range(5000))]
        reads = 0

        class Counted(FakeRepository):
            def segments(self, *args: Any, **kwargs: Any) -> Any:
                nonlocal reads
                reads += 1
                return super().segments(*args, **kwargs)

        restore_plugin(Counted(entries), REF, _row(entries, "p"), target=bytes(tmp_path / "out"))
        assert reads == 3
        few = entries[:5]
        restore_plugin(Counted(few), REF, _row(few, "p"), target=bytes(tmp_path / "few"))
        assert reads == 4


class TestInPlace:
    @settings(max_examples=15, deadline=None)
    @given(old=trees(max_leaves=8), new=trees(max_leaves=8))
    @pytest.mark.parametrize("way", ["exchange", "rename", "files"])
    def test_any_plugin_replaces_any_other(
        self, way: str, old: Node, new: Node, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        scratch = tmp_path_factory.mktemp("in-place")
        new = Node("d", mode=new.mode, children={**new.children, **MARKER})
        build(scratch / "source", Node("d", children={b"p": new}))
        repo, ref = back_up(scratch / "source")
        wanted = snapshot_tree(scratch / "source", root=True)
        shutil.rmtree(scratch / "source/p")
        build(scratch / "source/p", old)
        with pytest.MonkeyPatch.context() as patch:
            if way != "exchange":
                patch.setattr(osutil, "rename_exchange", _refuse(errno.ENOSYS if way == "rename" else errno.EBUSY))
            assert restore(repo, ref, "p").method == way
        found = snapshot_tree(scratch / "source", root=True)
        assert {path: one for path, one in found.items() if path} == {path: one for path, one in wanted.items() if path}

    def test_the_snapshots_own_source_is_the_default(self, source: Path) -> None:
        repo, ref = back_up(source)
        wanted = snapshot_tree(source / "category/outer", root=True)
        (source / "category/outer/a").write_bytes(b"broken by a script")
        (source / "category/outer/new").write_bytes(b"junk")
        assert restore(repo, ref, "category/outer").method == "exchange"
        assert snapshot_tree(source / "category/outer", root=True) == wanted
        assert leftovers(source) == []

    def test_only_the_plugin_is_touched(self, source: Path) -> None:
        repo, ref = back_up(source)
        (source / "category/note").write_bytes(b"mine")
        (source / "category/outer/a").write_bytes(b"mine, too")
        restore(repo, ref, "category/outer/inner")
        assert (source / "category/note").read_bytes() == b"mine"
        assert (source / "category/outer/a").read_bytes() == b"mine, too"

    def test_missing_directories_above_come_back_as_they_were(self, source: Path) -> None:
        repo, ref = back_up(source)
        wanted = {
            path: one for path, one in snapshot_tree(source).items() if path == b"category" or b"category/outer" in path
        }
        shutil.rmtree(source / "category")
        assert restore(repo, ref, "category/outer").method == "rename"
        found = snapshot_tree(source)
        found.pop(b"README")
        assert found == wanted

    def test_another_source_can_be_named(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        (tmp_path / "other").mkdir()
        restore(repo, ref, "category/outer", in_place=tmp_path / "other")
        assert snapshot_tree(tmp_path / "other/category/outer") == snapshot_tree(source / "category/outer")

    def test_a_backup_meanwhile_sees_nothing_of_it(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not the stage, not the copy of the old tree, not the journal, not a file half placed."""
        repo, ref = back_up(source)
        monkeypatch.setattr(osutil, "rename_exchange", _refuse(errno.EXDEV))
        rename, backed_up = os.rename, []

        def meanwhile(*args: Any, **kwargs: Any) -> None:
            if len(leftovers(source)) >= 4:
                backed_up.append(back_up(source))
            rename(*args, **kwargs)

        monkeypatch.setattr(os, "rename", meanwhile)
        (source / "category/outer/a").unlink()
        restore(repo, ref, "category/outer")
        assert backed_up
        paths = [
            entry.raw_path
            for repo, ref in backed_up
            for part in repo.segments(repo.load(ref))
            for entry in part.entries
        ]
        assert b"category/outer/inner/x" in paths
        assert not [path for path in paths if b".drkit-" in path]

    def test_a_plugin_at_the_root_replaces_the_source(self, tmp_path: Path) -> None:
        build(tmp_path / "source", Node("d", mode=0o750, children={**MARKER, b"x": Node("f", size=5, seed=2)}))
        repo, ref = back_up(tmp_path / "source")
        wanted = snapshot_tree(tmp_path / "source")
        (tmp_path / "source/x").unlink()
        restore(repo, ref, ".")
        assert snapshot_tree(tmp_path / "source") == wanted
        assert (tmp_path / "source").stat().st_mode & 0o7777 == 0o750

    @pytest.mark.parametrize("what", ["file", "link"])
    def test_what_is_no_directory_any_more_is_replaced(self, what: str, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        live = source / "category/outer"
        wanted = snapshot_tree(live, root=True)
        shutil.move(live, tmp_path / "away")
        live.write_bytes(b"x") if what == "file" else live.symlink_to(tmp_path / "away")
        restore(repo, ref, "category/outer")
        assert not live.is_symlink()
        assert snapshot_tree(live, root=True) == wanted
        assert (tmp_path / "away/a").exists()

    @pytest.mark.parametrize("what", ["file", "link"])
    def test_a_link_above_the_plugin_is_not_followed(self, what: str, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        shutil.move(source / "category", tmp_path / "away")
        live = source / "category"
        live.write_bytes(b"x") if what == "file" else live.symlink_to(tmp_path / "away")
        before = snapshot_tree(tmp_path / "away", root=True)
        with pytest.raises(UsageError, match="link or no directory"):
            restore(repo, ref, "category/outer")
        assert snapshot_tree(tmp_path / "away", root=True) == before

    def test_a_missing_source_is_an_error(self, source: Path, tmp_path: Path) -> None:
        repo, ref = back_up(source)
        shutil.move(source, tmp_path / "away")
        with pytest.raises(UsageError, match="is not there"):
            restore(repo, ref, "category/outer")

    def test_a_dry_run_writes_nothing(self, source: Path) -> None:
        repo, ref = back_up(source)
        (source / "category/outer/a").write_bytes(b"broken")
        before = snapshot_tree(source, root=True)
        row = repo.plugin(repo.load(ref), "category/outer")
        report = restore_plugin(repo, ref, row, dry_run=True)
        assert (report.files, report.dirs, report.method) == (4, 4, "")
        assert snapshot_tree(source, root=True) == before


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
            monkeypatch.setattr(osutil, "rename_exchange", _refuse(code))
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
            monkeypatch.setattr(osutil, "rename_exchange", _refuse(code))
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
        monkeypatch.setattr(osutil, "rename_exchange", _refuse(code))
        with pytest.raises(DrkitError):
            restore(repo, ref, "category/outer")
        assert snapshot_tree(source / "category/outer", root=True) == before
        assert leftovers(source) == []


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
        monkeypatch.setattr(osutil, "rename_exchange", _refuse(code))
        assert restore(repo, ref, "category/outer").method == method
        assert snapshot_tree(source / "category/outer", root=True) == wanted
        assert leftovers(source) == []

    def test_where_the_rename_pair_fails_too(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        repo, ref = back_up(source)
        monkeypatch.setattr(osutil, "rename_exchange", _refuse(errno.ENOSYS))
        monkeypatch.setattr(osutil, "rename_noreplace", _refuse(errno.EXDEV))
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
        monkeypatch.setattr(osutil, "rename_exchange", _refuse(errno.EXDEV))
        monkeypatch.setattr(os, "link", _refuse(errno.EXDEV))
        assert restore(repo, ref, "category/outer").method == "files"
        assert snapshot_tree(source / "category/outer", root=True) == wanted


def _row(entries: list[Any], path: str) -> Any:
    """The row of a plugin, its files said to be none."""
    below = [replace(entry, path=entry.path.removeprefix(path).lstrip("/")) for entry in entries]
    return plugin_row(path, tree_hash(below))


def _refuse(code: int) -> Callable[..., Any]:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


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
