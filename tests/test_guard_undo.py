"""What a command did to a source is stored and put back: exactly what differs, whatever it is."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from msgspec import structs

from drkit.guard.look import look, named, unchanged
from drkit.guard.snapshot import find_snapshot
from drkit.guard.undo import put_back
from drkit.query.diff import diff
from tests.support.guarding import Guarded, state_dir
from tests.support.trees import Node, build, snapshot_tree, trees
from tests.support.undoing import Scene, make, scene

__all__ = ["scene", "state_dir"]

_NOBODY = 65534


def test_everything_at_once(scene: Scene) -> None:
    source = scene.source
    shutil.rmtree(source / "plugins/two")
    (source / "marketplace.json").write_bytes(b"broken")
    one = source / "plugins/one"
    for name in ("README.md", "README.too"):
        (one / name).unlink()
    (one / "README.md").mkdir()
    (one / "README.md" / "inside").write_bytes(b"x")
    (one / "link").unlink()
    (one / "link").symlink_to("/etc/passwd")
    (one / "empty").chmod(0o700)
    shutil.rmtree(one / "skills")
    (one / "skills").write_bytes(b"was a directory")
    (one / ".claude-plugin/plugin.json").chmod(0o600)
    os.mkfifo(source / "new-pipe")
    (source / "new" / "deep").mkdir(parents=True)
    (source / "new" / "deep" / "file").write_bytes(b"somebody else's")
    assert scene.undo() == ()
    scene.is_back()
    assert (one / "README.md").stat().st_ino == (one / "README.too").stat().st_ino
    assert scene.kept("new/deep/file") == b"somebody else's"
    assert scene.kept("marketplace.json") == b"broken"
    assert b"plugins/one/empty" in scene.changed
    assert b"plugins/one/skills" in scene.changed
    assert b"new/deep" not in scene.changed, "it says no more than the file in it"
    assert set(scene.outside) == {path for path in scene.changed if not path.startswith(b"plugins/one/")}
    assert unchanged(scene.site, scene.before)


def test_a_directory_that_became_a_link_is_not_followed(scene: Scene, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(scene.source / "plugins/one", elsewhere)
    (scene.source / "plugins/one").symlink_to(elsewhere)
    (elsewhere / "README.md").write_bytes(b"theirs")
    assert scene.undo() == ()
    scene.is_back()
    assert (elsewhere / "README.md").read_bytes() == b"theirs"


@contextmanager
def as_owner(top: Path) -> Iterator[None]:
    """Be a user who may not read everything, and have all of `top` be his."""
    if os.geteuid() != 0:
        yield
        return
    for directory, below, names in os.walk(top):
        for name in (".", *below, *names):
            os.chown(os.path.join(directory, name), _NOBODY, _NOBODY, follow_symlinks=False)
    group = os.getegid()
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


@pytest.mark.parametrize("failed", [True, False])
def test_what_its_owner_may_not_read_any_more_is_kept_and_put_back(failed: bool) -> None:
    with tempfile.TemporaryDirectory() as home:  # below no directory that is another user's alone
        root = Path(home)
        guarded = make(root / "home")
        scene = Scene(guarded.root, guarded.site())
        with as_owner(root):
            scene.was = snapshot_tree(scene.source)
            one, two = scene.source / "plugins/one", scene.source / "plugins/two"
            (two / "skills/a/SKILL.md").write_bytes(b"overwritten")
            for path in (two / "skills/a/SKILL.md", two / "skills", one / "README.md"):
                path.chmod(0)
            (scene.source / "new").mkdir()
            (scene.source / "new/file").write_bytes(b"hidden")
            (scene.source / "new/file").chmod(0)
            (scene.source / "new").chmod(0)
            assert scene.undo(failed=failed) == ()
        scene.is_back()
        assert scene.kept("plugins/two/skills/a/SKILL.md") == b"overwritten"
        assert scene.kept("new/file") == b"hidden"
        assert scene.outside == [b"new/file", b"plugins/two/skills/a/SKILL.md"]
        guarded.close()


def test_a_new_file_that_nobody_may_read_does_not_stay_unseen() -> None:
    with tempfile.TemporaryDirectory() as home:
        root = Path(home)
        guarded = make(root / "home")
        scene = Scene(guarded.root, guarded.site())
        with as_owner(root):
            for path in ("plugins/one/new", "plugins/two/new"):
                (scene.source / path).touch(mode=0)
            seen = look(scene.site, scene.record, scene.before, failed=False, keep=True)
            assert (seen.rejected, seen.outside) == (True, (b"plugins/two/new",))
            assert (scene.source / "plugins/two/new").stat().st_mode & 0o777 == 0, "with `keep` nothing is touched"
            (scene.source / "plugins/two/new").unlink()
            assert not look(scene.site, scene.record, scene.before, failed=False).rejected
        guarded.close()


@pytest.mark.parametrize("place", ["marketplace.json", "plugins/two"])
def test_a_socket_gives_way_to_what_was_there(scene: Scene, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scene.source)  # the name of a socket is short
    shutil.rmtree(place) if os.path.isdir(place) else os.unlink(place)
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(place)
        assert scene.undo() == ()
    scene.is_back()


@pytest.mark.parametrize("gone", [True, False])
def test_a_source_that_is_gone_or_empty_comes_back(scene: Scene, gone: bool) -> None:
    shutil.rmtree(scene.source)
    if not gone:
        scene.source.mkdir()
    assert scene.undo() == ()
    scene.is_back()
    assert scene.rejected == ""


def test_what_is_ignored_is_neither_compared_nor_put_back(scene: Scene) -> None:
    (scene.source / ".git").mkdir()
    (scene.source / ".git" / "HEAD").write_bytes(b"1")
    (scene.source / "plugins/one/cache").mkdir()
    (scene.source / "plugins/one/cache/x").write_bytes(b"1")
    assert scene.undo() == ()
    assert scene.changed == []
    assert (scene.source / ".git" / "HEAD").exists()
    (scene.source / "new/cache").mkdir(parents=True)
    (scene.source / "new/cache/x").write_bytes(b"1")
    (scene.source / "new/file").write_bytes(b"1")
    assert scene.undo() == ()
    assert scene.changed == [b"new/file"]
    assert os.listdir(scene.source / "new") == ["cache"]


def test_somebodys_later_work_is_left_alone(scene: Scene) -> None:
    for name in ("README.md", "skills/a/SKILL.md", "new"):
        (scene.source / "plugins/one" / name).write_bytes(b"by the command")
    (scene.source / "plugins/one/link").unlink()
    seen = look(scene.site, scene.record, scene.before, failed=True)
    (scene.source / "plugins/one/README.md").write_bytes(b"later")
    (scene.source / "plugins/one/new").write_bytes(b"later")
    (scene.source / "plugins/one/link").write_bytes(b"later")
    left = put_back(scene.site, scene.before, seen.changes)
    # A hard link is one file: what was written to the one name was written to both.
    assert {one.path.removeprefix(b"plugins/one/") for one in left} == {b"README.md", b"README.too", b"new", b"link"}
    assert {one.why for one in left} == {"somebody changed it since"}
    assert (scene.source / "plugins/one/skills/a/SKILL.md").read_bytes() == b"a skill"
    for name in ("README.md", "new", "link"):
        assert (scene.source / "plugins/one" / name).read_bytes() == b"later"


def test_putting_back_twice_is_putting_back_once(scene: Scene) -> None:
    shutil.rmtree(scene.source / "plugins/two")
    seen = look(scene.site, scene.record, scene.before, failed=True)
    assert put_back(scene.site, scene.before, seen.changes) == ()
    assert put_back(scene.site, scene.before, seen.changes) == ()
    scene.is_back()


def test_only_what_failed_or_left_its_plugins_is_rejected(scene: Scene) -> None:
    inside, outside = scene.source / "plugins/one/new", scene.source / "plugins/onerous"
    inside.write_bytes(b"x")
    seen = look(scene.site, scene.record, scene.before, failed=False)
    assert (seen.rejected, seen.changed, seen.outside) == (False, [b"plugins/one/new"], ())
    assert scene.site.repo.latest() == find_snapshot(scene.site, seen.snapshot)
    outside.write_bytes(b"x")
    worse = look(scene.site, scene.record, scene.before, failed=False)
    assert (worse.rejected, worse.outside) == (True, (b"plugins/onerous",))
    assert scene.site.repo.latest() == find_snapshot(scene.site, seen.snapshot)
    assert look(scene.site, structs.replace(scene.record, plugins=(b"",)), scene.before, failed=False).outside == ()


def test_what_changed_is_what_diff_says(scene: Scene) -> None:
    (scene.source / "plugins/one/README.md").write_bytes(b"new")
    (scene.source / "plugins/one/link").unlink()
    (scene.source / "plugins/one/added").write_bytes(b"new")
    seen = look(scene.site, scene.record, scene.before, failed=False)
    found = diff(scene.site.repo, scene.before, scene.site.repo.load(find_snapshot(scene.site, seen.snapshot)))
    assert sorted(seen.changed) == sorted([*found.added, *found.removed, *found.modified])
    assert named(seen.changes) == seen.changed


@settings(max_examples=40, deadline=None)
@given(tree=trees(max_leaves=10), other=trees(max_leaves=10))
def test_any_tree_comes_back_from_any_other(tree: Node, other: Node) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRKIT_STATE_DIR", f"{directory}/state")
        guarded = Guarded(Path(directory) / "home")
        guarded.root.mkdir()
        build(guarded.source, tree)
        scene = Scene(guarded.root, guarded.site())
        # In part of it the old tree stays, so that both meet.
        build(guarded.root / "other", other)
        for name in os.listdir(guarded.root / "other"):
            place = os.path.join(guarded.source, name)
            if os.path.isdir(place) and not os.path.islink(place):
                shutil.rmtree(place)
            elif os.path.lexists(place):
                os.unlink(place)
            os.rename(os.path.join(guarded.root / "other", name), place)
        try:
            assert scene.undo() == ()
            scene.is_back(times=False)
            assert unchanged(scene.site, scene.before)
        finally:
            guarded.close()
