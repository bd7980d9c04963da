"""What a source must be, what belongs to it, and what else a backup meets: a cache, snapshots, settings."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from drkit.errors import UsageError
from drkit.repo import Repository
from drkit.store import LocalStore
from tests.support.ahead import ahead_or_alone  # noqa: F401 - every test here runs both ways
from tests.support.backups import SMALL_CHUNKS, Bench, many_segments
from tests.support.fickle import at_call, raising, stored


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, chunker=SMALL_CHUNKS)
    for name in ("a/before", "a/z", "m", "z"):
        bench.write(name, name.encode())
    return bench


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
