"""The second process that walks ahead, started at once; as a fork of the test's own, so that it has its hooks too."""

from __future__ import annotations

import os
import signal
import subprocess
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from drkit.source import ahead


class Fork:
    """Stands for `subprocess.Popen`: instead of a new interpreter, a fork that serves, once `before` has run in it."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        task, self._task = os.pipe()
        self._out, out = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which a fork does not take along
            self._pid = os.fork()
        if self._pid == 0:
            try:
                for fd, target in ((task, 0), (out, 1)):
                    os.dup2(fd, target)
                for fd in (task, out, self._task, self._out):
                    os.close(fd)
                before()
                ahead.serve()
            finally:
                os._exit(0)
        os.close(task)
        os.close(out)
        self.stdin, self.stdout = os.fdopen(self._task, "wb", 0), os.fdopen(self._out, "rb", 0)

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> None:
        os.waitpid(self._pid, 0)


def start_at_once(monkeypatch: pytest.MonkeyPatch, before: Callable[[], object] = lambda: None) -> None:
    """Have every backup that compares with nothing start the second process before its first path."""

    popen = subprocess.Popen

    def start(command: Any, *args: Any, **kwargs: Any) -> Any:
        return Fork(before) if ahead.__name__ in command[-1] else popen(command, *args, **kwargs)

    monkeypatch.setattr(ahead, "MANY", 0)
    monkeypatch.setattr(subprocess, "Popen", start)


@pytest.fixture(autouse=True, params=["alone", "ahead"])
def ahead_or_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test of the module that imports this twice: in one process, and with a second one ahead."""
    if request.param == "ahead":
        start_at_once(monkeypatch)
