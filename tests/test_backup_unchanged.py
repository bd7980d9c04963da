"""What a backup costs when little or nothing has changed, and what it must not take for unchanged."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from drkit.backup import glance
from drkit.backup.statcache import read_cache
from drkit.model import Kind
from drkit.repo.index import read_pack_table
from drkit.repo.names import pack_id_of
from drkit.source.stats import NEVER
from drkit.source.walk import Seen, Walker
from drkit.store import LocalStore
from drkit.store.base import Store
from tests.support.backups import MARKER, Bench, check_against_source, many_segments, next_tick


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """200 plugins of four files."""
    bench = Bench(tmp_path)
    for number in range(200):
        bench.write(f"{number:03}/{MARKER}", b'{"name":"p%d"}' % number)
        for name in ("a", "b", "c"):
            bench.write(f"{number:03}/{name}", f"{number} {name}".encode() * (number + 1))
    next_tick()
    return bench


def objects(store: Store) -> dict[str, int]:
    return {info.name: info.size for info in store.list("")}


def kinds(store: Store, name: str) -> Counter[Kind]:
    """How many blobs of each kind a pack has."""
    pack_id = pack_id_of(name)
    assert pack_id is not None
    table = read_pack_table(store, pack_id, store.stat(name).size)
    return Counter(Kind(kind) for kind in table.kinds)


@pytest.mark.parametrize("cache", [True, False])
def test_an_unchanged_source_costs_one_small_object(bench: Bench, cache: bool) -> None:
    first = bench.take(cache=cache)
    before = objects(bench.store)
    second = bench.take(cache=cache)
    added = objects(bench.store).items() - before.items()
    ((name, size),) = added
    assert name.startswith("snapshots/")
    assert size == second.bytes_added < 8000
    assert (second.files, second.files_unchanged, second.packs) == (800, 800, 0)
    assert second.parent == first.snapshot
    assert bench.image(second) == bench.image(first)


@pytest.mark.parametrize("cache", [True, False])
def test_one_changed_file_costs_its_blob_its_segments_and_their_lists(bench: Bench, cache: bool) -> None:
    with many_segments():
        first = bench.take(cache=cache)
        before = objects(bench.store)
        bench.write("100/b", b"changed")
        second = bench.take(cache=cache)
    assert (second.files_unchanged, second.packs) == (799, 1)
    added = {name: size for name, size in objects(bench.store).items() if name not in before}
    assert sum(added.values()) == second.bytes_added < 20_000
    assert sorted(name.partition("/")[0] for name in added) == ["index", "packs", "snapshots"]
    (pack,) = (name for name in added if name.startswith("packs/"))
    found = kinds(bench.store, pack)
    old, new = bench.image(first), bench.image(second)
    assert found[Kind.DATA] == 1
    assert found[Kind.SEGMENT] == 2  # of the manifest and of the plugin table
    assert found[Kind.SEGMENT] + found[Kind.LIST] == len({*new.segments, *new.lists} - {*old.segments, *old.lists})
    check_against_source(bench, second)


def test_an_added_directory_moves_no_other_segment(bench: Bench) -> None:
    first = bench.image(bench.take())
    bench.write("100a/new")
    second = bench.image(bench.take())
    assert len(set(second.segments) - set(first.segments)) <= 2
    assert len(set(first.segments) - set(second.segments)) <= 2


def test_a_touched_tree_is_read_but_its_content_is_not_stored_again(bench: Bench) -> None:
    bench.take()
    before = objects(bench.store)
    for path in bench.root.rglob("*"):
        os.utime(path, ns=(0, 10**18))
    report = bench.take()
    assert (report.files_unchanged, report.packs) == (0, 1)
    (pack,) = (name for name in objects(bench.store) if name.startswith("packs/") and name not in before)
    assert Kind.DATA not in kinds(bench.store, pack)
    check_against_source(bench, report)


def test_a_mode_that_changes_and_changes_back_is_unchanged(bench: Bench) -> None:
    first = bench.take()
    for path in list(bench.root.rglob("a"))[:50]:
        path.chmod(0o600)
        path.chmod(0o644)
    second = bench.take()
    assert (second.files_unchanged, second.packs) == (800, 0)
    assert bench.image(second) == bench.image(first)
    assert bench.take().files_unchanged == 800


def test_snapshots_of_several_hosts_and_sources_have_their_own_parents(bench: Bench) -> None:
    one = bench.take(host="one")
    two = bench.take(host="two")
    part = bench.take(source=bench.source + b"/100")
    assert (one.parent, two.parent, part.parent) == (None, None, None)
    assert (two.packs, part.files) == (0, 4)
    assert bench.take(host="one").parent == one.snapshot
    assert bench.take(host="two").parent == two.snapshot


def test_a_rejected_snapshot_is_nobodys_parent(bench: Bench) -> None:
    first = bench.take()
    bench.write("100/b", b"bad")
    rejected = bench.take(tags=("rejected",))
    third = bench.take()
    assert (rejected.parent, third.parent) == (first.snapshot, first.snapshot)
    assert bench.image(third) == bench.image(rejected)
    check_against_source(bench, third)


def test_names_sort_by_time_even_if_the_clock_goes_back(bench: Bench) -> None:
    ids = [bench.take().snapshot]
    for back in (timedelta(0), timedelta(days=400), timedelta(days=1)):
        bench.ahead = -back
        ids.append(bench.take().snapshot)
    repository = bench.open()
    assert [ref.id for ref in repository.snapshots()] == ids
    times = [repository.load(ref).time for ref in repository.snapshots()]
    assert times == sorted(set(times))
    assert datetime.fromisoformat(repository.load(repository.snapshots()[2]).clock) < datetime.now(UTC)


# Files that were written so shortly before the scan that they can be written again with the same stat


class Frozen:
    """Lets the walk see old stats of files, as if the clock of the file system had not moved on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *paths: bytes) -> None:
        stats: dict[bytes, os.stat_result] = {}
        walk, lstat = Walker.walk, os.lstat

        def frozen(
            walker: Walker, untouched: Callable[[bytes], bool] | None = None, after: None = None
        ) -> Iterator[Seen]:
            for seen in walk(walker, untouched, after):
                if seen.path in paths:
                    assert isinstance(seen.stat, os.stat_result)
                    yield Seen(seen.path, stats.setdefault(seen.path, seen.stat), seen.kind)
                else:
                    yield seen

        def glanced(full: bytes) -> os.stat_result:
            return stats.get(os.path.basename(full)) or lstat(full)

        monkeypatch.setattr(Walker, "walk", frozen)
        monkeypatch.setattr(glance, "os", SimpleNamespace(lstat=glanced))


@pytest.fixture
def small(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.write("f", b"before")
    bench.write("g", b"other")
    return bench


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize(("seconds", "noticed"), [(0, True), (1, True), (1.9, True), (2.5, False), (60, False)])
def test_a_file_written_within_the_slack_is_read_again(
    small: Bench, monkeypatch: pytest.MonkeyPatch, seconds: float, noticed: bool, restored: bool
) -> None:
    """A write with the same size, in the same tick of the file system's clock. Files that are older are trusted:
    that shows that the frozen stat is all that the backup looks at."""
    path = small.root / "f"
    if restored:  # the mtime is old, and only the ctime is young
        os.utime(path, ns=(0, 10**18))
    Frozen(monkeypatch, b"f")
    changed = datetime.fromtimestamp(os.stat(path).st_ctime, UTC)
    monkeypatch.setattr(Bench, "now", lambda bench: changed + timedelta(seconds=seconds))
    small.take()
    path.write_bytes(b"after!")
    report = small.take()
    assert report.files_unchanged == (1 if noticed else 2)
    assert report.packs == (1 if noticed else 0)


def cached(bench: Bench) -> dict[bytes, tuple[int, int, int, int]]:
    previous = read_cache(os.fsencode(bench.cache_file()))
    assert previous is not None
    return {
        path: stat for segment in previous.segments for path, stat in zip(segment.paths, segment.stats, strict=True)
    }


@pytest.mark.parametrize("days", [1, 10_000])
def test_a_time_in_the_future_is_never_trusted(small: Bench, days: int) -> None:
    later = (small.now() + timedelta(days=days)).timestamp()
    os.utime(small.root / "f", (later, later))
    for unchanged in (0, 2, 2):
        report = small.take()
        assert (report.files_unchanged, report.packs) == (unchanged, 0 if unchanged else 1)
        stats = cached(small)
        assert stats[b"f"] == NEVER
        assert stats[b"g"] != NEVER


def test_a_racy_file_is_trusted_as_soon_as_it_is_old_enough(small: Bench) -> None:
    small.ahead = timedelta(0)
    assert small.take().files_unchanged == 0
    assert set(cached(small).values()) == {NEVER}
    small.ahead = timedelta(minutes=1)
    report = small.take()
    assert (report.files_unchanged, report.packs) == (2, 0)
    assert NEVER not in cached(small).values()


def test_a_restored_mtime_hides_nothing(small: Bench) -> None:
    status = os.stat(small.root / "f")
    small.take()
    small.write("f", b"after!")
    os.utime(small.root / "f", ns=(status.st_atime_ns, status.st_mtime_ns))
    report = small.take()
    assert report.files_unchanged == 1
    check_against_source(small, report)


# Dry runs


def everything(*tops: Path) -> dict[Path, tuple[float, bytes | None]]:
    return {
        path: (path.stat().st_mtime, path.read_bytes() if path.is_file() else None)
        for top in tops
        for path in (top, *top.rglob("*"))
    }


def test_a_dry_run_tells_what_a_backup_would_do_and_writes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LocalStore(os.fsencode(tmp_path / "repo")))
    (tmp_path / "cache").mkdir()
    for number in range(50):
        bench.write(f"d/{number}", os.urandom(1000))
    for turn in range(2):
        before = everything(tmp_path)
        dry = bench.take(dry_run=True)
        assert everything(tmp_path) == before
        real = bench.take()
        for key in ("files", "dirs", "plugins", "bytes_source", "files_unchanged", "packs", "tree_sha256", "parent"):
            assert getattr(dry, key) == getattr(real, key), key
        assert (dry.snapshot, dry.dry_run, real.dry_run) == ("", True, False)
        assert dry.bytes_added == pytest.approx(real.bytes_added, rel=0.05)
        assert dry.bytes_added > 50_000 or turn
        bench.write("d/7", os.urandom(100_000))
