"""The stat cache: disposable, believed whole or not at all, and never in the way."""

from __future__ import annotations

import os
import random
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drkit.backup.cached import Cached
from drkit.backup.statcache import CacheWriter, Summary, cache_path, read_cache
from drkit.model import PluginRow
from drkit.source.stats import pack_stats
from tests.support.backups import SMALL_CHUNKS, Bench, check_against_source, many_segments
from tests.support.edits import Tree, start
from tests.support.faults import FaultyStore


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, chunker=SMALL_CHUNKS)
    start(Tree(bench.root))
    return bench


def segments(count: int) -> list[Cached]:
    return [
        Cached(
            bytes([number]) * 32,
            b"%d\0%d/\xff" % (number, number),
            pack_stats([(number, -number, 2**62, 2**64 - 1), (1, 2, 3, 4)]),
            b"rows %d" % number,
            bytes([number]) * 48,
            bytes([number]) * 32 * (number % 3),
            final=number == count - 1,
            lines=b"lines %d\n" % number * 3,
        )
        for number in range(count)
    ]


def plain(segment: Cached) -> tuple[object, ...]:
    return tuple(getattr(segment, name) for name in ("id", "paths", "stats", "rows", "keys", "lists", "final", "lines"))


def write(path: bytes, what: list[Cached], summary: Summary) -> None:
    with ThreadPoolExecutor(1) as pool, CacheWriter(path, pool) as writer:
        for segment in what:
            writer.add(segment)
        writer.commit(summary)


SUMMARY = Summary("5" * 64, [PluginRow("a", "", "name", "1", 2, 3, "4" * 64)], {b"p" * 32: 7})


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_what_is_written_is_read(tmp_path: Path, count: int) -> None:
    path = os.fsencode(tmp_path / "sub" / "cache")
    write(path, segments(count), SUMMARY)
    previous = read_cache(path)
    assert previous is not None
    assert list(map(plain, previous.segments)) == list(map(plain, segments(count)))
    assert (previous.summary, previous.plugins) == (SUMMARY, {b"a": SUMMARY.plugins[0]})
    assert os.listdir(tmp_path / "sub") == ["cache"]


def test_segments_that_come_back_are_written_again(tmp_path: Path) -> None:
    """Whole blocks are copied as they are; blocks with a change, and new stats, are packed anew."""
    old, new = os.fsencode(tmp_path / "old"), os.fsencode(tmp_path / "new")
    write(old, segments(200), SUMMARY)
    previous = read_cache(old)
    assert previous is not None
    stats = [(9, 9, 9, 9), (8, 8, 8, 8)]
    expected = []
    with ThreadPoolExecutor(2) as pool, CacheWriter(new, pool) as writer:
        for number, segment in enumerate(previous.segments):
            if number == 70:
                continue
            writer.add(segment, stats if number == 150 else None)
            expected.append(segment)
        writer.commit(SUMMARY)
    found = read_cache(new)
    assert found is not None
    assert list(map(plain, found.segments)) == list(map(plain, expected))
    assert expected[149].stats == stats


def test_a_cache_cut_anywhere_is_none(bench: Bench) -> None:
    bench.take()
    file = bench.cache_file()
    data = file.read_bytes()
    for length in {*range(0, len(data), 37), *range(40), *range(len(data) - 40, len(data))}:
        file.write_bytes(data[:length])
        assert read_cache(os.fsencode(file)) is None
    file.write_bytes(data + b"\0")
    assert read_cache(os.fsencode(file)) is None


def test_a_cache_with_a_wrong_bit_is_none(bench: Bench) -> None:
    bench.take()
    file = bench.cache_file()
    data = file.read_bytes()
    chance = random.Random(1)
    for at in {*range(0, len(data), 7), *range(40), *range(len(data) - 40, len(data))}:
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :])
        assert read_cache(os.fsencode(file)) is None


@pytest.mark.parametrize("odd", ["missing", "empty", "text", "directory", "link", "zeros", "older"])
def test_what_is_no_cache_is_replaced_by_one(bench: Bench, odd: str) -> None:
    bench.take()
    file = bench.cache_file()
    data = file.read_bytes()
    file.unlink()
    if odd in ("directory", "link"):
        os.mkdir(file) if odd == "directory" else os.symlink("/dev/null", file)
    elif odd != "missing":
        file.write_bytes({"empty": b"", "text": b"what?\n", "zeros": bytes(len(data)), "older": b"0" + data[1:]}[odd])
    report = bench.take()
    check_against_source(bench, report)
    assert report.packs == 0
    if odd == "directory":
        assert "stat cache could not be written" in report.warnings[0]
    else:
        assert report.warnings == ()
        assert read_cache(os.fsencode(bench.cache_file())) is not None


def test_caches_of_other_repositories_and_sources_are_other_files() -> None:
    names = {cache_path(b"/c", repository * 32, source) for repository in "12" for source in (b"/a", b"/\xff")}
    assert len(names) == 4
    assert all(name.startswith(b"/c/") for name in names)


def test_nobody_else_can_look_into_it(bench: Bench) -> None:
    """It tells the names of all files, also of those in directories that others may not enter."""
    bench.take()
    assert stat.S_IMODE(bench.cache_file().parent.stat().st_mode) == 0o700


def test_a_backup_that_fails_leaves_the_old_cache(bench: Bench) -> None:
    bench.take()
    before = bench.cache_file().read_bytes()
    bench.write("new")
    with FaultyStore(bench.store) as store:
        bench.store = store
        store.fail("put", prefix="snapshots/", error=KeyboardInterrupt())
        with many_segments(), pytest.raises(KeyboardInterrupt):
            bench.take()
    assert bench.cache_file().read_bytes() == before


def test_what_killed_backups_left_is_removed_after_a_day(bench: Bench) -> None:
    bench.take()
    file = bench.cache_file()
    young, old = (file.with_name(f"{file.name}.tmp-{name}") for name in ("young", "old"))
    others = file.with_name("stat-other.tmp-old")
    for path in (young, old, others):
        path.write_bytes(b"half of a cache")
    day_ago = file.stat().st_mtime - 90_000
    for path in (old, others):
        os.utime(path, (day_ago, day_ago))
    bench.take()
    assert sorted(file.parent.iterdir()) == sorted([file, young, others])


def test_a_cache_that_is_replaced_while_it_is_read_stays_what_it_was(tmp_path: Path) -> None:
    """Another backup of the same source ends in the meantime."""
    path = os.fsencode(tmp_path / "cache")
    write(path, segments(200), SUMMARY)
    previous = read_cache(path)
    assert previous is not None
    found = iter(previous.segments)
    first = next(found)
    write(path, segments(3), Summary("6" * 64, [], {}))
    assert list(map(plain, [first, *found])) == list(map(plain, segments(200)))


def test_two_threads_may_ask_for_lines(tmp_path: Path) -> None:
    """The walk asks for a segment's lines while a worker packs its neighbour for the next cache."""
    path = os.fsencode(tmp_path / "cache")
    write(path, segments(60), SUMMARY)
    for _ in range(20):
        previous = read_cache(path)
        assert previous is not None
        found = list(previous.segments)
        with ThreadPoolExecutor(4) as pool:
            results = [pool.submit(lambda each: [segment.lines for segment in each], found) for _ in range(4)]
        assert all(result.result() == [segment.lines for segment in segments(60)] for result in results)
