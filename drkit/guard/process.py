"""Running a command so that nothing of it outlives the guard, and ending what a guard that was killed has left."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from drkit import osutil
from drkit.errors import GuardRefused
from drkit.guard import keeper

MARK: Final = "DRKIT_GUARDED"
"""The environment variable by which a guarded command's descendants are known, whatever has become of their parents."""
GRACE_S = 5.0
"""How long a command, or what it has left running, is given to end after it was asked to."""
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126
_KILLED = 128 + signal.SIGKILL
_WAIT_S = 0.02
_WAITS = 500


class Process(Struct, frozen=True):
    """A guarded command, as the journal knows it before the command starts.

    `identity` is `osutil.process_identity` of `pid`: a number alone may be another process's by now. `keeper` is the
    same for its keeper, whose session it is in. `mark` is in the environment of all that it starts.
    """

    pid: int
    identity: str
    group: int
    keeper: int
    keeper_identity: str
    mark: str


class Ended(Struct, frozen=True):
    """How a command ended: its exit code, as a shell would give it, and why it could not be started, if so."""

    code: int
    reason: str = ""


def run(
    command: Sequence[str],
    *,
    output: int,
    journal: Callable[[Process], None],
    environ: Mapping[str, str] | None = None,
    grace_s: float = GRACE_S,
    random: Callable[[int], bytes] = os.urandom,
) -> Ended:
    """Run a command to its end, and to the end of all that it has started.

    It runs in a process group of its own, with this process's standard input and working directory, and writes both
    its outputs to the descriptor `output`. `journal` is called when its process exists, but before it runs. An
    exception (KeyboardInterrupt is forwarded as SIGINT, any other as SIGTERM) ends the command, and is raised again.
    The code is 127 if there is no such command, 126 if it cannot be executed, 128 + N if the signal N ended it.
    GuardRefused: something of it cannot be ended.
    """
    ours, its = socket.socketpair()
    mark = random(16).hex()
    environ = os.environ if environ is None else environ
    marks = ":".join(filter(None, (environ.get(MARK), mark)))  # a guarded command may guard one itself
    arguments = [sys.executable, "-I", "-S", keeper.__file__, str(its.fileno()), str(grace_s), *command]
    with ours:
        with its:
            kept = subprocess.Popen(
                arguments,
                stdout=output,
                stderr=output,
                env={**environ, MARK: marks},
                pass_fds=[its.fileno()],
                start_new_session=True,
            )
        return _Talk(ours, kept, mark, grace_s).run(journal)


class _Talk:
    """A keeper at work, and what it has said so far."""

    def __init__(self, control: socket.socket, kept: subprocess.Popen[bytes], mark: str, grace_s: float) -> None:
        self._control = control
        self._kept = kept
        self._mark = mark
        self._grace_s = grace_s
        self._process: Process | None = None
        self._ended = Ended(_KILLED)  # unless the keeper tells otherwise: if it cannot, it was killed

    def run(self, journal: Callable[[Process], None]) -> Ended:
        try:
            for line in self._lines(None):
                word, *rest = line.split()
                if word == "ready":
                    self._process = _identified(int(rest[0]), self._kept.pid, self._mark)
                    journal(self._process)
                    self._control.sendall(b"g")
                elif word == "failed":
                    code = int(rest[0])
                    self._ended = Ended(_NOT_FOUND if code == errno.ENOENT else _NOT_EXECUTABLE, os.strerror(code))
                elif word == "exit" and not self._ended.reason:
                    self._ended = Ended(int(rest[0]))
        except BaseException as error:
            self._stop(b"i" if isinstance(error, KeyboardInterrupt) else b"t")
            raise
        finally:
            self._control.close()  # the keeper, if it is still there, kills what is left and ends
            self._kept.wait()
            if self._process is not None:
                end(self._process)
        return self._ended

    def _lines(self, timeout_s: float | None) -> Iterator[str]:
        """Yield the keeper's lines until it has closed its end, or for so long."""
        said = b""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._control], [], [], left)[0]:
                return
            data = self._control.recv(4096)
            if not data:
                return
            *lines, said = (said + data).split(b"\n")
            yield from (line.decode() for line in lines)

    def _stop(self, how: bytes) -> None:
        """Ask the command to end, and wait for that as long as it is granted; a second interruption waits no longer."""
        with contextlib.suppress(OSError):  # the keeper is gone
            self._control.sendall(how)
            for _ in self._lines(self._grace_s):
                continue


def _identified(pid: int, keeper_pid: int, mark: str) -> Process:
    identities = [osutil.process_identity(number) for number in (pid, keeper_pid)]
    return Process(pid, identities[0], pid, keeper_pid, identities[1], mark)


def end(process: Process, *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Kill what still runs of a guarded command; return how many processes that were.

    Never another process that has one of its numbers by now. Everything is stopped first, so that nothing escapes by
    starting something new. GuardRefused if something stays alive.
    """
    found: dict[int, int] = {}
    while new := _alive(process).items() - found.items():
        for pid, start in new:
            _send(pid, start, signal.SIGSTOP)
            found[pid] = start
    for pid, start in found.items():
        _send(pid, start, signal.SIGKILL)
    for _ in range(_WAITS):
        alive = _alive(process)
        if not alive:
            return len(found)
        sleep(_WAIT_S)
    numbers = ", ".join(map(str, sorted(alive)))
    raise GuardRefused(
        f"the guarded command still runs and cannot be ended (process {numbers})",
        hint="end it, as the user whose it is, then run 'drkit guard recover --source DIR'",
    )


def _alive(process: Process) -> dict[int, int]:
    """Return the processes that are left of a command, with their start times."""
    table = keeper.processes()
    tops = {
        pid
        for pid, identity in ((process.pid, process.identity), (process.keeper, process.keeper_identity))
        if identity and pid in table and osutil.process_identity(pid) == identity
    }
    tops |= {pid for pid in table if process.mark in _marks(pid)}
    ours = tops | keeper.descendants(table, tops)
    ours |= {pid for pid, status in table.items() if process.pid in tops and status.group == process.group}
    return {pid: table[pid].start for pid in ours - {os.getpid()} if table[pid].alive}


def _marks(pid: int) -> list[str]:
    """Return the marks of all the guards that a process is under."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:  # another user's, or gone
        return []
    own = f"{MARK}=".encode()
    found = [one.removeprefix(own) for one in variables if one.startswith(own)]
    return b":".join(found).decode("ascii", "replace").split(":")


def _send(pid: int, start: int, number: signal.Signals) -> None:
    """Send a signal to a process if it is the one that started then."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        fd = os.pidfd_open(pid)
        try:
            status = keeper.process(pid)
            if status is not None and status.start == start:
                signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)
