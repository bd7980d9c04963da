"""Run one command as a whole process and say how long it took and how much memory it held."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

LONGEST = 7_200  # seconds after which a command is killed
_INTERVAL = 0.1


class Command(NamedTuple):
    """What is run, where, and what its environment has that ours has not."""

    argv: list[str]
    cwd: str | None = None
    env: Mapping[str, str] = {}


class Run(NamedTuple):
    """One run: wall-clock seconds and two peaks in bytes.

    `peak_process` is the resident memory of the largest process, exactly, but never less than this program's own
    (about 25 MB): the kernel counts what a process was before it became the command. `peak_sum` is the proportional
    memory of all processes of the command together, sampled ten times a second: 0 where that cannot be known.
    """

    seconds: float
    peak_process: int
    peak_sum: int


class CommandError(Exception):
    """A measured command failed: its timing means nothing."""


def measure(command: Command) -> Run:
    """Run a command after a `sync`. CommandError if its exit code is not 0."""
    os.sync()
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            command.argv,
            cwd=command.cwd,
            env=environment(command.env),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        sampler = _Sampler(process.pid)
        sampler.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            sampler.finish()
            if process.returncode is None:  # interrupted: nothing of it may go on
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode != 0:
            said.seek(0)
            text = said.read().decode(errors="replace").strip()
            raise CommandError(f"{' '.join(command.argv)}: exit code {process.returncode}: {text[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1_024
    return Run(seconds, usage.ru_maxrss * unit, sampler.peak)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without what configures the tools, and with `more`."""
    ours = ("DRKIT_", "TURSO_", "RESTIC_", "BORG_", "XDG_", "PYTHON", "AWS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | dict(more)


class _Sampler(threading.Thread):
    """Watches the memory of a process and its descendants, and kills what runs for longer than LONGEST."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._pid = pid
        self._done = threading.Event()

    def run(self) -> None:
        """Sample until `finish` is called, or time is up."""
        for _ in range(int(LONGEST / _INTERVAL)):
            self.peak = max(self.peak, sum(_pss(pid) for pid in _family(self._pid)))
            if self._done.wait(_INTERVAL):
                return
        os.killpg(self._pid, signal.SIGKILL)

    def finish(self) -> None:
        """End the watch."""
        self._done.set()
        self.join()


def _family(pid: int) -> list[int]:
    """Return a process and its descendants, as far as they can be seen."""
    family = [pid]
    for member in family:
        try:
            for task in os.listdir(f"/proc/{member}/task"):
                with open(f"/proc/{member}/task/{task}/children", encoding="ascii") as file:
                    family += map(int, file.read().split())
        except OSError:  # it has just ended, or this is no Linux
            continue
    return family


def _pss(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return sum(int(line.split()[1]) * 1_024 for line in file if line.startswith("Pss:"))
    except OSError:
        return 0
