"""What a permit writes, interrupted: at every call that changes the file system, by a full disk, by somebody else."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from drkit import osutil
from drkit.errors import DrkitError, GuardRefused
from drkit.guard import protect, recover
from tests.support.crash import CALLS, _Watch, _watched, crash_points, enospc_points, trace_calls
from tests.support.guarding import Edited, Guarded, content, much, state_dir

__all__ = ["state_dir"]


def without_exchange() -> Any:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    return mock.patch.object(osutil, "rename_exchange", refuse)


AT = CALLS - {"fchmod", "fsync", "pwrite", "utime", "write"}
"""Where somebody else steps in: a write that is watched is made one half twice."""
WAYS: dict[str, Callable[[], Any]] = {"exchange": contextlib.nullcontext, "rename": without_exchange}


def after(edited: Edited) -> dict[bytes, Any]:
    edited.run(edited.make())
    return content(edited.now())


def test_everything_is_written_and_times_are_kept(tmp_path: Path) -> None:
    edited = Edited(tmp_path)
    edited.run(edited.source)
    now = edited.now()
    assert edited.leftovers() == []
    assert {path for path in now if path.startswith(b"plugins/one/")} == {
        b"plugins/one/" + path
        for path in (
            *(b".claude-plugin", b".claude-plugin/plugin.json", b"README.md", b"new", b"new/dir", b"new/dir/SKILL.md"),
            *(b"new/link", b"old", b"one", b"two", b"skills", b"skills/b", b"skills/b/SKILL.md", b"skills/b/deep"),
            *(b"skills/b/deep/ref.md", b"skills/b/deep/er", b"skills/b/deep/er/more.md"),
        )
    }
    assert (edited.source / "plugins/one/one").read_bytes() == b"2"
    assert (edited.source / "plugins/one/two").read_bytes() == b"1"
    for path in (b"SKILL.md", b"deep", b"deep/er", b"deep/er/more.md", b""):
        was = (b"plugins/one/skills/a/" + path).rstrip(b"/")
        assert now[was.replace(b"skills/a", b"skills/b")]["mtime_ns"] == edited.before[was]["mtime_ns"], path
        assert now[was.replace(b"skills/a", b"skills/b")]["mode"] == edited.before[was]["mode"], path
    assert now[b"plugins/one/README.md"]["mode"] == 0o640
    for path, one in edited.before.items():
        if path.startswith((b"plugins/two", b"plugins/one/.claude-plugin")):
            assert now[path] == one


class TestKilled:
    @pytest.mark.parametrize("way", WAYS)
    def test_the_plugin_is_as_before_or_as_proposed(self, way: str, tmp_path: Path) -> None:
        with WAYS[way]():
            edited = Edited(tmp_path)
            new = after(edited)
            seen = set()
            for point in crash_points(edited.make, edited.run, limit=500 if way == "exchange" else 40):
                recovered = recover(bytes(edited.source))
                now = edited.now()
                assert edited.leftovers() == [], point
                assert now == edited.before or content(now) == new, (point.number, point.call)
                assert recover(bytes(edited.source)) == []
                assert all(one.paths == () for one in recovered)
                seen.add((now == edited.before, tuple(one.done for one in recovered)))
        assert seen == {(True, ()), (True, ("put back",)), (False, ("finished",))} or seen == {
            (True, ()),
            (True, ("put back",)),
            (False, ("finished",)),
            (False, ()),
        }

    @pytest.mark.parametrize("way", WAYS)
    def test_recovery_can_be_killed_too(self, way: str, tmp_path: Path) -> None:
        """Die at some calls of the edit, then at each call of the recovery: the second one ends it."""
        with WAYS[way]():
            edited = Edited(tmp_path / "one")
            new = after(edited)
            state = Path(os.environ["DRKIT_STATE_DIR"])
            total = len(trace_calls(edited.make, edited.run))
            for point in crash_points(edited.make, edited.run, limit=6):
                if point.number <= total // 3 or not any(name.endswith(".journal") for name in os.listdir(state)):
                    recover(bytes(edited.source))
                    continue
                # Inodes do not matter to a recovery, names and contents do: a copy will do.
                for copy, original in ((tmp_path / "source", edited.source), (tmp_path / "journals", state)):
                    shutil.rmtree(copy, ignore_errors=True)
                    shutil.copytree(original, copy, symlinks=True)

                def again() -> bytes:
                    for copy, original in ((tmp_path / "source", edited.source), (tmp_path / "journals", state)):
                        shutil.rmtree(original)
                        shutil.copytree(copy, original, symlinks=True)
                    return bytes(edited.source)

                for second in crash_points(again, recover, limit=25 if way == "exchange" else 12):
                    recover(second.state)
                    now = edited.now()
                    assert edited.leftovers() == []
                    old = content(now) == content(edited.before)
                    assert old or content(now) == new, (point.number, second.number, second.call)
                recover(bytes(edited.source))

    def test_by_the_system(self, tmp_path: Path) -> None:
        """SIGKILL from outside, at some time or other."""
        edited = Edited(tmp_path)
        new = after(edited)
        outcomes = set()
        for number in range(40):
            edited.make()
            pid = os.fork()
            if pid == 0:
                try:
                    edited.run(edited.source)
                finally:
                    os._exit(0)
            time.sleep(number * 0.0005)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            recover(bytes(edited.source))
            now = edited.now()
            assert now == edited.before or content(now) == new
            assert edited.leftovers() == []
            outcomes.add(now == edited.before)
        assert True in outcomes

    def test_at_any_call_of_a_whole_permit(self, tmp_path: Path) -> None:
        guarded = Guarded(tmp_path)

        def make() -> Guarded:
            for name in ("source", "repo", "cache"):
                shutil.rmtree(tmp_path / name, ignore_errors=True)
            guarded.plugin("p", {"README.md": b"old", "b": b"b"})
            guarded.age()
            guarded.site()
            guarded.close()
            return guarded

        def edit(state: Guarded) -> None:
            with protect(b"p", state.site()) as permit:
                permit.write(b"README.md", b"new")
                permit.delete(b"b")

        make()
        old = guarded.describe()
        seen = set()
        for point in crash_points(make, edit, limit=40):
            recover(bytes(guarded.source))
            now = guarded.describe()
            if now != old:
                assert (guarded.source / "p/README.md").read_bytes() == b"new"
                assert not (guarded.source / "p/b").exists()
            assert not [name for name in os.listdir(guarded.source / "p") if name.startswith(".drkit-")]
            if now == old:
                edit(point.state)  # it can be done again, whatever the repository was left with
                guarded.close()
                assert (guarded.source / "p/README.md").read_bytes() == b"new"
            seen.add(now == old)
        assert seen == {True, False}


class TestFailed:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
    def test_a_call_that_fails_leaves_the_plugin_as_it_was_at_once(self, way: str, code: int, tmp_path: Path) -> None:
        with WAYS[way]():
            edited = Edited(tmp_path)
            new = after(edited)
            failed = 0
            for point in enospc_points(
                edited.make, edited.run, calls=CALLS, code=code, limit=500 if way == "exchange" else 40
            ):
                if point.error is None:
                    # After "done" only the removal of what is left fails: the next command does that.
                    recover(bytes(edited.source))
                    assert content(edited.now()) == new, point
                else:
                    assert isinstance(point.error, DrkitError), point
                    assert edited.now() == edited.before, point
                    failed += 1
                assert edited.leftovers() == [], point
        assert failed > 10

    def test_one_that_keeps_failing_is_ended_by_the_next_command(self, tmp_path: Path) -> None:
        edited = Edited(tmp_path)
        new = after(edited)
        for point in enospc_points(edited.make, edited.run, calls=CALLS, lasting=True, limit=60):
            recover(bytes(edited.source))
            now = edited.now()
            assert now == edited.before or content(now) == new, point
            assert point.error is not None or content(now) == new
            assert point.error is None or isinstance(point.error, DrkitError)
            assert edited.leftovers() == [], point


class TestSomebodyElse:
    """Somebody else writes, at each call of the edit, to one of its paths: that is never lost."""

    @pytest.mark.parametrize("way", ["exchange", "rename"])
    @pytest.mark.parametrize("how", ["in place", "by a rename"])
    @pytest.mark.parametrize("path", ["README.md", "gone.md", "new/dir/SKILL.md", "old/only.md", "one"])
    def test_their_work_is_never_lost(self, way: str, how: str, path: str, tmp_path: Path) -> None:
        with WAYS[way]():
            edited = Edited(tmp_path)
            new = after(edited)
            target = edited.source / "plugins/one" / path
            calls = len(trace_calls(edited.make, edited.run, calls=AT))
            refused = passed = 0
            for number in range(1, calls + 1):
                edited.make()
                wrote: list[bool] = []

                def strike(
                    _call: str,
                    target: Path = target,
                    wrote: list[bool] = wrote,
                ) -> None:
                    if not target.parent.is_dir():
                        return
                    wrote.append(True)
                    if how == "in place":
                        with contextlib.suppress(IsADirectoryError):
                            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                            os.pwrite(fd, b"theirs", 0)
                            os.close(fd)
                    else:
                        other = target.parent / "their.tmp"
                        fd = os.open(other, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                        os.pwrite(fd, b"theirs", 0)
                        os.close(fd)
                        os.rename(other, target)

                watch = _Watch(number, _once(strike))
                try:
                    with _watched(AT, watch):
                        edited.run(edited.source)
                    passed += 1
                except GuardRefused:
                    refused += 1
                if wrote:
                    assert target.read_bytes() == b"theirs", (number, watch.seen[number - 1])
                    target.unlink()
                    now = content(edited.now())
                    for tree in (now, new, old := content(edited.before)):
                        tree.pop(b"plugins/one/" + path.encode(), None)
                    # Of the rest, all is old or all is new; but a directory in which they work stays.
                    extra = {path for path in now if now[path] not in (old.get(path), new.get(path))}
                    assert not extra or path.startswith(("new", "old")), (number, extra)
                    new = after(edited)
                assert edited.leftovers() == []
            assert refused > 0
            assert passed > 0


def _once(action: Callable[[str], None]) -> Callable[[str], None]:
    done: list[str] = []

    def strike(call: str) -> None:
        if not done:
            done.append(call)
            action(call)

    return strike


def test_much_is_much(tmp_path: Path) -> None:
    """The edit that is interrupted here has a bit of everything."""
    edited = Edited(tmp_path, much)
    old, new = content(edited.before), after(edited)
    kinds = {(path in old, path in new, old.get(path) == new.get(path)) for path in old | new}
    assert kinds == {(True, True, True), (True, True, False), (True, False, False), (False, True, False)}
