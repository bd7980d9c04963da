"""The process between drkit and a command that it guards: a program of its own, standard library only.

    python -I -S keeper.py CONTROL GRACE_S COMMAND...

It has a session of its own, so that whatever ends drkit does not end it too, and every descendant of the command is
its own, also one that has become a daemon. It answers over the socket with the descriptor CONTROL, in lines:

    ready PID     the command's process is there and waits
    failed ERRNO  it could not be started
    exit CODE     it has ended (128 + N: by signal N)
    left PID...   what could not be ended

and then closes the socket, when everything has ended. It is told `g` (go), `i` (SIGINT), `t` (SIGTERM). When the
socket is closed at the other end, because drkit has died or lost its patience, everything is killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn

_SET_PDEATHSIG = 1
_SET_CHILD_SUBREAPER = 36
_TELL = {b"i": signal.SIGINT, b"t": signal.SIGTERM}
_MASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_LOOK_EVERY_S = 0.02
_KILL_FOR_S = 10.0
"""How long what does not die by SIGKILL, because the system has not let go of it, is waited for."""


class Status(NamedTuple):
    """What the system tells of a process. `start` counts from the boot, in ticks; a zombie is not `alive`."""

    parent: int
    group: int
    session: int
    start: int
    alive: bool


def processes() -> dict[int, Status]:
    """Return every process that can be seen; none where there is no /proc."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                status = process(int(name))
                if status is not None:
                    found[int(name)] = status
    return found


def process(pid: int) -> Status | None:
    """Return what the system tells of one process; None if it does not, or there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return Status(int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]), fields[0] not in (b"Z", b"X"))
    except (OSError, IndexError):
        return None


def descendants(table: Mapping[int, Status], tops: Iterable[int]) -> set[int]:
    """Return what descends from `tops`, and not those themselves."""
    children: dict[int, list[int]] = {}
    for pid, status in table.items():
        children.setdefault(status.parent, []).append(pid)
    found: set[int] = set()
    waiting = list(tops)
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            if pid not in found:
                found.add(pid)
                waiting.append(pid)
    return found


class _Keeper:
    def __init__(self, control: socket.socket, grace_s: float, command: list[bytes]) -> None:
        self._control = control
        self._grace_s = grace_s
        self._hurry = False
        """Whether nobody waits any more: then nothing is asked to end, but killed."""
        self._wake, writer = os.pipe()
        for fd in (self._wake, writer):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer)
        for number in _MASKED:  # they are drkit's to answer
            signal.signal(number, signal.SIG_IGN)
        gate, self._gate = os.pipe()
        self._failure, failure = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            _become(command, gate, failure)
        os.close(gate)
        os.close(failure)
        with contextlib.suppress(OSError):  # both of us do it: who is first does not matter
            os.setpgid(self.pid, self.pid)

    def keep(self) -> None:
        self._say(f"ready {self.pid}")
        code = self._watch()
        if code is not None:
            self._say(f"exit {code}")
        left = self._end()
        if left:
            self._say(f"left {' '.join(map(str, left))}")
        os.waitpid(self.pid, os.WNOHANG)

    def _watch(self) -> int | None:
        """Do what is told until the command has ended; return its exit code, None if nobody wants to know."""
        while not self._hurry:
            # What has ended stays a zombie until everything has: so its number, and its group's, are nobody else's.
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status
            self._listen(None)
        return None

    def _listen(self, timeout: float | None) -> None:
        ready, _, _ = select.select([self._wake] + [self._control] * (not self._hurry), [], [], timeout)
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._control not in ready:
            return
        told = self._control.recv(1)
        if not told:
            self._hurry = True
        elif told == b"g":
            os.write(self._gate, told)
            if failure := os.read(self._failure, 16):  # empty: it runs, and the system has closed the pipe
                self._say(f"failed {failure.decode()}")
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, _TELL[told])

    def _end(self) -> list[int]:
        """End the command's group and all its descendants: asked first, then killed. Return what is left."""
        asked: set[int] = set()
        kill_at = time.monotonic() + self._grace_s
        while True:
            late = self._hurry or time.monotonic() >= kill_at
            alive = self._alive()
            if (not alive and _is_childless()) or time.monotonic() >= kill_at + _KILL_FOR_S:
                return alive
            for pid in alive:
                if late or pid not in asked:
                    asked.add(pid)
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            if late:
                self._kill_children()
            self._listen(_LOOK_EVERY_S)

    def _alive(self) -> list[int]:
        """Return the living descendants, and bury the dead ones other than the command itself."""
        table = processes()
        if not table:  # a system that does not tell: its group is all that can be reached
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            return []
        ours = descendants(table, [os.getpid()])
        for pid in ours - {self.pid}:
            if not table[pid].alive:
                with contextlib.suppress(ChildProcessError):  # its own parent will
                    os.waitpid(pid, os.WNOHANG)
        return sorted(pid for pid in ours if table[pid].alive)

    def _kill_children(self) -> None:
        """Kill what is this process's own child, again and again for a moment, and bury it.

        What ends as soon as it has started its successor is gone before a look at all processes comes to it.
        """
        until = time.monotonic() + _LOOK_EVERY_S
        with contextlib.suppress(OSError), open("/proc/thread-self/children", "rb", buffering=0) as file:
            while time.monotonic() < until:
                for pid in map(int, os.pread(file.fileno(), 1 << 20, 0).split()):
                    if pid != self.pid:
                        with contextlib.suppress(ProcessLookupError, PermissionError, ChildProcessError):
                            os.kill(pid, signal.SIGKILL)
                            os.waitpid(pid, os.WNOHANG)

    def _say(self, line: str) -> None:
        try:
            self._control.sendall(line.encode() + b"\n")
        except OSError:
            self._hurry = True


def _is_childless() -> bool:
    """Whether this process has no living child. The system tells that of one moment, as no look at all processes does.

    What a process leaves when it ends is this one's from that moment on: so without a child there is no descendant.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)  # not WEXITED: the dead do not count
    except ChildProcessError:
        return True
    return False


def _become(command: list[bytes], gate: int, failure: int) -> NoReturn:
    """Be the command, in a group of its own, as soon as the gate opens; end with the keeper."""
    keeper = os.getppid()
    signal.set_wakeup_fd(-1)
    for number in (*_MASKED, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.setpgid(0, 0)
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == keeper and os.read(gate, 1):
        try:
            os.execvp(command[0], command)  # noqa: S606  # a shell would read the words once more
        except OSError as error:
            os.write(failure, str(error.errno).encode())
        except ValueError:  # a name that is empty
            os.write(failure, str(errno.ENOENT).encode())
    raise SystemExit(127)


def _prctl(option: int, value: int) -> None:
    """Ask the system for something that not every system has."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (ImportError, OSError, AttributeError, TypeError):
        return


def main(arguments: list[bytes]) -> None:
    """Keep one command, as the arguments say."""
    _prctl(_SET_CHILD_SUBREAPER, 1)
    control = socket.socket(fileno=int(arguments[0]))
    control.set_inheritable(False)
    _Keeper(control, float(arguments[1]), arguments[2:]).keep()


if __name__ == "__main__":
    main(list(map(os.fsencode, sys.argv[1:])))
