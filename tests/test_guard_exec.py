"""`drkit guard exec`: what a command may do, what is undone, and who has to wait."""

from __future__ import annotations

import errno
import json
import sys
import time

import pytest

from tests.support.executing import ROOT, SOON, WRECK, Scene, scene
from tests.support.fickle import at_call, raising

__all__ = ["scene"]

KEYS = {"passed", "command_exit", "changed", "outside", "rolled_back", "snapshot", "rejected_snapshot"}


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
