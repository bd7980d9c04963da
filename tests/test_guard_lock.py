"""The guard's locks: who excludes whom, what they survive, and a shared directory that others put things into."""

from __future__ import annotations

import os
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from drkit.errors import LockedError, StoreError
from drkit.guard import TreeLock, Waiting, recover
from drkit.guard.journal import Edit, Journal
from drkit.guard.recover import recovered
from drkit.guard.state import key, open_state_dir
from tests.support.guarding import Edited, state_dir

__all__ = ["state_dir"]

NOW = Waiting(timeout_s=0)
ROOT = os.geteuid() == 0
STRANGER = 12345
EDIT = Edit("apply", b"/source", b"one", "", b".drkit-0123456789abcdef", ())


def free(lock: TreeLock) -> bool:
    try:
        with lock:
            return True
    except LockedError:
        return False


class TestExclusion:
    @pytest.mark.parametrize(
        ("held", "wanted", "possible"),
        [
            (TreeLock.plugin(b"/s", b"a/b", NOW), TreeLock.plugin(b"/s", b"a/b", NOW), False),
            (TreeLock.plugin(b"/s", b"a/b", NOW), TreeLock.plugin(b"/s", b"a", NOW), False),
            (TreeLock.plugin(b"/s", b"a", NOW), TreeLock.plugin(b"/s", b"a/b/c", NOW), False),
            (TreeLock.plugin(b"/s", b"a/b", NOW), TreeLock.plugin(b"/s", b"a/c", NOW), True),
            (TreeLock.plugin(b"/s", b"a/b", NOW), TreeLock.plugin(b"/s", b"a/bc", NOW), True),
            (TreeLock.plugin(b"/s", b"a", NOW), TreeLock.plugin(b"/t", b"a", NOW), True),
            (TreeLock.plugin(b"/s", b"a", NOW), TreeLock.shared(b"/s", NOW), True),
            (TreeLock.plugin(b"/s", b"", NOW), TreeLock.shared(b"/s", NOW), False),
            (TreeLock.shared(b"/s", NOW), TreeLock.shared(b"/s", NOW), True),
            (TreeLock.shared(b"/s", NOW), TreeLock.exclusive(b"/s", NOW), False),
            (TreeLock.exclusive(b"/s", NOW), TreeLock.shared(b"/s", NOW), False),
            (TreeLock.exclusive(b"/s", NOW), TreeLock.exclusive(b"/s", NOW), False),
            (TreeLock.exclusive(b"/s", NOW), TreeLock.plugin(b"/s", b"a", NOW), False),
            (TreeLock.plugin(b"/s", b"a/b", NOW), TreeLock.exclusive(b"/s", NOW), False),
            (TreeLock.exclusive(b"/s/a", NOW), TreeLock.plugin(b"/s", b"a/b", NOW), False),  # sources in sources
            (TreeLock.exclusive(b"/s/a", NOW), TreeLock.plugin(b"/s", b"b", NOW), True),
        ],
    )
    def test_who_excludes_whom(self, held: TreeLock, wanted: TreeLock, possible: bool) -> None:
        with held:
            assert free(wanted) is possible
        assert free(wanted)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.sampled_from([b"", b"a", b"a/b", b"a/b/c", b"ab", b"b"]), min_size=2, max_size=6))
    def test_two_are_held_together_only_if_neither_lies_in_the_other(self, paths: list[bytes]) -> None:
        held: list[tuple[bytes, TreeLock]] = []
        for path in paths:
            lock = TreeLock.plugin(b"/s", path, NOW)
            try:
                lock.acquire()
            except LockedError:
                assert any(_related(path, other) for other, _ in held)
            else:
                assert not any(_related(path, other) for other, _ in held)
                held.append((path, lock))
        for _, lock in held:
            lock.release()

    def test_several_are_taken_at_once_or_not_at_all(self) -> None:
        both = TreeLock((b"/s/a", b"/s/b"), exclusive=True, waiting=NOW)
        with TreeLock.plugin(b"/s", b"b", NOW):
            assert not free(both)
            assert free(TreeLock.plugin(b"/s", b"a", NOW))
        assert free(both)

    def test_who_waits_too_long_is_told(self) -> None:
        clock = [0.0]

        def sleep(seconds: float) -> None:
            clock[0] += seconds

        waiting = Waiting(60.0, lambda: clock[0], sleep)
        with TreeLock.plugin(b"/s", b"a", NOW), pytest.raises(LockedError, match="/s/a") as error:
            TreeLock.plugin(b"/s", b"a", waiting).acquire()
        assert error.value.code == 11
        assert 60 <= clock[0] < 61

    def test_two_who_want_the_same_take_turns(self) -> None:
        inside: list[int] = []
        most: list[int] = []

        def work(number: int) -> None:
            for turn in range(25):
                path = [b"a", b"a/b", b"a/c", b""][(number + turn) % 4]
                with TreeLock.plugin(b"/s", path, Waiting(20, sleep=lambda _: time.sleep(0.0005))):
                    if path in (b"a", b""):
                        inside.append(number)
                        most.append(len(inside))
                        inside.remove(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert max(most) == 1

    def test_the_swap_of_the_directory_changes_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "p").mkdir()
        with TreeLock.plugin(bytes(tmp_path), b"p", NOW):
            (tmp_path / "p").rename(tmp_path / "away")
            (tmp_path / "p").mkdir()
            assert not free(TreeLock.plugin(bytes(tmp_path), b"p", NOW))
        assert os.listdir(tmp_path / "p") == []


class TestProcesses:
    def test_a_lock_falls_with_its_process(self) -> None:
        with child_that(lambda: TreeLock.plugin(b"/s", b"a", NOW).acquire()) as pid:
            assert not free(TreeLock.exclusive(b"/s", NOW))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            assert free(TreeLock.exclusive(b"/s", NOW))

    def test_a_forks_child_neither_has_it_nor_lets_it_go(self) -> None:
        lock = TreeLock.plugin(b"/s", b"a", NOW)
        with lock:

            def release() -> None:
                assert not lock.held
                lock.release()

            with child_that(release):
                assert not free(TreeLock.plugin(b"/s", b"a", NOW))
        assert free(TreeLock.plugin(b"/s", b"a", NOW))

    def test_a_child_that_was_forked_meanwhile_does_not_keep_it(self) -> None:
        lock = TreeLock.plugin(b"/s", b"a", NOW)
        lock.acquire()
        with child_that(lambda: None):
            lock.release()
            assert free(TreeLock.plugin(b"/s", b"a", NOW))


class TestSharedDirectory:
    def test_it_is_everybodys_and_sticky(self, state_dir: Path) -> None:
        os.umask(old := os.umask(0o077))
        try:
            os.umask(0o077)
            with TreeLock.plugin(b"/s", b"a", NOW):
                assert state_dir.stat().st_mode & 0o7777 == 0o1777
                assert {stat.S_IMODE(one.stat().st_mode) for one in state_dir.iterdir()} == {0o644}
        finally:
            os.umask(old)
        assert len(list(state_dir.iterdir())) == 2  # those of / and /s; the plugin's own went with the lock

    def test_a_link_in_its_place_is_refused(self, state_dir: Path, tmp_path: Path) -> None:
        (tmp_path / "theirs").mkdir()
        state_dir.symlink_to(tmp_path / "theirs")
        with pytest.raises(StoreError, match="state"):
            TreeLock.plugin(b"/s", b"a", NOW).acquire()
        assert os.listdir(tmp_path / "theirs") == []

    def test_one_from_which_all_may_remove_is_refused(self, state_dir: Path) -> None:
        state_dir.mkdir()
        state_dir.chmod(0o777)
        with pytest.raises(StoreError, match="everybody"):
            TreeLock.plugin(b"/s", b"a", NOW).acquire()

    @pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "directory", "hard link"])
    def test_what_is_no_plain_file_is_no_lock(self, state_dir: Path, tmp_path: Path, kind: str) -> None:
        os.close(open_state_dir())
        name = state_dir / os.fsdecode(key("lock", b"/s/a") + b".lock")
        victim = tmp_path / "victim"
        victim.write_bytes(b"theirs")
        if kind == "link":
            name.symlink_to(victim)
        elif kind == "dangling":
            name.symlink_to(tmp_path / "made")
        elif kind == "fifo":
            os.mkfifo(name)
        elif kind == "directory":
            name.mkdir()
        else:
            os.link(victim, name)
        with pytest.raises(StoreError, match="lock of /s/a"):
            TreeLock.plugin(b"/s", b"a", NOW).acquire()
        assert victim.read_bytes() == b"theirs"
        assert victim.stat().st_mode & 0o777 == 0o644
        assert not (tmp_path / "made").exists()
        assert free(TreeLock.plugin(b"/s", b"b", NOW))  # nothing stayed locked

    @pytest.mark.skipif(not ROOT, reason="only root can make files of others")
    def test_a_lock_that_somebody_else_made_is_shared(self, state_dir: Path) -> None:
        with TreeLock.shared(b"/s", NOW):
            pass
        for one in state_dir.iterdir():
            os.chown(one, STRANGER, STRANGER)
        os.chown(state_dir, STRANGER, STRANGER)
        with TreeLock.shared(b"/s", NOW), child_that(lambda: _as_stranger(free(TreeLock.exclusive(b"/s", NOW)))) as pid:
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)

    @pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
    def test_another_user_is_kept_out_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with tempfile.TemporaryDirectory() as directory:  # pytest's own is closed to others
            os.chmod(directory, 0o755)
            monkeypatch.setenv("DRKIT_STATE_DIR", os.path.join(directory, "state"))
            self.keep_out()

    def keep_out(self) -> None:
        for held in (True, False):
            lock = TreeLock.plugin(b"/s", b"a", NOW)
            if held:
                lock.acquire()
            pid = os.fork()
            if pid == 0:
                code = 9
                try:
                    os.setresuid(STRANGER, STRANGER, STRANGER)
                    code = int(free(TreeLock.exclusive(b"/s", NOW)))
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == int(not held)
            lock.release()


class TestJournals:
    def test_only_what_dead_ones_left_is_taken(self) -> None:
        journal = Journal.create(EDIT)
        assert Journal.left(b"/source") == []  # it lives
        journal.close()
        (left,) = Journal.left(b"/source")
        assert left.read() == EDIT
        assert Journal.left(b"/source") == []  # it is ours now
        assert Journal.left(b"/other") == []
        left.remove()
        assert Journal.left(b"/source") == []

    def test_the_last_whole_record_counts(self, state_dir: Path) -> None:
        journal = Journal.create(EDIT)
        done = structs.replace(EDIT, state="done")
        journal.write(done)
        (path,) = state_dir.glob("*.journal")
        assert path.stat().st_mode & 0o777 == 0o600
        assert journal.read() == done
        with path.open("ab") as file:
            file.write(b'{"type":"edit","state":"app')
        assert journal.read() == done
        path.write_bytes(path.read_bytes()[:20])
        assert journal.read() is None
        journal.close()
        assert recover(b"/source") == []  # it died before it began
        assert list(state_dir.glob("*.journal")) == []

    @pytest.mark.parametrize("how", ["owner", "mode", "hard link", "link", "fifo", "directory", "another's source"])
    def test_journals_that_we_did_not_write_are_not_believed(self, tmp_path: Path, state_dir: Path, how: str) -> None:
        if how == "owner" and not ROOT:
            pytest.skip("only root can make files of others")
        edited = Edited(tmp_path / "e")
        source = bytes(edited.source)
        stage = edited.source / "plugins/one/.drkit-0123456789abcdef"
        stage.mkdir()
        evil = Edit("done", source, b"plugins/one", "", b".drkit-0123456789abcdef", ())
        Journal.create(evil).close()
        (path,) = state_dir.glob("*.journal")
        if how == "owner":
            os.chown(path, STRANGER, STRANGER)
        elif how == "mode":
            path.chmod(0o666)
        elif how == "hard link":
            os.link(path, tmp_path / "other name")
        elif how == "link":
            path.rename(tmp_path / "elsewhere")
            path.symlink_to(tmp_path / "elsewhere")
        elif how == "fifo":
            path.unlink()
            os.mkfifo(path, 0o600)
        elif how == "directory":
            path.unlink()
            path.mkdir(0o700)
        else:
            path.write_bytes(path.read_bytes().replace(b'"source":"', b'"source":"L290aGVy'))
        assert recover(source) == []
        assert stage.exists()

    def test_nobody_edits_what_somebody_else_is_just_putting_back(self, tmp_path: Path) -> None:
        source = bytes(tmp_path)
        (tmp_path / "one").mkdir()
        busy = Journal.create(structs.replace(EDIT, source=source, plugin=b"one"))  # locked: somebody is at it
        for path, possible in ((b"one", False), (b"one/inner", False), (b"", False), (b"two", True)):
            lock = TreeLock.plugin(source, path, Waiting(0.05))
            if possible:
                with recovered(lock, source) as done:
                    assert done == []
            else:
                with pytest.raises(LockedError, match="putting back"), recovered(lock, source):
                    pytest.fail("the lock although the plugin is not put back yet")
            assert free(TreeLock.exclusive(source, NOW))
        busy.close()
        with recovered(TreeLock.plugin(source, b"one", NOW), source) as done:
            assert [one.done for one in done] == ["put back"]

    def test_a_plugin_that_is_gone_by_now_is_left_alone(self, tmp_path: Path) -> None:
        edited = Edited(tmp_path / "e")
        Journal.create(Edit("apply", bytes(edited.source), b"plugins/none", "", b".drkit-0123456789abcdef", ())).close()
        (done,) = recover(bytes(edited.source))
        assert done.paths == (b"plugins/none",)
        assert edited.now() == edited.before


def _related(one: bytes, other: bytes) -> bool:
    return one == other or not one or not other or one.startswith(other + b"/") or other.startswith(one + b"/")


def _as_stranger(taken: bool) -> None:
    assert not taken


@contextmanager
def child_that(action: object) -> Iterator[int]:
    """Run something in a child that then stays until the block ends."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            action()  # type: ignore[operator]
            os.write(writer, b"y")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"y"
        yield pid
    finally:
        os.close(reader)
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pid = 0
