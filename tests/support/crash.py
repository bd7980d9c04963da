"""Proofs of crash safety: run something again and again, and end it at each call that changes the file system.

    for point in crash_points(make_state, action):
        check(point.state)            # must hold whatever point.call the process died at

`make_state` makes a fresh state (a directory, a store in one) before each run, `action` gets it. Counted are the calls
of CALLS through the attributes of `os` and `drkit.osutil`, from every thread; each run ends just before the n-th, so
what one call leaves is seen at the next. A call that writes counts twice: before it, and with half of its bytes
written. Opening a file object for writing counts twice, before and after; what it then writes is not seen.

A killed process loses nothing that it has written: missing fsyncs do not show here. `trace_calls` shows them.
"""

from __future__ import annotations

import builtins
import errno
import functools
import io
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

import pytest

from drkit import osutil
from drkit.errors import DrkitError
from drkit.store.base import Store
from tests.support.faults import CHANGES, FaultyStore

T = TypeVar("T")

_CHANGING = """
    chmod chown copy_file_range fchmod fchown fdatasync fsync ftruncate lchown link mkdir mkfifo mknod open
    posix_fallocate pwrite pwritev remove removexattr rename rename_exchange rename_noreplace replace rmdir sendfile
    setxattr symlink syncfs truncate unlink utime write writev
"""
_FREE = "chmod chown fchmod fchown lchown remove removexattr rmdir unlink utime"

CALLS = frozenset(_CHANGING.split())
"""The names, in `os` or `drkit.osutil`, of the calls that change the file system or wait for the disk."""

SPACE_CALLS = CALLS.difference(_FREE.split())
"""Those of CALLS that a full disk makes fail."""

KILLED = 137
_WRITES = frozenset(("write", "pwrite", "writev", "pwritev"))
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_write = os.write


@dataclass(frozen=True)
class Point(Generic[T]):
    """One run: what it left in `state`, and the call, the `number`-th of `total`, at which it was struck."""

    state: T
    number: int
    total: int
    call: str
    error: Exception | None = None


class Killed(BaseException):
    """Ends a run in this process; nothing but cleaning up may happen after it."""


def crash_points(
    make_state: Callable[[], T],
    action: Callable[[T], object],
    *,
    calls: frozenset[str] = CALLS,
    limit: int = 500,
    timeout: int = 60,
) -> Iterator[Point[T]]:
    """Yield what is left when a child process dies just before each call of `action`, `limit` of them at most.

    AssertionError if `action` changes nothing, fails by itself, or takes more than `timeout` seconds. A run that
    ends before its call is reached, as threads may have it, is passed over.
    """
    total = len(trace_calls(make_state, action, calls=calls, timeout=timeout))
    died = 0
    for number in _spread(total, limit):
        state = make_state()
        code, call = _fork(functools.partial(_run_and_die, action, state, calls, number), timeout)
        assert code in (0, KILLED), f"the action ended with {code} before call {number}: {call}"
        if code == KILLED:
            died += 1
            yield Point(state, number, total, call)
    assert died > 0, f"no run reached its call: {total} were counted at first"


def trace_calls(
    make_state: Callable[[], T],
    action: Callable[[T], object],
    *,
    calls: frozenset[str] = CALLS,
    timeout: int = 60,
) -> list[str]:
    """Return the calls of an undisturbed run in a child process, in order."""

    def body(pipe: int) -> None:
        watch = _Watch(0)
        with _watched(calls, watch):
            action(state)
        with open(pipe, "w") as file:
            json.dump(watch.seen, file)

    state = make_state()
    code, text = _fork(body, timeout)
    assert code == 0, f"the undisturbed action ended with {code}: {text}"
    seen: list[str] = json.loads(text)
    assert seen, "the action changes nothing"
    return seen


def enospc_points(
    make_state: Callable[[], T],
    action: Callable[[T], object],
    *,
    calls: frozenset[str] = SPACE_CALLS,
    code: int = errno.ENOSPC,
    lasting: bool = False,
    limit: int = 500,
) -> Iterator[Point[T]]:
    """Yield what is left when the n-th call, and with `lasting` every later one, raises OSError(code), for each n.

    The runs are in this process; `point.error` is what `action` raised (DrkitError or OSError), if it raised.
    """
    total = len(trace_calls(make_state, action, calls=calls))
    struck = 0
    for number in _spread(total, limit):
        state = make_state()
        watch = _Watch(number, functools.partial(_refuse, code), lasting=lasting)
        error: Exception | None = None
        with _watched(calls, watch):
            try:
                action(state)
            except (DrkitError, OSError) as caught:
                error = caught
        if len(watch.seen) >= number:
            struck += 1
            yield Point(state, number, total, watch.seen[number - 1], error)
    assert struck > 0, f"no run reached its call: {total} were counted at first"


def store_crash_points(
    make_store: Callable[[], Store],
    action: Callable[[Store], object],
    *,
    verbs: Iterable[str] = CHANGES,
    limit: int = 500,
) -> Iterator[Point[Store]]:
    """Yield the store that is left when `action` dies just before each of its calls of `verbs`.

    The runs are in this process, so any store will do: the call and all later ones of `verbs` raise Killed, which
    `action` must not swallow. What `action` does elsewhere while Killed passes through it is done.
    """
    verbs = tuple(verbs)
    counter = FaultyStore(make_store())
    action(counter)
    total = sum(counter.calls[verb] for verb in verbs)
    assert total > 0, "the action changes nothing"
    for number in _spread(total, limit):
        store = make_store()
        with FaultyStore(store) as dying:
            dying.fail(verbs, error=Killed(), after=number - 1, times=None)
            try:
                action(dying)
            except Killed as killed:
                killed.__traceback__ = None
            else:
                raise AssertionError(f"the action did not end when it was killed at call {number}")
        yield Point(store, number, total, "/".join(verbs))


class _Watch:
    """Remembers the calls of all threads, and calls `strike` at the one with the number `at` (0: never)."""

    def __init__(self, at: int, strike: Callable[[str], None] | None = None, *, lasting: bool = False) -> None:
        self.seen: list[str] = []
        self._at = at
        self._strike = strike
        self._lasting = lasting
        self._lock = threading.Lock()

    def meet(self, call: str, first: Callable[[], object] | None = None) -> None:
        """Count a call. If it is to be struck, do what is to be done `first`."""
        with self._lock:
            self.seen.append(call)
            number = len(self.seen)
        if self._strike and (number == self._at or (self._lasting and number > self._at)):
            if first:
                first()
            self._strike(call)


@contextmanager
def _watched(calls: frozenset[str], watch: _Watch) -> Iterator[None]:
    """Let `watch` see the calls. What holds an `os` function by another name is not seen."""
    unknown = calls - CALLS
    assert not unknown, f"not known how to watch {sorted(unknown)}"
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in calls:
            module = osutil if hasattr(osutil, name) else os
            original = getattr(module, name, None)
            if original is None:  # not every system has them all
                continue
            watching = _watching(name, original, watch)
            patch.setattr(module, name, watching)
            for able in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
                if original in able:
                    able.add(watching)
                    stack.callback(able.discard, watching)
        if "open" in calls:
            opening = _watching_file_objects(open, watch)
            patch.setattr(builtins, "open", opening)
            patch.setattr(io, "open", opening)
        yield


def _watching(name: str, original: Callable[..., Any], watch: _Watch) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if name == "open" and not kwargs.get("flags", args[1] if len(args) > 1 else 0) & _WRITING:
            return original(*args, **kwargs)
        watch.meet(name)
        if name in _WRITES:
            fd, data, *rest = args
            data = b"".join(data) if name.endswith("v") else bytes(data)
            half = data[: len(data) // 2]
            if half:
                half_args = (fd, [half] if name.endswith("v") else half, *rest)
                watch.meet(f"{name} (half)", functools.partial(original, *half_args))
        return original(*args, **kwargs)

    return call


def _watching_file_objects(original: Callable[..., Any], watch: _Watch) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return original(file, mode, *args, **kwargs)
        watch.meet("open file")
        opened = original(file, mode, *args, **kwargs)
        watch.meet("open file (done)", opened.close)
        return opened

    return call


def _refuse(code: int, call: str) -> NoReturn:
    raise OSError(code, os.strerror(code), call)


def _run_and_die(action: Callable[[T], object], state: T, calls: frozenset[str], number: int, pipe: int) -> None:
    def die(call: str) -> NoReturn:
        _write(pipe, call.encode())
        os._exit(KILLED)

    with _watched(calls, _Watch(number, die)):
        action(state)


def _fork(body: Callable[[int], None], timeout: int) -> tuple[int, str]:
    """Run `body` in a child process; return its exit code and what it wrote to the pipe that it is given.

    The child ends without atexit functions and without flushing what the parent has in its buffers.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(timeout)
            body(writer)
            code = 0
        except BaseException:  # noqa: BLE001 - it goes to the parent
            _write(writer, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, "rb") as pipe:
        text = pipe.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def _spread(total: int, limit: int) -> list[int]:
    """Return 1 … total, or `limit` of them, evenly spread, with the first and the last."""
    if total <= limit:
        return list(range(1, total + 1))
    return [1 + i * (total - 1) // (limit - 1) for i in range(limit)]
