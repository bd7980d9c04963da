"""Guarded commands: how they run, what they leave, and that nothing of them outlives a guard, not even a killed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from drkit import osutil
from drkit.guard import keeper
from drkit.guard.process import MARK, Ended, Process, end, run

SOON = 20.0
"""Seconds within which something must have happened; nothing is asserted about how fast it is."""
HELD = """
import json, msgspec, signal, sys
from drkit.guard import process
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
def journal(it):
    print(json.dumps(msgspec.to_builtins(it)), flush=True)
    if sys.argv[1] == "before": sys.stdin.read()
print(process.run(sys.argv[2:], output=2, journal=journal, grace_s=0.5).code, flush=True)
"""
DAEMON = "setsid sh -c 'while :; do echo x >> $0; sleep 0.01; done' {file} >/dev/null 2>&1 & "
FORGETFUL = "env -i setsid sh -c 'while :; do echo x >> $0; sleep 0.01; done' {file} >/dev/null 2>&1 & "
STUBBORN = "setsid sh -c 'trap : TERM INT; while :; do echo x >> $0; sleep 0.01; done' {file} & "

CHAIN = """
import os, sys, time
until = time.monotonic() + 20
while time.monotonic() < until:
    if os.fork():
        os._exit(0)
    with open(sys.argv[1], "a") as file:
        file.write("x")
"""
"""Each process ends as soon as it has started the next one: to look at them all finds none."""


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def grows(file: Path) -> bool:
    size = file.stat().st_size if file.exists() else 0
    time.sleep(0.1)
    return file.exists() and file.stat().st_size > size


def plain(*command: str) -> Ended:
    return run(command, output=2, journal=lambda _process: None, grace_s=0.2)


@pytest.fixture
def guards() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that guard a command; the first line that each prints is what it journaled."""
    started: list[subprocess.Popen[str]] = []

    def guard(*command: str, stop: str = "after") -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", HELD, stop, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield guard
    for process in started:
        process.kill()
        process.communicate()


def journaled(guard: subprocess.Popen[str]) -> Process:
    assert guard.stdout is not None
    return msgspec.convert(json.loads(guard.stdout.readline()), Process)


@pytest.mark.parametrize(
    ("command", "ended"),
    [
        (["true"], Ended(0)),
        (["sh", "-c", "exit 7"], Ended(7)),
        (["sh", "-c", "kill -TERM $$"], Ended(143)),
        (["sh", "-c", "kill -KILL $$"], Ended(137)),
        (["no-such-command"], Ended(127, "No such file or directory")),
        ([""], Ended(127, "No such file or directory")),
        (["/dev/null"], Ended(126, "Permission denied")),
    ],
)
def test_exit_codes_are_a_shells(command: list[str], ended: Ended) -> None:
    assert plain(*command) == ended


def test_both_outputs_are_one(tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as file:
        run(["sh", "-c", "echo one; echo two >&2; pwd"], output=file.fileno(), journal=lambda _process: None)
    assert (tmp_path / "output").read_text() == f"one\ntwo\n{os.getcwd()}\n"


def test_the_command_finds_the_signals_as_they_were_and_a_group_of_its_own() -> None:
    look = (
        "import os, signal as s, sys; sys.exit(any(s.getsignal(n) == s.SIG_IGN for n in (s.SIGTERM, s.SIGHUP)) "
        "or os.getpgrp() != os.getpid() or len(os.listdir('/proc/self/fd')) != 4)"
    )
    assert plain(sys.executable, "-c", look) == Ended(0)
    assert plain("sh", "-c", "yes | head -1 >/dev/null") == Ended(0)


def test_it_is_journaled_before_it_starts(tmp_path: Path) -> None:
    seen: list[tuple[Process, bool]] = []

    def journal(process: Process) -> None:
        time.sleep(0.2)
        seen.append((process, (tmp_path / "done").exists()))
        assert osutil.process_identity(process.pid) == process.identity
        assert os.getpgid(process.pid) == process.group == process.pid
        assert process.mark.encode() in Path(f"/proc/{process.pid}/environ").read_bytes()

    assert run(["touch", str(tmp_path / "done")], output=2, journal=journal) == Ended(0)
    assert [started for _, started in seen] == [False]
    assert (tmp_path / "done").exists()


def test_a_command_that_cannot_be_journaled_never_starts(tmp_path: Path) -> None:
    def journal(_process: Process) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        run(["touch", str(tmp_path / "done")], output=2, journal=journal)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("kind", [DAEMON, FORGETFUL, STUBBORN])
def test_nothing_is_left_when_the_command_has_ended(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "grows"
    script = kind.format(file=file) + f"while ! [ -s {file} ]; do sleep 0.01; done"
    assert plain("sh", "-c", script) == Ended(0)
    assert not grows(file)


def test_a_chain_of_processes_that_nobody_sees_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "grows"
    start = f"env -i setsid {sys.executable} -I -S -c '{CHAIN}' {file} >/dev/null 2>&1 & "
    assert plain("sh", "-c", start + f"while ! [ -s {file} ]; do sleep 0.01; done") == Ended(0)
    assert not grows(file)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_gets_the_signal(
    tmp_path: Path, guards: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    file = tmp_path / "heard"
    trap = f"trap 'echo yes > {file}; exit 0' {number.name[3:]}"
    guard = guards("sh", "-c", f"{trap}; echo > {file}; while :; do sleep 0.01; done")
    process = journaled(guard)
    until(file.exists)
    guard.send_signal(number)
    guard.wait(SOON)
    assert file.read_text() == "yes\n"
    assert keeper.process(process.pid) is None


@pytest.mark.parametrize("kind", ["", DAEMON, FORGETFUL, STUBBORN])
def test_a_killed_guard_takes_all_of_it_along(
    tmp_path: Path, guards: Callable[..., subprocess.Popen[str]], kind: str
) -> None:
    file = tmp_path / "grows"
    guard = guards("sh", "-c", kind.format(file=file) + f"while :; do echo x >> {file}; sleep 0.01; done")
    process = journaled(guard)
    until(lambda: grows(file))
    os.killpg(guard.pid, signal.SIGKILL)
    until(lambda: keeper.process(process.keeper) is None)
    assert not grows(file)
    assert end(process) == 0


@pytest.mark.parametrize("kind", ["", DAEMON, STUBBORN])
def test_what_survived_a_kill_of_everybody_is_ended(
    tmp_path: Path, guards: Callable[..., subprocess.Popen[str]], kind: str
) -> None:
    file = tmp_path / "grows"
    guard = guards("sh", "-c", kind.format(file=file) + f"(while :; do echo x >> {file}; sleep 0.01; done); true")
    process = journaled(guard)
    until(lambda: grows(file))
    guard.send_signal(signal.SIGSTOP)  # either would end it all by itself, if it saw the other one die
    for pid in (process.keeper, guard.pid):
        os.kill(pid, signal.SIGKILL)
    guard.wait(SOON)
    until(lambda: grows(file))  # else there is nothing left to be ended
    assert end(process) >= 1
    assert not grows(file)
    assert end(process) == 0


def test_a_command_that_waits_for_its_journal_ends_with_the_guard(
    tmp_path: Path, guards: Callable[..., subprocess.Popen[str]]
) -> None:
    guard = guards("touch", str(tmp_path / "done"), stop="before")
    process = journaled(guard)
    guard.kill()
    until(lambda: keeper.process(process.keeper) is None)
    assert keeper.process(process.pid) is None
    assert not (tmp_path / "done").exists()


def test_a_killed_keeper_is_a_killed_command(tmp_path: Path, guards: Callable[..., subprocess.Popen[str]]) -> None:
    file = tmp_path / "grows"
    guard = guards("sh", "-c", DAEMON.format(file=file) + "sleep 100")
    process = journaled(guard)
    until(lambda: grows(file))
    os.kill(process.keeper, signal.SIGKILL)
    assert guard.stdout is not None
    assert guard.stdout.readline() == "137\n"
    assert not grows(file)


@pytest.mark.parametrize("stale", ["start", "boot", "unknown"])
def test_a_number_that_is_somebody_elses_by_now_is_left_alone(stale: str) -> None:
    with subprocess.Popen(["sleep", "100"], start_new_session=True) as other:
        boot, *rest, start = osutil.process_identity(other.pid).split("/")
        identity = {
            "start": "/".join([boot, *rest, str(int(start) - 1)]),
            "boot": "/".join(["another", *rest, start]),
            "unknown": "",
        }[stale]
        assert end(Process(other.pid, identity, other.pid, other.pid, identity, "0" * 32)) == 0
        assert other.poll() is None
        assert end(Process(other.pid, "/".join([boot, *rest, start]), other.pid, 0, "", "0" * 32)) == 1
        assert other.wait(SOON) == -signal.SIGKILL


def test_a_guard_is_not_taken_for_a_remain_of_another() -> None:
    """A guarded command may run drkit itself: who ends remains does not end itself."""
    script = (
        "import os, sys; from drkit.guard.process import *; "
        "sys.exit(end(Process(os.getpid(), '', os.getpid(), 0, '', os.environ[MARK])))"
    )
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, MARK: "f" * 32}, check=False)
    assert done.returncode == 0
