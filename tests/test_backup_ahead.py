"""A second process that walks and reads ahead: the same snapshot as without it, whatever becomes of it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drkit.backup import BackupReport
from drkit.errors import UsageError
from drkit.source import ahead, ready
from drkit.source.stats import Status
from tests.support.ahead import start_at_once
from tests.support.backups import MARKER, Bench, check_against_source, check_whole


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A source with a bit of everything: plugins in plugins, links, empty and unreadable places, odd names."""
    bench = Bench(tmp_path)
    for plugin in ("a/one", "a/one/inner", "a/two", "z"):
        bench.write(f"{plugin}/{MARKER}", b'{"name":"%b"}' % plugin.encode())
        bench.write(f"{plugin}/text", b"text of " + plugin.encode())
    for number in range(20):
        bench.write(f"many/{number}/file", b"%d" % number)
    bench.write(b"many/\xff", b"not UTF-8")
    bench.write("many.txt", b"sorts behind what is in many")
    bench.write("empty", b"")
    (bench.root / "hollow").mkdir()
    (bench.root / "link").symlink_to("empty")
    os.link(bench.root / "many.txt", bench.root / "many/again")
    os.mkfifo(bench.root / "pipe")
    bench.write("large", os.urandom(3 << 20))
    sqlite3.connect(bench.root / "rest.db").executescript("CREATE TABLE t(x)").close()
    return bench


def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that gains what each second process is told."""
    found: list[Any] = []
    start = ahead.ReadProcess.__init__

    def counted(process: ahead.ReadProcess, task: ahead.Task) -> None:
        found.append(task)
        start(process, task)

    monkeypatch.setattr(ahead.ReadProcess, "__init__", counted)
    return found


def same_as_alone(bench: Bench, report: BackupReport, monkeypatch: pytest.MonkeyPatch) -> None:
    check_against_source(bench, report)
    check_whole(bench, report)
    monkeypatch.setattr(ahead, "MANY", 1 << 60)
    assert bench.image(report) == bench.fresh()


@pytest.mark.parametrize("many", [0, 1, 2, 7, 20, 25, 29])
def test_from_anywhere_on_it_is_the_same_snapshot(bench: Bench, monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    tasks = started(monkeypatch)
    monkeypatch.setattr(ahead, "MANY", many)
    report = bench.take()
    assert len(tasks) == 1
    same_as_alone(bench, report, monkeypatch)


def test_a_small_tree_and_one_that_is_known_start_none(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = started(monkeypatch)
    bench.take()
    monkeypatch.setattr(ahead, "MANY", 0)
    bench.write("new", b"new")
    bench.take()
    assert tasks == []
    bench.take(cache=False)
    assert len(tasks) == 1


def test_what_it_read_is_trusted_next_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    start_at_once(monkeypatch)
    first = bench.take()
    second = bench.take()
    assert second.files_unchanged == first.files == second.files
    assert second.bytes_added < 4000


def test_where_there_is_none_to_be_had(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "MANY", 5)
    monkeypatch.setattr(sys, "executable", str(bench.home / "nothing"))
    same_as_alone(bench, bench.take(), monkeypatch)


def test_one_that_ends_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "MANY", 5)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    same_as_alone(bench, bench.take(), monkeypatch)


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("sent", [0, 1, 2, 3, 4, 5, 6, 9, 15, 30, 60])
def test_killed_in_the_middle(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, sent: int, batch: int, *, torn: bool
) -> None:
    def kill_later() -> None:
        left = sent
        write = os.write

        def counted(fd: int, data: memoryview) -> int:
            nonlocal left
            if left == 0:
                if torn:
                    write(fd, data[: len(data) // 2])
                os._exit(9)
            left -= 1
            return write(fd, data)

        monkeypatch.setattr(os, "write", counted)

    monkeypatch.setattr(ready, "BATCH", batch)
    start_at_once(monkeypatch, kill_later)
    same_as_alone(bench, bench.take(), monkeypatch)


@pytest.mark.parametrize("sent", range(6))
def test_a_problem_is_told_once_by_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: int) -> None:
    bench = Bench(tmp_path)
    for name in ("a", "b", "c"):
        bench.write(f"{name}/f")
    scandir = os.scandir

    def refused(directory: bytes) -> Any:
        if directory.endswith(b"/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(directory)

    def kill_later() -> None:
        left = sent
        write = os.write

        def counted(fd: int, data: memoryview) -> int:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return write(fd, data)

        monkeypatch.setattr(os, "write", counted)

    monkeypatch.setattr(os, "scandir", refused)
    monkeypatch.setattr(ready, "BATCH", 1)
    start_at_once(monkeypatch, kill_later)
    report = bench.take()
    assert report.warnings == ("b: Permission denied",)
    assert bench.paths(report) == [b"a", b"a/f", b"b", b"c", b"c/f"]


def test_a_time_that_no_message_can_hold(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_late(*fields: int) -> Status:
        status = Status(*fields)
        status.st_mtime_ns = 1 << 70
        return status

    start_at_once(monkeypatch, lambda: monkeypatch.setattr(ready, "Status", too_late))
    same_as_alone(bench, bench.take(), monkeypatch)


def test_a_backup_that_fails_leaves_no_process(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def kept(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        processes.append(popen(*args, **kwargs))
        return processes[-1]

    monkeypatch.setattr(ahead, "MANY", 0)
    monkeypatch.setattr(subprocess, "Popen", kept)
    monkeypatch.setattr("drkit.backup.recorder.Recorder.add_made", lambda *_: (_ for _ in ()).throw(UsageError("no")))
    with pytest.raises(UsageError, match="no"):
        bench.take()
    (process,) = processes
    assert process.returncode is not None
