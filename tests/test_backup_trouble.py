"""A source that does not hold still, cannot be read, or is not what was meant: warned of by path, all else stored."""

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
from drkit.errors import UsageError
from drkit.repo import Repository
from drkit.store import LocalStore
from tests.support.backups import MARKER, SMALL_CHUNKS, Bench, check_against_source, content, many_segments
from tests.support.mini_repo import raw

Hook = Callable[[], object]


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


def stored(bench: Bench, report: BackupReport) -> dict[str, bytes]:
    """Path → content of the files in the snapshot."""
    repository = bench.open()
    entries = content(repository, repository.load(repository.resolve(report.snapshot)))
    return {raw(record, "path").decode(): data for record, data in entries if record["type"] == "f"}


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


# What a source must be


def test_a_missing_source(bench: Bench) -> None:
    with pytest.raises(UsageError, match="nowhere does not exist"):
        bench.take(source=bench.source + b"/nowhere")


def test_an_empty_source(bench: Bench) -> None:
    (bench.root / "empty").mkdir()
    with pytest.raises(UsageError, match="empty is empty"):
        bench.take(source=bench.source + b"/empty")


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo])
def test_a_source_that_is_no_directory(bench: Bench, make: Callable[[Path], object]) -> None:
    make(bench.root / "thing")
    with pytest.raises(UsageError, match="thing is not a directory"):
        bench.take(source=bench.source + b"/thing")


def test_a_source_that_cannot_be_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    at_call(monkeypatch, "scandir", bench.root, raising(errno.EACCES), first=False)
    with pytest.raises(UsageError, match=r"cannot read the source .*Permission denied"):
        bench.take()
    assert bench.open().snapshots() == []


def test_a_source_that_is_unmounted_at_the_wrong_moment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it was looked at first: it must not become a snapshot of nothing."""
    calls: list[int] = []

    def second() -> None:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    at_call(monkeypatch, "scandir", bench.root, second, first=False)
    with pytest.raises(UsageError, match="Input/output error"):
        bench.take()
    assert bench.open().snapshots() == []


# The repository in the source


@pytest.fixture
def nested(tmp_path: Path) -> Bench:
    """The repository lies in the source."""
    (tmp_path / "source/deep").mkdir(parents=True)
    bench = Bench(tmp_path, LocalStore(os.fsencode(tmp_path / "source/deep/repo")))
    bench.write("f")
    return bench


def test_a_repository_in_the_source_is_refused_unless_left_out(nested: Bench) -> None:
    with pytest.raises(UsageError, match=r"inside the source, at deep/repo") as caught:
        nested.take()
    assert "--exclude '/deep/repo'" in caught.value.hint
    for excludes in (("/deep/repo",), ("repo",), ("deep",), ("/deep/**",)):
        assert set(stored(nested, nested.take(excludes=excludes))) == {"f"}
    with pytest.raises(UsageError, match="inside the source"):
        nested.take(excludes=("/deep/repo/packs",))


def test_a_repository_in_the_source_is_refused_by_its_other_names(
    nested: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A symbolic link is followed; behind a bind mount it is known by its inode, when the walk comes to it."""
    link = nested.home / "link"
    link.symlink_to(nested.root / "deep/repo")
    nested.store = LocalStore(os.fsencode(link))
    with pytest.raises(UsageError, match=r"inside the source, at deep/repo"):
        nested.take()
    monkeypatch.setattr(Repository, "location", lambda repository: os.fsencode(link))
    with pytest.raises(UsageError, match=r"inside the source, at deep/repo"):
        nested.take()
    assert nested.open().snapshots() == []
    assert list(nested.store.list("locks/")) == []
    assert nested.take(excludes=("repo",)).files == 1


def test_a_source_in_the_repository_is_refused(nested: Bench) -> None:
    nested.take(excludes=("repo",))
    repository = nested.root / "deep/repo"
    for source in (repository, repository / "packs", repository / "../repo/packs/"):
        with pytest.raises(UsageError, match="lies inside the repository"):
            nested.take(source=os.fsencode(source), excludes=("*",))


def test_a_neighbour_with_a_longer_name_is_no_repository(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LocalStore(os.fsencode(tmp_path / "source-repo")))
    bench.write("f")
    assert bench.take().files == 1
    (tmp_path / "source-repo-2").mkdir()
    (tmp_path / "source-repo-2/f").touch()
    assert bench.take(source=os.fsencode(tmp_path / "source-repo-2")).files == 1


def test_drkits_own_staging_is_left_out_and_nothing_like_it(bench: Bench) -> None:
    bench.write("a/.drkit-0123456789abcdef/half", b"restored")
    bench.write(".drkit-0123456789ABCDEF/f", b"x")
    bench.write(".drkit-0123456789abcdef0/f", b"x")
    bench.write(".drkit-notes/f", b"x")
    bench.write("a/.drkit-0123456789abcdee", b"a file is no staging directory")
    found = set(stored(bench, bench.take()))
    assert found - {"a/before", "a/z", "m", "z"} == {
        ".drkit-0123456789ABCDEF/f",
        ".drkit-0123456789abcdef0/f",
        ".drkit-notes/f",
        "a/.drkit-0123456789abcdee",
    }


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

    def read(fd: int, count: int, original: Callable[[int, int], bytes] = os.read) -> bytes:
        if os.fstat(fd).st_ino == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(fd, count)

    def cut(file: Any, settings: Any) -> Iterator[bytes]:
        yield file.read(100)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", read)
        patch.setattr("drkit.format.chunker.cut", cut)
        check_only(bench, bench.take(), "m", "Input/output error", None)
    assert stored(bench, bench.take())["m"] == b"m" * size


def test_a_directory_that_cannot_be_listed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.take()
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
    os.setxattr(full, "user.note", b"x")
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
    os.setxattr(bench.root / "m", b"user.\xff", b"x")
    os.setxattr(bench.root / "m", "user.\x07", b"kept")
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
            try:
                os.setxattr(path, f"user.{number}", bytes(65_000))
            except OSError:
                pytest.skip("this file system has no large attributes")
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


# Outside of the source


def test_a_damaged_older_snapshot_is_only_a_warning(bench: Bench) -> None:
    bench.take()
    (ref,) = bench.open().snapshots()
    bench.store.put(ref.name, b"{}", overwrite=True)
    report = bench.take()
    assert len(report.warnings) == 1
    assert ref.name in report.warnings[0]
    assert (report.parent, report.files) == (None, 4)
    assert bench.take(tags=("x",)).parent == report.snapshot


@pytest.mark.parametrize("pieces", [3, 100])
def test_a_cache_that_cannot_be_written_is_only_a_warning(bench: Bench, pieces: int) -> None:
    """Also a large one, of which the first part is written while the source is still read."""
    for number in range(pieces):
        bench.write(f"many/{number}")
    Path(os.fsdecode(bench.cache)).write_bytes(b"a file where the directory should be")
    with many_segments():
        report = bench.take()
    (warning,) = report.warnings
    assert "stat cache could not be written" in warning
    assert report.files == pieces + 4


def test_a_newer_repository_is_not_written_to(bench: Bench) -> None:
    import msgspec

    from drkit.errors import FormatError
    from drkit.format import settings

    config = bench.open().config
    newer = msgspec.structs.replace(config, format=msgspec.structs.replace(config.format, minor=1))
    for name in ("drkit.json", "drkit-copy.json"):
        bench.store.put(name, settings.encode(newer), overwrite=True)
    before = {info.name for info in bench.store.list("")}
    with pytest.raises(FormatError, match=r"1\.1"):
        bench.take()
    assert {info.name for info in bench.store.list("")} == before
    assert isinstance(bench.open(), Repository)


@pytest.mark.parametrize("pattern", ["", "/", "[z-a]"])
def test_a_pattern_that_means_nothing_is_refused(bench: Bench, pattern: str) -> None:
    with pytest.raises(UsageError):
        bench.take(excludes=(pattern,))
    assert bench.open().snapshots() == []
