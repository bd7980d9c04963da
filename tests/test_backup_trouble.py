"""A source that does not hold still or cannot be read: warned of by path, all else stored."""

from __future__ import annotations

import errno
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drkit.backup import BackupReport
from tests.support.ahead import ahead_or_alone  # noqa: F401 - every test here runs both ways
from tests.support.backups import MARKER, SMALL_CHUNKS, Bench, check_against_source, content
from tests.support.fickle import Hook, at_call, raising, set_attribute, stored


@pytest.fixture(autouse=True)
def _never_waits() -> Iterator[None]:
    """A FIFO that blocks must fail the test, not hang it."""

    def stop(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, chunker=SMALL_CHUNKS)
    for name in ("a/before", "a/z", "m", "z"):
        bench.write(name, name.encode())
    return bench


def check_only(bench: Bench, report: BackupReport, path: str, what: str, kept: bytes | None) -> None:
    """There is one warning, about `path`; its content is `kept`, or it is missing; everything else is there."""
    assert report.warnings == (f"{path}: {what}",)
    others = {"a/before": b"a/before", "a/z": b"a/z", "m": b"m", "z": b"z"}
    others.pop(path, None)
    found = stored(bench, report)
    assert found.pop(path, None) == kept
    assert found.items() >= others.items()
    repository = bench.open()
    assert repository.load(repository.resolve("latest")).skipped == (kept is None)


# What cannot be read


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_file_that_cannot_be_opened(bench: Bench, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    with monkeypatch.context() as patch:
        at_call(patch, "open", bench.root / "m", raising(code), first=False)
        check_only(bench, bench.take(), "m", os.strerror(code), None)
    report = bench.take()
    assert report.warnings == ()
    assert stored(bench, report)["m"] == b"m"


@pytest.mark.parametrize("size", [10, 5000])
def test_a_file_that_cannot_be_read(bench: Bench, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A bad sector. Large files are read through file objects."""
    bench.write("m", b"m" * size)
    bad = os.stat(bench.root / "m").st_ino

    def failing(original: Callable[[int, Any], Any]) -> Callable[[int, Any], Any]:
        def read(fd: int, room: Any) -> Any:
            if os.fstat(fd).st_ino == bad:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return original(fd, room)

        return read

    def cut(file: Any, settings: Any) -> Iterator[bytes]:
        yield file.read(100)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        for name in ("read", "readv"):
            patch.setattr(os, name, failing(getattr(os, name)))
        patch.setattr("drkit.format.chunker.cut", cut)
        check_only(bench, bench.take(), "m", "Input/output error", None)
    assert stored(bench, bench.take())["m"] == b"m" * size


def test_a_directory_that_cannot_be_listed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.take()
    bench.write("a/new", b"looked for")
    with monkeypatch.context() as patch:
        at_call(patch, "scandir", bench.root / "a", raising(errno.EACCES), first=False)
        report = bench.take()
    assert report.warnings == ("a: Permission denied",)
    assert set(stored(bench, report)) == {"m", "z"}
    assert bench.paths(report) == [b"a", b"m", b"z"]
    check_against_source(bench, bench.take())


@pytest.mark.parametrize("call", ["listxattr", "getxattr"])
@pytest.mark.parametrize("path", ["a", "m"])
def test_attributes_that_cannot_be_read_cost_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, call: str, path: str
) -> None:
    full = bench.root / path
    set_attribute(full, "user.note", b"x")
    bad = os.stat(full).st_ino
    original = getattr(os, call)

    def fail(target: Any, *args: Any, **kwargs: Any) -> Any:
        if os.stat(target).st_ino == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(target, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        report = bench.take()
    assert report.warnings == (f"{path}: extended attributes were left out: all of them: Input/output error",)
    assert set(stored(bench, report)) == {"a/before", "a/z", "m", "z"}
    os.chmod(full, 0o700)
    check_against_source(bench, bench.take())


def test_attributes_that_json_cannot_hold_are_named(bench: Bench) -> None:
    set_attribute(bench.root / "m", b"user.\xff", b"x")
    set_attribute(bench.root / "m", "user.\x07", b"kept")
    report = bench.take()
    assert report.warnings == (r"m: extended attributes were left out: user.\xff, which is not UTF-8",)
    repository = bench.open()
    entries = content(repository, repository.load(repository.resolve("latest")))
    assert entries[3][0]["xattrs"] == {"user.\x07": "a2VwdA=="}


@pytest.fixture
def memory_disk() -> Iterator[Path]:
    """A directory on a file system without limits for times and attributes."""
    if not os.path.isdir("/dev/shm"):
        pytest.skip("there is no file system in memory")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as home:
        yield Path(home)


def test_attributes_for_which_there_is_no_room_are_named(memory_disk: Path) -> None:
    bench = Bench(memory_disk)
    for name, count in (("a", 8), ("b", 9), ("c", 8)):
        path = bench.write(name)
        for number in range(count):
            set_attribute(path, f"user.{number}", bytes(65_000))
    report = bench.take()
    assert report.warnings == ("b: extended attributes were left out: user.8, for which there is no room",)
    assert set(stored(bench, report)) == {"a", "b", "c"}


@pytest.mark.parametrize("time", [2**63, -(2**63) - 10**9, 2**80])
def test_times_out_of_this_world(memory_disk: Path, time: int) -> None:
    bench = Bench(memory_disk)
    path = bench.write("d/f")
    for each in (path, path.parent):
        os.utime(each, ns=(0, time))
        if os.stat(each).st_mtime_ns != time:
            pytest.skip("this file system has no such time")
    for _ in range(2):
        report = bench.take()
        assert report.warnings == ()
        repository = bench.open()
        times = {entry["mtime_ns"] for entry, _ in content(repository, repository.load(repository.resolve("latest")))}
        assert times == {max(-(2**63), min(time, 2**63 - 1))}
    assert (report.files_unchanged, report.packs) == (1, 0)


# What changes while it is looked at


def test_a_file_that_vanishes_before_it_is_opened(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.root / "m"
    at_call(monkeypatch, "open", path, path.unlink)
    check_only(bench, bench.take(), "m", "vanished while the backup ran", None)


def test_a_file_that_vanishes_after_it_was_listed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    at_call(monkeypatch, "scandir", bench.root / "a", (bench.root / "m").unlink)
    check_only(bench, bench.take(), "m", "No such file or directory", None)


def test_a_directory_that_vanishes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    at_call(monkeypatch, "scandir", bench.root / "a", lambda: os.rename(bench.root / "a", bench.home / "a"))
    report = bench.take()
    assert report.warnings == ("a: No such file or directory",)
    assert set(stored(bench, report)) == {"m", "z"}


def test_a_link_that_vanishes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.root / "link"
    path.symlink_to("m")
    at_call(monkeypatch, "readlink", path, path.unlink)
    check_only(bench, bench.take(), "link", "vanished while the backup ran", None)


def test_a_vanished_file_of_the_last_backup_is_not_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.take()
    path = bench.root / "m"
    path.write_bytes(b"changed")
    at_call(monkeypatch, "open", path, path.unlink)
    check_only(bench, bench.take(), "m", "vanished while the backup ran", None)


def replaced(path: Path, make: Callable[[Path], object]) -> Hook:
    def hook() -> None:
        path.unlink()
        make(path)

    return hook


@pytest.mark.parametrize("size", [1, 5000])
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (os.mkfifo, "it is no longer a regular file"),
        (lambda path: path.symlink_to("/etc/passwd"), os.strerror(errno.ELOOP)),
        (Path.mkdir, "(Is a directory|it is no longer a regular file)"),
    ],
)
def test_a_file_that_turns_into_something_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, size: int, make: Callable[[Path], object], what: str
) -> None:
    path = bench.write("m", bytes(size))
    at_call(monkeypatch, "open", path, replaced(path, make))
    (warning,) = bench.take().warnings
    assert re.fullmatch(f"m: {what}", warning)
    monkeypatch.undo()
    check_against_source(bench, bench.take())


@pytest.mark.parametrize("before", [0, 10, 2000, 5000])
@pytest.mark.parametrize("after", [0, 3, 2047, 2048, 9000])
def test_a_file_that_has_another_size_when_it_is_opened(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    path = bench.write("m", b"b" * before)
    at_call(monkeypatch, "open", path, lambda: path.write_bytes(b"a" * after))
    report = bench.take()
    assert report.warnings == ()
    assert stored(bench, report)["m"] == b"a" * after
    monkeypatch.undo()
    check_against_source(bench, bench.take())


@pytest.mark.parametrize("size", [10, 5000])
def test_a_file_that_changes_once_while_it_is_read_is_read_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Changed after its bytes were read and before the last look at it: its size and its mtime stay."""
    path = bench.write("m", b"b" * size)
    times: list[int] = []

    def change() -> None:
        if not times:
            times.append(1)
            status = path.stat()
            path.write_bytes(b"a" * size)
            os.utime(path, ns=(0, status.st_mtime_ns))

    on_listing(monkeypatch, path, change)
    report = bench.take()
    assert times
    assert report.warnings == ()
    assert stored(bench, report)["m"] == b"a" * size


@pytest.mark.parametrize("size", [10, 5000])
def test_a_file_that_never_holds_still_is_stored_with_a_warning(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = bench.write("m", b"0" * size)

    def append() -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with monkeypatch.context() as patch:
        on_listing(patch, path, append)
        report = bench.take()
    assert report.warnings == ("m: changed while it was read",)
    kept = stored(bench, report)["m"]
    assert kept.startswith(b"0" * size)
    assert path.read_bytes().startswith(kept)
    check_against_source(bench, bench.take())


def on_listing(monkeypatch: pytest.MonkeyPatch, path: Path, hook: Hook) -> None:
    """Run `hook` each time that the attributes of an open `path` are listed, after its content was read."""
    inode = path.stat().st_ino
    original = os.listxattr

    def call(target: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(target, int) and os.fstat(target).st_ino == inode:
            hook()
        return original(target, *args, **kwargs)

    monkeypatch.setattr(os, "listxattr", call)


def test_a_plugin_whose_manifest_vanishes_is_still_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.write(f"plug/{MARKER}", b'{"name":"x"}')
    at_call(monkeypatch, "open", path, path.unlink)
    report = bench.take()
    assert report.warnings == (f"plug/{MARKER}: vanished while the backup ran",)
    assert [(row.name, row.files) for row in bench.image(report).plugins] == [("plug", 0)]
