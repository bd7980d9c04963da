"""A source that changes or fails at the wrong moment: hooks on the calls that look at it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drkit.backup import BackupReport
from tests.support.backups import Bench, content
from tests.support.mini_repo import raw

Hook = Callable[[], object]


def at_call(monkeypatch: pytest.MonkeyPatch, name: str, path: Path, hook: Hook, *, first: bool = True) -> None:
    """Run `hook` just before the calls of os.`name` about `path`, or only before the first of them."""
    original = getattr(os, name)
    done: list[bool] = []

    def call(target: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(target, int) and os.fsencode(target) == os.fsencode(path) and not (first and done):
            done.append(True)
            hook()
        return original(target, *args, **kwargs)

    monkeypatch.setattr(os, name, call)


def raising(code: int) -> Hook:
    def fail() -> None:
        raise OSError(code, os.strerror(code))

    return fail


def set_attribute(path: Path, name: str | bytes, value: bytes) -> None:
    """Set an extended attribute; skip the test where there are none."""
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        pytest.skip(f"this file system has no such extended attributes: {error}")


def stored(bench: Bench, report: BackupReport) -> dict[str, bytes]:
    """Path → content of the files in the snapshot."""
    repository = bench.open()
    entries = content(repository, repository.load(repository.resolve(report.snapshot)))
    return {raw(record, "path").decode(): data for record, data in entries if record["type"] == "f"}
