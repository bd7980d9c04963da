"""Any edit of any tree: what is written is what was asked for, and undoing it leaves nothing of it."""

from __future__ import annotations

import functools
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drkit.errors import GuardRefused
from drkit.format.treehash import TreeHash
from drkit.guard.apply import Applier
from drkit.guard.journal import Edit
from drkit.guard.staging import Changes, Staging
from drkit.guard.tree import open_dir, read_file, read_tree
from drkit.source.globs import Globs
from tests.support.guarding import content
from tests.support.restoring import back_up
from tests.support.trees import ODD_NAMES, Node, build, names, snapshot_tree, trees

STAGE = b".drkit-0123456789abcdef"
MOST = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))

Action = tuple[str, bytes, bytes]


@st.composite
def edits(draw: st.DrawFn) -> tuple[Node, list[Action]]:
    """A tree, and what is done to it: of paths that are there, and of others."""
    tree = draw(trees(max_leaves=12))
    there = list(_paths(tree, b""))
    free = st.lists(names(), min_size=1, max_size=3).map(b"/".join)
    below = st.builds(lambda path, name: path + b"/" + name, st.sampled_from(there), st.sampled_from(ODD_NAMES[:6]))
    path = st.one_of(st.sampled_from(there), below, free)
    action = st.tuples(st.sampled_from(["write", "move", "move", "delete"]), path, path)
    return tree, draw(st.lists(action, min_size=1, max_size=8))


def _paths(node: Node, path: bytes) -> list[bytes]:
    found = []
    for name, child in node.children.items():
        below = path + b"/" + name if path else name
        found += [below, *_paths(child, below)]
    return found


class Model:
    """What the actions should do, done to a copy of the tree itself."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)
        walked = os.walk(self.root)
        self.modes = {directory: stat.S_IMODE(os.lstat(directory).st_mode) for directory, _, _ in walked}

    def make(self, directory: bytes) -> None:
        """Make what is missing; a directory that was there before the edit is again as it was."""
        if not os.path.isdir(directory):
            self.make(os.path.dirname(directory))
            os.mkdir(directory)
            os.chmod(directory, self.modes.get(directory, 0o755))

    def act(self, action: Action) -> None:
        kind, path, other = action
        full = os.path.join(self.root, path)
        if kind == "write":
            mode = stat.S_IMODE(os.lstat(full).st_mode) if os.path.lexists(full) else 0o644
            self.make(os.path.dirname(full))
            if os.path.lexists(full):
                os.unlink(full)  # other names of the same file stay as they are
            with open(full, "xb") as file:
                file.write(other)
            os.chmod(full, mode)
        elif kind == "move":
            to = os.path.join(self.root, other)
            self.make(os.path.dirname(to))
            os.rename(full, to)
        elif os.path.isdir(full) and not os.path.islink(full):
            shutil.rmtree(full)
        else:
            os.unlink(full)


def stage(root_fd: int, actions: list[Action], model: Model | None = None) -> Changes:
    excludes = Globs(())
    staging = Staging(read_tree(root_fd, b"p", excludes), b"p", excludes, functools.partial(read_file, root_fd))
    for action in actions:
        kind, path, other = action
        try:
            if kind == "write":
                staging.write(path, other, None)
            elif kind == "move":
                staging.move(path, other)
            else:
                staging.delete(path)
        except (OSError, GuardRefused):
            continue  # not possible; the model is not asked either
        if model is not None:
            model.act(action)
    return staging.changes()


def places() -> tuple[Path, Path, Path]:
    top = Path(tempfile.mkdtemp())
    os.umask(0o022)
    return top, top / "live", top / "copy"  # of one length: by it `build` chooses what is linked to what


@pytest.mark.parametrize("undo", [False, True])
def test_any_edit(undo: bool) -> None:
    @MOST
    @given(edits())
    def check(edit: tuple[Node, list[Action]]) -> None:
        tree, actions = edit
        top, live, model = places()
        try:
            build(live, tree)
            build(model, tree)
            before = snapshot_tree(live, root=True)
            root_fd = open_dir(bytes(top), b"live")
            try:
                changes = stage(root_fd, actions, Model(model))
                record = Edit("apply", bytes(top), b"live", "", STAGE, changes.paths, changes.times)
                applier = Applier(root_fd, record)
                applier.apply(changes.data)
                if undo:
                    assert applier.put_back() == []
                    assert applier.put_back() == []
                    assert snapshot_tree(live, root=True) == before
                    return
                applier.finish()
                now, wanted = snapshot_tree(live, root=True), snapshot_tree(model, root=True)
                assert content(now) == content(wanted)
                told = {change.path for change in changes.paths}
                for path, one in before.items():
                    if one["type"] != stat.S_IFDIR and path not in told:
                        assert {**now[path], "links": ()} == {**one, "links": ()}  # untouched
                assert told == {
                    path for path in before | now if content(before).get(path) != content(now).get(path)
                } | {change.path for change in changes.paths if change.old == change.new}
            finally:
                os.close(root_fd)
        finally:
            _remove(top)

    check()


@MOST
@given(trees(max_leaves=15))
def test_the_hash_of_a_live_tree_is_that_of_its_snapshot(tree: Node) -> None:
    top, live, _ = places()
    try:
        build(live, Node("d", children={b"p": Node("d", mode=tree.mode, children=tree.children)}))
        repo, ref = back_up(live)
        digest = TreeHash()
        for segment in repo.segments(repo.load(ref)):
            for entry in segment.entries:
                if entry.raw_path == b"p" or entry.raw_path.startswith(b"p/"):
                    digest.add_entry(entry, entry.raw_path[2:])
        root_fd = open_dir(bytes(live), b"p")
        try:
            assert read_tree(root_fd, b"p", Globs(())).sha256 == digest.hexdigest()
        finally:
            os.close(root_fd)
    finally:
        _remove(top)


def _remove(top: Path) -> None:
    for directory, below, _ in os.walk(bytes(top)):
        for name in below:
            full = os.path.join(directory, name)
            if not os.path.islink(full):
                os.chmod(full, 0o700)
    shutil.rmtree(bytes(top), onerror=_raise)


def _raise(function: Any, path: Any, info: Any) -> None:
    raise info[1]
