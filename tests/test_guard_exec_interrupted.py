"""`drkit guard exec` that is interrupted or killed: the source comes back, at once or with the next command."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from drkit.errors import NoSpace
from tests.support.crash import crash_points
from tests.support.executing import BUSY, SOON, WRECK, Scene, scene
from tests.support.guarding import content
from tests.support.trees import snapshot_tree

__all__ = ["scene"]

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


def test_what_a_command_did_waits_for_the_repository_that_it_took_away(scene: Scene) -> None:
    run = scene.exec(f"{WRECK} mv ../repo ../away")
    assert run.code == 10
    assert "bring it back" in run.error["hint"]
    assert len(scene.journals()) == 1
    (scene.home / "away").rename(scene.home / "repo")
    scene.cli.ok("guard", "recover", "--source", "source")
    scene.is_back()
