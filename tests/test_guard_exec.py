"""`drkit guard exec`: what a command may do, what is undone, and what survives a kill."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from drkit.cli.guarding import make_site
from drkit.cli.output import Console
from drkit.cli.session import Session
from drkit.errors import GuardRefused, NoSpace
from drkit.guard import protect
from drkit.guard.check import check
from tests.support.cli import Cli, Run
from tests.support.crash import crash_points
from tests.support.fickle import at_call, raising
from tests.support.guarding import content
from tests.support.trees import snapshot_tree

ROOT = Path(__file__).parent.parent
SOON = 30.0
KEYS = {"passed", "command_exit", "changed", "outside", "rolled_back", "snapshot", "rejected_snapshot"}
WRECK = """
echo '```json' > plugins/one/.claude-plugin/plugin.json
rm plugins/one/README.md
rm -r plugins/two
echo broken > marketplace.json
mkdir scattered && echo x > scattered/file
"""


class Scene:
    """A source with two plugins, a repository, and drkit in this process or in another one."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.source = home / "source"
        for name in ("one", "two"):
            top = self.source / "plugins" / name
            (top / ".claude-plugin").mkdir(parents=True)
            (top / ".claude-plugin/plugin.json").write_text(json.dumps({"name": name}))
            (top / "README.md").write_text(f"This is {name}.\n")
            (top / "link").symlink_to("README.md")
        (self.source / "marketplace.json").write_text("{}\n")
        old = 1_700_000_000_000_000_000
        for directory, _, names in os.walk(self.source):
            for name in names:
                os.utime(os.path.join(directory, name), ns=(old, old), follow_symlinks=False)
        self.environ = {"DRKIT_REPO": str(home / "repo"), "DRKIT_STATE_DIR": str(home / "state")}
        self.cli = Cli(home, **self.environ)
        self.cli.ok("init", "-q")
        self.was = snapshot_tree(self.source)
        self.started: list[subprocess.Popen[str]] = []

    def exec(self, script: str, *options: str, plugins: tuple[str, ...] = ("one",)) -> Run:
        """Run a shell script, in the source, under the guard."""
        line = ("guard", "exec", *plugins, "--source", "source", "--json", *options)
        return self.cli(*line, "--", "sh", "-euc", f"cd {self.source}; {script}")

    def process(self, *words: str) -> subprocess.Popen[str]:
        """Start drkit as a process of its own, the first of its group."""
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("DRKIT_", "TURSO_"))}
        self.started.append(
            subprocess.Popen(
                [sys.executable, "-m", "drkit", *words],
                cwd=self.home,
                env={**outside, **self.cli.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return self.started[-1]

    def guarding(self, script: str, *options: str) -> subprocess.Popen[str]:
        """Start a guarded script, and wait until it has said a line; that is `ready`."""
        words = ("guard", "exec", "one", "--source", "source", *options, "--")
        process = self.process(*words, "sh", "-c", f"cd {self.source}; {script}")
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        return process

    def end(self) -> None:
        """End what a test has left."""
        for process in self.started:
            process.kill()
            process.communicate()

    def is_back(self) -> None:
        """The source is as it was, and no journal is left."""
        assert snapshot_tree(self.source) == self.was
        assert self.journals() == []

    def journals(self) -> list[str]:
        """Return the names of the journals that there are."""
        state = self.home / "state"
        return [name for name in (os.listdir(state) if state.exists() else []) if name.endswith(".journal")]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.end()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_ends_well_in_its_plugins_stays(scene: Scene) -> None:
    run = scene.exec("echo more >> plugins/one/README.md; mkdir plugins/one/new; echo x > plugins/one/new/file")
    assert run.code == 0
    told = run.json
    assert set(told) >= KEYS
    assert told["passed"] is True
    assert told["rolled_back"] is False
    assert told["command_exit"] == 0
    assert told["changed"] == ["plugins/one/README.md", "plugins/one/new/file"]
    assert told["outside"] == []
    assert told["rejected_snapshot"] is None
    before, after = (scene.cli.ok("cat", told[key], "plugins/one/README.md").text for key in ("snapshot", "after"))
    assert after == before + "more\n"
    assert scene.cli.ok("snapshots", "--json").json["snapshots"][-1]["id"] == told["after"]
    assert scene.journals() == []


def test_latest_is_not_what_a_backup_saw_of_a_command_that_was_undone(scene: Scene) -> None:
    drkit = f"{sys.executable} -P -c 'import sys; sys.path[:0] = [\"{ROOT}\"]; from drkit.cli.main import run; run()'"
    run = scene.exec(f"rm -r plugins/two; {drkit} backup -q {scene.source}; exit 1")
    assert (run.code, run.json["command_exit"]) == (30, 1)
    rows = scene.cli.ok("snapshots", "--json").json["snapshots"]
    assert [("rejected" in row["tags"], row["plugins"]) for row in rows] == [
        (False, 2),
        (False, 1),
        (True, 1),
        (False, 2),
    ]
    assert scene.cli.ok("plugins", "latest", "--json").json["plugins"][1]["name"] == "two"


def test_a_wreck_is_put_back_and_kept(scene: Scene) -> None:
    run = scene.exec(WRECK)
    assert run.code == 30
    told = run.json
    assert (told["passed"], told["rolled_back"], told["command_exit"]) == (False, True, 0)
    assert "plugins/two/README.md" in told["outside"]
    assert set(told["outside"]) < set(told["changed"])
    assert told["left"] == []
    scene.is_back()
    assert scene.cli.ok("cat", told["rejected_snapshot"], "scattered/file").text == "x\n"
    rejected = {one["id"]: one["tags"] for one in scene.cli.ok("snapshots", "--json").json["snapshots"]}
    assert rejected == {told["snapshot"]: [], told["rejected_snapshot"]: ["rejected"]}
    assert scene.cli.ok("verify", "--level", "content", "--json").json["snapshots"] == [told["snapshot"]]


@pytest.mark.parametrize(
    ("script", "exit_code", "outside"),
    [
        ("echo x > plugins/one/README.md; exit 3", 3, []),
        ("echo x > plugins/one/README.md; kill -9 $$", 137, []),
        ("chmod 600 marketplace.json", 0, ["marketplace.json"]),
        ("ln -sfn nowhere plugins/two/link", 0, ["plugins/two/link"]),
        ("mkdir plugins/empty", 0, ["plugins/empty"]),
        ("mv plugins/two plugins/three; mv plugins/three plugins/two", 0, None),
        ("mkdir -p plugins/two/__pycache__; echo > plugins/two/__pycache__/x; mkdir .git; echo > .git/x", 0, None),
        ("exit 1", 1, []),
    ],
)
def test_why_a_command_is_undone(scene: Scene, script: str, exit_code: int, outside: list[str] | None) -> None:
    run = scene.exec(script)
    assert run.json["command_exit"] == exit_code
    if outside is None:
        assert run.code == 0
        return
    assert run.code == 30
    assert run.json["outside"] == outside
    assert run.json["reasons"]
    scene.is_back()


def test_several_plugins_may_be_named_and_more_be_ignored(scene: Scene) -> None:
    script = "echo x > plugins/one/README.md; echo x > plugins/two/README.md; echo x > build.log"
    assert scene.exec(script).code == 30
    assert scene.exec(script, plugins=("one", "plugins/two")).json["outside"] == ["build.log"]
    run = scene.exec(script, "--ignore", "*.log", plugins=("one", "plugins/two"))
    assert run.code == 0
    assert run.json["changed"] == ["plugins/one/README.md", "plugins/two/README.md"]
    assert (scene.source / "build.log").exists()


@pytest.mark.parametrize("good", [True, False])
def test_a_validating_command_decides(scene: Scene, good: bool) -> None:
    looked = scene.home / "looked"
    check = f"echo seen > {looked}; grep -q {'more' if good else 'less'} {scene.source}/plugins/one/README.md"
    run = scene.exec("echo more >> plugins/one/README.md", "--validate", check)
    assert (run.code, run.json["passed"]) == ((0, True) if good else (30, False))
    assert run.json["command_exit"] == 0
    assert run.json["validate_exit"] == (0 if good else 1)
    assert looked.exists()
    if not good:
        scene.is_back()
        looked.unlink()
        assert scene.exec("exit 1", "--validate", check).json["validate_exit"] is None
        assert not looked.exists()


def test_what_the_validating_command_changes_counts(scene: Scene) -> None:
    run = scene.exec("true", "--validate", f"echo x > {scene.source}/marketplace.json")
    assert run.json["outside"] == ["marketplace.json"]
    scene.is_back()


def test_what_is_rejected_may_be_kept(scene: Scene) -> None:
    run = scene.exec(WRECK, "--keep-on-failure")
    assert run.code == 30
    assert (run.json["passed"], run.json["rolled_back"]) == (False, False)
    assert (scene.source / "marketplace.json").read_text() == "broken\n"
    assert scene.cli.ok("cat", run.json["rejected_snapshot"], "marketplace.json").text == "broken\n"
    assert scene.journals() == []
    assert scene.cli.ok("guard", "recover", "--source", "source", "--json").json == {"recovered": []}
    assert (scene.source / "marketplace.json").read_text() == "broken\n"


def test_a_command_that_does_not_exist(scene: Scene) -> None:
    run = scene.cli("guard", "exec", "one", "--source", "source", "--json", "--", "no-such-command")
    assert run.code == 30
    assert run.json["command_exit"] == 127
    assert run.json["reasons"] == ["no-such-command could not be run: No such file or directory"]
    scene.is_back()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("one", "--source", "source"), 2),
        (("one", "--source", "source", "--"), 2),
        (("--source", "source", "--", "true"), 2),
        (("nobody", "--source", "source", "--", "true"), 2),
        (("one", "--source", "missing", "--", "true"), 2),
        (("one", "--source", "source", "--lock-timeout", "soon", "--", "true"), 2),
    ],
)
def test_what_cannot_be_meant_runs_nothing(scene: Scene, words: tuple[str, ...], code: int) -> None:
    run = scene.cli("guard", "exec", "--json", *words)
    assert run.code == code
    assert run.error["hint"]
    scene.is_back()


def test_what_a_command_leaves_running_is_ended_before_anything_is_compared(scene: Scene) -> None:
    loop = "while :; do echo x >> marketplace.json; sleep 0.01; done"
    run = scene.exec(f"setsid sh -c '{loop}' </dev/null >/dev/null 2>&1 & until grep -q x marketplace.json; do :; done")
    assert run.code == 30
    scene.is_back()
    time.sleep(0.1)
    scene.is_back()


def test_its_output_goes_to_stderr_while_it_runs(scene: Scene) -> None:
    gate = scene.home / "gate"
    process = scene.guarding(f"echo ready; while ! [ -e {gate} ]; do sleep 0.01; done; echo done >&2", "--json")
    assert process.poll() is None
    gate.touch()
    out, err = process.communicate(timeout=SOON)
    assert process.returncode == 0
    assert err == "done\n"
    assert json.loads(out)["passed"] is True


# Interruptions

BUSY = (
    "echo x > marketplace.json; rm -r plugins/two; echo ready; while :; do echo x >> plugins/one/new; sleep 0.01; done"
)
DAEMON = f"setsid sh -c '{BUSY}' & sleep 100"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_an_interrupted_command_is_undone_at_once(scene: Scene, number: signal.Signals, code: int) -> None:
    process = scene.guarding(f"trap 'echo heard; exit 0' INT TERM; {BUSY}")
    process.send_signal(number)
    out, err = process.communicate(timeout=SOON)
    assert process.returncode == code, err
    assert "heard" in err
    assert "was undone" in err
    assert out == ""
    scene.is_back()


KILLS = ("alone", "group", "keeper too")
COMMANDS = {
    "recover": ("guard", "recover", "--source", "source"),
    "backup": ("backup", "source"),
    "exec": ("guard", "exec", "two", "--source", "source", "--", "true"),
    "restore-plugin": ("restore-plugin", "two", "--in-place", "--source", "source"),
}


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return list(map(int, file.read().split()))


@pytest.mark.parametrize("script", [BUSY, DAEMON], ids=["plain", "daemon"])
@pytest.mark.parametrize("kill", KILLS)
def test_after_a_kill_the_next_command_puts_back(scene: Scene, kill: str, script: str) -> None:
    process = scene.guarding(script)
    if kill == "keeper too":
        for child in children(process.pid):
            os.kill(child, signal.SIGKILL)
    if kill == "group":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait(SOON)
    assert snapshot_tree(scene.source) != scene.was
    run = scene.cli("guard", "recover", "--source", "source", "--json")
    assert run.code == 0, run
    (told,) = run.json["recovered"]
    assert (told["kind"], told["done"], told["left"]) == ("command", "put back", [])
    scene.is_back()
    time.sleep(0.1)
    scene.is_back()
    assert scene.cli.ok("cat", told["rejected_snapshot"], "marketplace.json").text == "x\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_any_command_on_the_source_puts_back_first(scene: Scene, command: str) -> None:
    process = scene.guarding(BUSY)
    process.kill()
    process.wait(SOON)
    run = scene.cli(*COMMANDS[command])
    assert run.code == 0, run
    assert "an interrupted command of plugins/one in" in run.err
    assert "was put back" in run.err
    assert content(snapshot_tree(scene.source)) == content(scene.was)
    assert scene.journals() == []


def test_recovery_needs_nothing_to_be_named(scene: Scene) -> None:
    process = scene.guarding(BUSY)
    process.kill()
    process.wait(SOON)
    del scene.cli.environ["DRKIT_REPO"]
    scene.cli.ok("guard", "recover", "--source", str(scene.source))
    scene.is_back()


def test_killed_at_any_moment(tmp_path: Path) -> None:
    numbers = iter(range(1000))

    def make() -> Scene:
        home = tmp_path / str(next(numbers))
        home.mkdir()
        return Scene(home)

    def action(scene: Scene) -> None:
        scene.exec(WRECK)

    rejected = 0
    for point in crash_points(make, action, limit=16):
        scene = point.state
        run = scene.cli("guard", "recover", "--source", "source", "--json")
        assert run.code == 0, (point, run)
        assert content(snapshot_tree(scene.source)) == content(scene.was), point
        assert scene.journals() == [], point
        assert scene.cli("guard", "exec", "one", "--source", "source", "--", "true").code == 0, point
        rejected += any(one["tags"] for one in scene.cli.ok("snapshots", "--json").json["snapshots"])
    assert rejected > 0


# Others


def test_two_at_once_succeed_or_are_refused(scene: Scene) -> None:
    scripts = [f"echo {name} >> plugins/{name}/README.md; sleep 0.2" for name in ("one", "two")]
    processes = [
        scene.process("guard", "exec", name, "--source", "source", "--json", "--", "sh", "-c", f"cd source; {script}")
        for name, script in zip(("one", "two"), scripts, strict=True)
    ]
    for process in processes:
        process.communicate(timeout=SOON)
    assert [process.returncode for process in processes] == [0, 0]
    for name in ("one", "two"):
        assert (scene.source / "plugins" / name / "README.md").read_text() == f"This is {name}.\n{name}\n"


def test_who_cannot_wait_gets_11_and_changes_nothing(scene: Scene) -> None:
    gate = scene.home / "gate"
    process = scene.guarding(
        f"echo mine > plugins/one/README.md; echo ready; while ! [ -e {gate} ]; do sleep 0.01; done"
    )
    run = scene.exec("echo theirs > plugins/two/README.md", "--lock-timeout", "0s", plugins=("two",))
    assert run.code == 11
    assert run.error["code"] == 11
    assert scene.cli("guard", "recover", "--source", "source", "--json").json == {"recovered": []}
    check = scene.cli("guard", "check", "two", "--source", "source", "--json")
    assert (check.code, check.json["permitted"]) == (30, False)
    gate.touch()
    process.communicate(timeout=SOON)
    assert process.returncode == 0
    assert (scene.source / "plugins/one/README.md").read_text() == "mine\n"
    assert (scene.source / "plugins/two/README.md").read_text() == "This is two.\n"


def test_the_inventory_in_the_source_is_neither_compared_nor_put_back(scene: Scene) -> None:
    scene.cli.environ["DRKIT_INVENTORY"] = str(scene.source / "inventory.db")
    assert scene.exec("echo more >> plugins/one/README.md").json["changed"] == ["plugins/one/README.md"]
    run = scene.exec("rm -r plugins/two")
    assert run.code == 30
    assert run.json["outside"] == run.json["changed"]
    assert (scene.source / "plugins/two/README.md").exists()
    audit = scene.cli.ok("inventory", "sql", "SELECT event FROM audit", "--json").json["rows"]
    assert audit.count(["guard-exec"]) == 2


def test_what_cannot_be_stored_is_not_worked_on(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    at_call(monkeypatch, "open", scene.source / "plugins/two/README.md", raising(errno.EACCES), first=False)
    run = scene.exec("echo x > plugins/one/README.md")
    assert run.code == 30
    assert "could not be put back" in run.error["message"]
    assert "plugins/two/README.md" in run.error["message"]
    scene.is_back()


def test_a_damaged_repository_is_no_proof(scene: Scene) -> None:
    scene.exec("true")
    for pack in (scene.home / "repo/packs").glob("*/*"):
        pack.chmod(0o644)
        data = bytearray(pack.read_bytes())
        data[100] ^= 0xFF
        pack.write_bytes(data)
    run = scene.exec("echo x > plugins/one/README.md")
    assert run.code in (20, 30), run
    check = scene.cli("guard", "check", "one", "--source", "source", "--json")
    assert (check.code, check.json["permitted"]) == (30, False), check
    scene.is_back()


def full(*_: object, **__: object) -> None:
    raise NoSpace("the disk is full")


def test_a_state_that_cannot_be_stored_is_not_undone_but_later(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("drkit.guard.exec.look", full)
        assert scene.exec(WRECK).code == 13
    assert (scene.source / "marketplace.json").read_text() == "broken\n"
    assert len(scene.journals()) == 1
    scene.cli.ok("guard", "recover", "--source", "source")
    scene.is_back()


# guard check


def test_what_a_command_did_waits_for_the_repository_that_it_took_away(scene: Scene) -> None:
    run = scene.exec(f"{WRECK} mv ../repo ../away")
    assert run.code == 10
    assert "bring it back" in run.error["hint"]
    assert len(scene.journals()) == 1
    (scene.home / "away").rename(scene.home / "repo")
    scene.cli.ok("guard", "recover", "--source", "source")
    scene.is_back()


def test_an_edit_that_would_be_permitted(scene: Scene) -> None:
    for name in ("one", "plugins/one"):
        scene.cli.ok("backup", "source")
        before = {path: path.stat().st_mtime_ns for path in (scene.home / "repo").rglob("*")}
        rows = scene.cli.ok("inventory", "--json").json["rows"]
        run = scene.cli.ok("guard", "check", name, "--source", "source", "--json")
        assert run.json == {"permitted": True, "reasons": []}
        assert {path: path.stat().st_mtime_ns for path in (scene.home / "repo").rglob("*")} == before
        assert scene.cli.ok("inventory", "--json").json["rows"] == rows
    scene.is_back()


def test_an_edit_of_a_source_never_backed_up_is_permitted_by_path(scene: Scene) -> None:
    assert scene.cli.ok("guard", "check", "plugins/one", "--source", "source", "--json").json["permitted"]
    assert scene.cli.ok("snapshots", "--json").json["snapshots"] == []


@pytest.mark.parametrize("plugin", ["plugins", "plugins/three", "nobody"])
def test_what_is_no_plugin_is_refused(scene: Scene, plugin: str) -> None:
    scene.cli.ok("backup", "source")
    run = scene.cli("guard", "check", plugin, "--source", "source", "--json")
    assert run.code == 30
    assert run.json["permitted"] is False
    assert "there is no plugin" in run.json["reasons"][0]


def test_what_was_interrupted_is_a_reason(scene: Scene) -> None:
    scene.cli.ok("backup", "source")
    process = scene.guarding(BUSY)
    process.kill()
    process.wait(SOON)
    run = scene.cli("guard", "check", "one", "--source", "source", "--json")
    assert run.code == 30
    assert any("interrupted" in reason for reason in run.json["reasons"])
    assert len(scene.journals()) == 1, "it writes nothing"
    scene.cli.ok("guard", "recover", "--source", "source")
    scene.cli.ok("guard", "check", "one", "--source", "source")


def test_a_database_in_use_is_a_reason(scene: Scene) -> None:
    path = scene.source / "plugins/one/data.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        opened.execute("PRAGMA journal_mode=wal")
        opened.execute("CREATE TABLE t (value)")
        run = scene.cli("guard", "check", "plugins/one", "--source", "source", "--json")
    assert run.code == 30
    assert "data.db is a database that is in use" in run.json["reasons"][0]


def test_what_a_permit_would_refuse_is_refused(scene: Scene) -> None:
    """Held against the permit itself."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("DRKIT_")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**outside, **scene.cli.environ}.items():
            patch.setenv(name, value)
        session = Session(Console(), repo=str(scene.home / "repo"))
        site = make_site(session, bytes(scene.source), session.open())
        for plugin in ("plugins/one", "plugins/three", "plugins/one/link"):
            try:
                with protect(os.fsencode(plugin), site):
                    permitted = True
            except GuardRefused:
                permitted = False
            assert check(site, plugin).permitted == permitted, plugin
        session.close()
