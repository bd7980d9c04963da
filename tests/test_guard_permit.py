"""A permit: the paths it takes, and that it works in its own block and process alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from drkit.backup import BackupOptions
from drkit.errors import DrkitError, GuardRefused
from drkit.guard import Site, StagedPlugin, find_snapshot, protect, recover
from tests.support.guarding import Guarded, P, content, guarded, state_dir

__all__ = ["guarded", "state_dir"]


class TestPaths:
    @pytest.mark.parametrize("path", [b"", b"/x", b"..", b"a/../b", b"a//b", b"./a", b"a\0b", b"../two/README.md"])
    def test_paths_that_lead_out_are_refused(self, guarded: Guarded, path: bytes) -> None:
        with protect(P, guarded.site()) as permit:
            for action in (
                lambda: permit.write(path, b""),
                lambda: permit.read(path),
                lambda: permit.delete(path),
                lambda: permit.move(path, b"x"),
                lambda: permit.move(b"README.md", path),
            ):
                with pytest.raises(GuardRefused):
                    action()

    def test_links_are_neither_followed_nor_written(self, guarded: Guarded) -> None:
        outside = guarded.root / "outside"
        outside.mkdir()
        (outside / "file").write_bytes(b"outside")
        os.symlink(outside, guarded.source / "plugins/one/dir")
        os.symlink(outside / "file", guarded.source / "plugins/one/file")
        with protect(P, guarded.site()) as permit:
            for path in (b"dir/file", b"dir/new", b"file"):
                with pytest.raises(GuardRefused):
                    permit.write(path, b"x")
                with pytest.raises(GuardRefused):
                    permit.read(path)
            permit.move(b"file", b"moved")
            permit.delete(b"dir")
        assert os.readlink(guarded.source / "plugins/one/moved") == str(outside / "file")
        assert (outside / "file").read_bytes() == b"outside"

    def test_a_parent_that_becomes_a_link_is_not_followed(self, guarded: Guarded) -> None:
        outside = guarded.root / "outside"
        outside.mkdir()

        def swap(_: StagedPlugin) -> list[str]:
            os.rename(guarded.source / "plugins/one/skills", guarded.root / "skills")
            os.symlink(outside, guarded.source / "plugins/one/skills")
            return []

        with pytest.raises(GuardRefused), protect(P, guarded.site(), validators=[swap]) as permit:  # noqa: PT012
            permit.write(b"skills/new", b"x")
            permit.write(b"README.md", b"x")
        assert os.listdir(outside) == []
        assert (guarded.source / "plugins/one/README.md").read_bytes() == b"one"

    def test_what_no_snapshot_has_cannot_be_written_or_deleted(self, guarded: Guarded) -> None:
        cache = guarded.source / "plugins/one/skills/cache"
        cache.mkdir()
        (cache / "x").write_bytes(b"x")
        site = guarded.site(options=BackupOptions(excludes=("cache", "*.log")))
        with protect(P, site) as permit:
            for path in (b"a.log", b"skills/cache/y", b".drkit-0123456789abcdef/x"):
                with pytest.raises(GuardRefused):
                    permit.write(path, b"x")
            with pytest.raises(GuardRefused):
                permit.delete(b"skills")
            permit.move(b"skills", b"talents")  # it comes along, unread
        assert (guarded.source / "plugins/one/talents/cache/x").read_bytes() == b"x"
        assert [one.path for one in permit.changes if b"cache" in one.path] == []

    def test_the_usual_errors(self, guarded: Guarded) -> None:
        with protect(P, guarded.site()) as permit:
            with pytest.raises(FileNotFoundError):
                permit.read(b"none")
            with pytest.raises(FileNotFoundError):
                permit.delete(b"none")
            with pytest.raises(FileNotFoundError):
                permit.move(b"none", b"x")
            with pytest.raises(FileExistsError):
                permit.move(b"README.md", b"skills")
            with pytest.raises(IsADirectoryError):
                permit.read(b"skills")
            with pytest.raises(IsADirectoryError):
                permit.write(b"skills", b"")
            with pytest.raises(NotADirectoryError):
                permit.write(b"README.md/x", b"")
            with pytest.raises(OSError, match="Invalid"):
                permit.move(b"skills", b"skills/below")

    def test_a_read_only_directory(self, guarded: Guarded) -> None:
        """Root writes there; others are refused, and nothing has changed."""
        folder = guarded.source / "plugins/one/skills/a"
        folder.chmod(0o555)
        before = guarded.describe()
        site = guarded.site()
        if os.geteuid() == 0:
            with protect(P, site) as permit:
                permit.write(b"skills/a/SKILL.md", b"new")
            assert folder.stat().st_mode & 0o777 == 0o555
        else:
            with pytest.raises(GuardRefused), protect(P, site) as permit:  # noqa: PT012
                permit.write(b"README.md", b"new")
                permit.write(b"skills/a/SKILL.md", b"new")
            assert guarded.describe() == before


class TestEnded:
    def test_after_the_block_every_method_raises(self, guarded: Guarded) -> None:
        with protect(P, guarded.site()) as permit:
            pass
        before = guarded.describe()
        for action in (
            lambda: permit.read(b"README.md"),
            lambda: permit.write(b"README.md", b"x"),
            lambda: permit.move(b"README.md", b"x"),
            lambda: permit.delete(b"README.md"),
        ):
            with pytest.raises(GuardRefused, match="ended"):
                action()
        assert guarded.describe() == before

    @pytest.mark.parametrize("raising", [False, True])
    def test_in_a_forks_child_nothing_works_and_leaving_does_nothing(self, guarded: Guarded, raising: bool) -> None:
        site = guarded.site()
        before = guarded.describe()
        pid = 0
        try:
            with protect(P, site) as permit:
                permit.write(b"README.md", b"new")
                pid = os.fork()
                if pid == 0:
                    for action in (lambda: permit.read(b"README.md"), lambda: permit.write(b"README.md", b"x")):
                        with pytest.raises(GuardRefused, match="child"):
                            action()
                    if raising:
                        raise ZeroDivisionError
                else:
                    assert os.waitpid(pid, 0)[1] == 0
                    assert guarded.describe() == before  # it applied nothing
                    with pytest.raises(DrkitError):  # and unlocked nothing
                        _edit_elsewhere(guarded)
        except ZeroDivisionError:
            assert pid == 0
        except BaseException:
            if pid == 0:
                os._exit(1)
            raise
        if pid == 0:
            os._exit(0)
        assert (guarded.source / "plugins/one/README.md").read_bytes() == b"new"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
    def test_a_signal_in_the_block_or_while_it_is_left(self, guarded: Guarded, number: signal.Signals) -> None:
        guarded.site()
        guarded.close()
        old = content(guarded.describe())
        for where in ("body", "validator", "applied"):
            child = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(guarded.root), where],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=Path(__file__).parent.parent,
            )
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            child.send_signal(number)
            child.wait(30)
            child.stdout.close()
            done = recover(bytes(guarded.source))
            assert content(guarded.describe()) == old, where
            assert len(done) == (1 if where == "applied" and number != signal.SIGINT else 0)

    def test_recovery_is_told_to_the_audit_and_comes_before_the_next_permit(self, guarded: Guarded) -> None:
        guarded.site()
        guarded.close()
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(guarded.root), "applied"],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.kill()
        child.wait(30)
        child.stdout.close()
        assert (guarded.source / "plugins/one/README.md").read_bytes() == b"new"
        site = guarded.site()
        with protect(b"plugins/two", site) as permit:
            assert (guarded.source / "plugins/one/README.md").read_bytes() == b"one"
        snapshot = site.repo.load(find_snapshot(site, permit.snapshot))
        assert site.repo.plugin(snapshot, "plugins/one").files == 6
        assert "guard-recovered" in {one.event for one in site.inventory.audit()}


_CHILD = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from drkit.guard import protect
    from tests.support.guarding import Guarded

    where = sys.argv[2]

    def stop(*_):
        print("ready", flush=True)
        time.sleep(30)
        return []

    guarded = Guarded(Path(sys.argv[1]))
    site = guarded.site()
    record = site.inventory.record
    site.inventory.record = lambda event, *a, **k: stop() if event == "edit" else record(event, *a, **k)
    with protect(b"plugins/one", site, validators=[stop] if where == "validator" else []) as permit:
        permit.write(b"README.md", b"new")
        permit.move(b"skills", b"talents")
        if where == "body":
            stop()
    """
)


def _edit_elsewhere(guarded: Guarded) -> None:
    site: Site = guarded.site(lock_timeout_s=0.05)
    with protect(P, site) as permit:
        permit.write(b"README.md", b"elsewhere")
