"""Restoring one plugin: into a directory, or in place, where the live one is replaced as a whole."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from drkit import osutil
from drkit.errors import UsageError
from drkit.repo import Repository
from drkit.restore import restore_plugin
from tests.support.plugins import MARKER, refusing, restore, two_plugins
from tests.support.restoring import REF, FakeRepository, back_up, file, folder, leftovers, plugin_row, tree_hash
from tests.support.trees import Node, build, snapshot_tree, trees


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return two_plugins(tmp_path / "source")


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


def _row(entries: list[Any], path: str) -> Any:
    """The row of a plugin, its files said to be none."""
    below = [replace(entry, path=entry.path.removeprefix(path).lstrip("/")) for entry in entries]
    return plugin_row(path, tree_hash(below))


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
                patch.setattr(osutil, "rename_exchange", refusing(errno.ENOSYS if way == "rename" else errno.EBUSY))
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
        monkeypatch.setattr(osutil, "rename_exchange", refusing(errno.EXDEV))
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
