"""Killed at any call, or out of space at any call, the live plugin is the old or the new one, and nothing is left."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from drkit import osutil
from drkit.errors import DrkitError, NoSpace
from drkit.repo import Repository, SnapshotRef
from drkit.restore import recover_leftovers, restore_plugin, restore_tree
from tests.support.crash import crash_points, enospc_points, trace_calls
from tests.support.restoring import back_up, leftovers
from tests.support.trees import Node, build, snapshot_tree

PLUGIN = "plugins/one"
NEW = Node(
    "d",
    mode=0o750,
    children={
        b"README.md": Node("f", size=20, seed=1),
        b"changed": Node("f", size=30, seed=2),
        b"dir": Node("d", mode=0o700, children={b"inner": Node("f", size=3, seed=3), b"link": Node("l", target=b"x")}),
        b"kind": Node("d", children={b"x": Node("f")}),
    },
)
OLD = Node(
    "d",
    children={
        b"README.md": Node("f", size=20, seed=1),
        b"changed": Node("f", size=10, seed=3),
        b"dir": Node("d", children={b"inner": Node("f", size=4, seed=3), b"extra": Node("f")}),
        b"gone": Node("d", children={b"deep": Node("f", size=9, seed=2)}),
        b"kind": Node("f", size=1, seed=1),
    },
)
Refuse = Callable[..., Any]


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, SnapshotRef, dict[bytes, Any]]:
    """A repository with the plugin as it was, and the plugin's description."""
    source = tmp_path_factory.mktemp("source")
    (source / "plugins").mkdir()
    build(source / PLUGIN, _with_manifest(NEW))
    repo, ref = back_up(source)
    repo.index  # noqa: B018  # loaded now, so that no run has to
    return repo, ref, snapshot_tree(source / PLUGIN, root=True)


def _with_manifest(tree: Node) -> Node:
    plugin = Node("d", children={b"plugin.json": Node("f", size=2, seed=1)})
    return Node("d", mode=tree.mode, children={**tree.children, b".claude-plugin": plugin})


class InPlace:
    """Restores the plugin in place below a source that `make` makes anew."""

    def __init__(
        self, root: Path, backed_up: tuple[Repository, SnapshotRef, dict[bytes, Any]], old: Node | None, way: str = ""
    ) -> None:
        self.root = root
        self.inside = way == "inside"
        self.repo, self.ref, self.new = backed_up
        self.old_tree = old
        self.make()
        self.old = snapshot_tree(root / PLUGIN, root=True) if old else None

    def make(self) -> Path:
        shutil.rmtree(self.root, ignore_errors=True)
        (self.root / "plugins").mkdir(parents=True)
        (self.root / "plugins/neighbour").write_bytes(b"neighbour")
        if self.old_tree:
            build(self.root / PLUGIN, self.old_tree)
        return self.root

    def restore(self, root: Path) -> Any:
        row = self.repo.plugin(self.repo.load(self.ref), PLUGIN)
        return restore_plugin(self.repo, self.ref, row, in_place_source=bytes(root))

    def present(self) -> dict[bytes, Any] | None:
        return snapshot_tree(self.root / PLUGIN, root=True) if (self.root / PLUGIN).exists() else None

    def same(self, *trees: dict[bytes, Any] | None) -> list[Any]:
        """Comparable descriptions. Where the stage lies inside of the plugin, without the plugin's own time: who
        dies just before the stage's journal says what it was, or just after the journal is gone, cannot set it."""
        if self.inside:
            return [{**tree, b"": {**tree[b""], "mtime_ns": 0}} if tree else tree for tree in trees]
        return list(trees)

    def recovered(self) -> dict[bytes, Any] | None:
        """What is live after the next run looked into the directory above and the plugin's own."""
        _recover(self.root)
        assert leftovers(self.root) == []
        assert (self.root / "plugins/neighbour").read_bytes() == b"neighbour"
        return self.present()


@contextmanager
def refusing(code: int, *names: str) -> Iterator[None]:
    """Let these functions of osutil fail, as a file system that cannot do them."""

    def refuse(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    with ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(osutil, name, refuse))
        yield


@contextmanager
def mounted(path: Path) -> Iterator[None]:
    """Let a directory look like a mount point: the stage then lies inside of it."""
    with mock.patch.object(osutil, "mount_points", return_value=frozenset({bytes(path)})):
        yield


WAYS: dict[str, tuple[str, Callable[[Path], AbstractContextManager[None]]]] = {
    "exchange": ("exchange", lambda _: refusing(0)),
    "rename": ("rename", lambda _: refusing(errno.EINVAL, "rename_exchange")),
    "files": ("files", lambda _: refusing(errno.EXDEV, "rename_exchange")),
    "inside": ("files", lambda root: mounted(root / PLUGIN)),
}


class TestKilled:
    @pytest.mark.parametrize("way", WAYS)
    def test_the_plugin_is_old_or_new_after_the_next_run(self, way: str, tmp_path: Path, backed_up: Any) -> None:
        job = InPlace(tmp_path / "live", backed_up, OLD, way)
        seen = set()
        with WAYS[way][1](job.root):
            for point in crash_points(job.make, job.restore):
                if WAYS[way][0] != "files":
                    assert job.present() in (job.old, job.new) or (way == "rename" and job.present() is None)
                found, old, new = job.same(job.recovered(), job.old, job.new)
                assert found in (old, new), (point.number, point.call)
                seen.add(found == new)
            assert job.restore(job.make()).method == WAYS[way][0]
        assert seen == {True, False}
        assert job.present() == job.new

    def test_a_missing_plugin_is_missing_or_new(self, tmp_path: Path, backed_up: Any) -> None:
        job = InPlace(tmp_path / "live", backed_up, None)
        seen = set()
        for point in crash_points(job.make, job.restore):
            found = job.recovered()
            assert found in (None, job.new), (point.number, point.call)
            seen.add(found is None)
        assert seen == {True, False}

    @pytest.mark.parametrize("way", WAYS)
    def test_recovery_can_be_killed_too(self, way: str, tmp_path: Path, backed_up: Any) -> None:
        """Die in the middle of the swap, then at each call of the recovery: the second recovery ends it."""
        job = InPlace(tmp_path / "live", backed_up, OLD)
        with WAYS[way][1](job.root):
            calls = trace_calls(job.make, job.restore)
            middle = [number for number, call in enumerate(calls, 1) if call in ("rename_exchange", "rename_noreplace")]
            stop = middle[-1] + 1 if middle else len(calls) * 3 // 5

            def half_way() -> Path:
                for point in crash_points(job.make, job.restore, limit=len(calls)):
                    if point.number == stop:
                        break
                return job.root

            died = half_way()
            shutil.copytree(died, tmp_path / "died", symlinks=True)

            def again() -> Path:
                shutil.rmtree(job.root)
                shutil.copytree(tmp_path / "died", job.root, symlinks=True)
                return job.root

            for point in crash_points(again, _recover):
                assert _content(job.recovered()) in (_content(job.old), _content(job.new)), (point.number, point.call)


def _recover(root: Path) -> None:
    recover_leftovers(bytes(root / "plugins"))
    recover_leftovers(bytes(root / PLUGIN))


def _content(tree: dict[bytes, Any] | None) -> Any:
    """A description without times and links: a copy of a crashed directory has its own."""
    assert tree is not None
    return {path: (one["type"], one.get("sha256"), one.get("target")) for path, one in tree.items()}


class TestFull:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("lasting", [False, True])
    def test_a_full_disk_leaves_the_old_plugin_or_the_new(
        self, way: str, lasting: bool, tmp_path: Path, backed_up: Any
    ) -> None:
        job = InPlace(tmp_path / "live", backed_up, OLD, way)
        with WAYS[way][1](job.root):
            for point in enospc_points(job.make, job.restore, lasting=lasting):
                if point.error is None:
                    assert job.recovered() == job.new, point
                    continue
                assert isinstance(point.error, DrkitError), point
                if not lasting:
                    assert job.present() == job.old, point
                    assert leftovers(job.root) == [], point
                assert job.recovered() in (job.old, job.new), point

    @pytest.mark.parametrize("where", ["missing", "empty", "mounted"])
    def test_a_target_is_as_it_was(self, where: str, tmp_path: Path, backed_up: Any) -> None:
        repo, ref, _ = backed_up
        target = tmp_path / "above/target"

        def make() -> bytes:
            shutil.rmtree(target.parent, ignore_errors=True)
            target.parent.mkdir()
            if where != "missing":
                target.mkdir()
            return bytes(target)

        with mounted(target) if where == "mounted" else refusing(0):
            for point in enospc_points(make, lambda path: restore_tree(repo, ref, path)):
                if point.error is None:  # it was in place, and only its stage could not be removed
                    assert recover_leftovers(point.state)
                    assert snapshot_tree(target / PLUGIN, root=True) == backed_up[2]
                    continue
                assert isinstance(point.error, NoSpace), point
                assert leftovers(tmp_path) == [], point
                assert target.exists() == (where != "missing"), point
                assert not target.exists() or not os.listdir(target), point

    def test_it_is_called_no_space(self, tmp_path: Path, backed_up: Any) -> None:
        job = InPlace(tmp_path / "live", backed_up, OLD)
        for point in enospc_points(job.make, job.restore, calls=frozenset({"write", "mkdir", "symlink"})):
            assert isinstance(point.error, NoSpace), point
            assert job.present() == job.old
