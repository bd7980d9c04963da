"""Prune: what is given back, at which price, and that everything that is kept is as readable and as near as before."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drkit.progress import NullProgress
from drkit.repo import Repository
from drkit.repo.index import load_index, stored_packs
from drkit.repo.lock import condemned_packs
from drkit.repo.names import pack_id_of
from drkit.restore import restore_plugin, restore_tree
from drkit.retention import Limits
from drkit.store import LocalStore, MemoryStore
from drkit.store.base import ObjectInfo, Store
from tests.support.faults import FaultyStore
from tests.support.pruning import (
    KEEP_ALL,
    NOTHING_UNUSED,
    Ticks,
    check_all,
    frame_sizes,
    keep_last,
    rewritten_halves,
    run_prune,
    sizes,
    utc_now,
)
from tests.support.repos import Bench, contents, names, small_packs


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return rewritten_halves(tmp_path, monkeypatch)


def test_unused_bytes_go_and_everything_kept_is_whole(bench: Bench) -> None:
    before = {ref.id: contents(bench.repo, bench.repo.load(ref)) for ref in bench.repo.snapshots()}
    kept = keep_last(bench.store, 2)
    told = run_prune(bench.store, NOTHING_UNUSED, dry_run=True)
    done = run_prune(bench.store, NOTHING_UNUSED)
    assert done.packs_repacked > 0
    assert done.bytes_freed > 0
    assert (told.packs_deleted, told.packs_repacked, told.unused_before) == (
        done.packs_deleted,
        done.packs_repacked,
        done.unused_before,
    )
    assert done.bytes_after == sizes(bench.store)
    repo = check_all(bench.store)
    assert [ref.id for ref in repo.snapshots()] == kept
    for ref in repo.snapshots():
        assert contents(repo, repo.load(ref)) == before[ref.id]
    assert run_prune(bench.store, NOTHING_UNUSED).packs_deleted == 0, "a second one has nothing to do"


def test_a_dry_run_writes_nothing(bench: Bench) -> None:
    keep_last(bench.store, 1)
    with FaultyStore(bench.store) as store:
        assert run_prune(store, dry_run=True).packs_deleted > 0
    assert store.calls["put"] == store.calls["delete"] == 0


def test_the_price_is_shown_before_anything_is_written(bench: Bench) -> None:
    from drkit.retention import PruneOptions, prune

    keep_last(bench.store, 1)
    seen: list[tuple[int, int, int]] = []
    with FaultyStore(bench.store) as store:
        report = prune(
            Repository.open(store),
            PruneOptions(limits=NOTHING_UNUSED),
            progress=NullProgress(),
            now=utc_now,
            sleep=lambda _: None,
            told=lambda plan: seen.append((plan.bytes_to_read, plan.bytes_to_write, len(names(store, "packs/")))),
        )
    ((read, write, packs),) = seen
    assert packs == report.packs_before
    assert 0.8 * report.bytes_to_read <= read <= 2 * report.bytes_to_read + 4000
    assert 0.5 * report.bytes_to_write <= write <= 2 * report.bytes_to_write


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_it_reclaims_down_to_max_unused(bench: Bench, share: float) -> None:
    keep_last(bench.store, 1)
    run_prune(bench.store, Limits(share=share))
    left = run_prune(bench.store, KEEP_ALL, dry_run=True)
    assert left.unused_before <= share * sizes(bench.store, "") + 1
    check_all(bench.store)


def test_unlimited_deletes_only_what_is_dead(bench: Bench) -> None:
    kept = keep_last(bench.store, 1)
    report = run_prune(bench.store, KEEP_ALL)
    assert report.packs_deleted > 0
    assert len(kept) == 1
    check_all(bench.store)


@pytest.mark.parametrize("repack", [0, 1500, 4000])
def test_max_repack_bounds_what_is_written(bench: Bench, repack: int) -> None:
    keep_last(bench.store, 1)
    planned = run_prune(bench.store, Limits(0.0, repack=repack), dry_run=True)
    everything = run_prune(bench.store, NOTHING_UNUSED, dry_run=True)
    assert planned.bytes_to_write <= everything.bytes_to_write
    if repack == 0:
        assert planned.packs_repacked == 0
    run_prune(bench.store, Limits(0.0, repack=repack))
    check_all(bench.store)


def test_the_emptiest_packs_come_first(bench: Bench) -> None:
    keep_last(bench.store, 1)
    little = run_prune(bench.store, Limits(0.0, repack=3000), dry_run=True)
    more = run_prune(bench.store, Limits(0.0, repack=8000), dry_run=True)
    gain = [(one.bytes_freed + one.bytes_to_write) / max(one.bytes_to_write, 1) for one in (little, more)]
    assert gain[0] >= gain[1]


def test_small_packs_and_frames_are_joined(tmp_path: Path) -> None:
    bench = Bench(tmp_path, MemoryStore(clock=Ticks()))
    for number in range(12):
        bench.write(f"f{number}", random.Random(number).randbytes(3000))
        bench.back_up()
    assert len(stored_packs(bench.store)) == 12
    report = run_prune(bench.store)
    assert report.packs_written == len(stored_packs(bench.store)) == 1
    assert max(frame_sizes(bench.store)) >= 36_000, "all data is in one frame"
    assert len(names(bench.store, "index/")) == 1
    check_all(bench.store)
    assert run_prune(bench.store).packs_written == 0


def test_whole_frames_are_copied_as_they_are_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_packs(monkeypatch, pack=40_000, frame=5000)
    monkeypatch.setattr("drkit.repo.packer.FRAME_JOINED", 2500)
    monkeypatch.setattr("drkit.retention.repack.FRAME_JOINED", 2500)
    bench = Bench(tmp_path, MemoryStore(clock=Ticks()))
    chance = random.Random(1)
    for number in range(60):
        bench.write(f"{number:02}", chance.randbytes(1000))
    bench.back_up()
    before = [bytes(data) for data in packed_frames(bench.store)]
    for number in (20, 21, 40):
        (bench.source / f"{number:02}").unlink()
    bench.back_up()
    keep_last(bench.store, 1)
    run_prune(bench.store, NOTHING_UNUSED)
    after = packed_frames(bench.store)
    verbatim = [data for data in after if data in before]
    assert len(verbatim) >= 6
    assert [before.index(data) for data in verbatim] == sorted(before.index(data) for data in verbatim)
    check_all(bench.store)


def packed_frames(store: Store) -> list[bytes]:
    """The compressed frames of all packs, in the order in which the packs were written."""
    index = load_index(store).index
    found = []
    for info in sorted(store.list("packs/"), key=lambda info: info.modified):
        pack_id = pack_id_of(info.name)
        assert pack_id is not None
        data = store.get(info.name)
        for at, length, _ in index.packs[pack_id].table.offsets():
            found.append(data[at : at + length])
    return found


# Hints


class Counting(FaultyStore):
    """Counts requests, and the bytes that they bring; a snapshot is asked for once, as through a cache."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.bytes = 0
        self.listed: set[str] = set()
        self._kept: dict[str, bytes] = {}

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        self.listed.add(prefix)
        return super().list(prefix, after=after)

    def get(self, name: str) -> bytes:
        if name not in self._kept:
            data = super().get(name)
            self.bytes += len(data)
            if not name.startswith("snapshots/"):
                return data
            self._kept[name] = data
        return self._kept[name]

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        data = super().get_range(name, offset, length)
        self.bytes += len(data)
        return data


def cold_restore(store: Store, target: Path, plugin: str, spec: str = "latest") -> tuple[int, int, bool]:
    """Restore one plugin from a store that nothing is known of; return requests, bytes, and if the index was asked."""
    with Counting(store) as counting:
        repo = Repository.open(counting, both=False)
        ref = repo.resolve(spec)
        row = repo.plugin(repo.load(ref), plugin)
        report = restore_plugin(repo, ref, row, target=os.fsencode(target))
    assert report.tree_sha256 == row.tree_sha256
    return sum(counting.calls.values()), counting.bytes, "index/" in counting.listed


def test_one_plugin_comes_back_without_the_index_after_a_prune(bench: Bench, tmp_path: Path) -> None:
    kept = keep_last(bench.store, 3)
    before = [cold_restore(bench.store, tmp_path / f"before{n}", "plugins/p3", id_) for n, id_ in enumerate(kept)]
    run_prune(bench.store, NOTHING_UNUSED)
    keep_last(bench.store, 2)
    run_prune(bench.store, NOTHING_UNUSED)
    for number, snapshot in enumerate(kept[1:]):
        requests, _, asked = cold_restore(bench.store, tmp_path / f"after{number}", "plugins/p3", snapshot)
        assert not asked
        assert requests <= before[number + 1][0] + 1


def test_a_large_repository_gives_one_plugin_back_in_few_requests(tmp_path: Path) -> None:
    """With the real sizes of packs: at most ten requests before and after, and never the index."""
    bench = Bench(tmp_path, MemoryStore(clock=Ticks()))
    chance = random.Random(9)
    for number in range(120):
        bench.plugin(f"plugins/p{number:03}", 20)
        bench.write(f"plugins/p{number:03}/noise", chance.randbytes(40_000))
    bench.back_up()
    first = cold_restore(bench.store, tmp_path / "first", "plugins/p077")
    for turn in range(6):
        for number in range(turn, 120, 7):
            bench.write(f"plugins/p{number:03}/skills/s1.md", b"%d" % turn + chance.randbytes(900))
            bench.write(f"plugins/p{number:03}/noise", chance.randbytes(40_000))
        bench.back_up()
    keep_last(bench.store, 2)
    report = run_prune(bench.store)
    assert report.packs_repacked > 0
    after = cold_restore(bench.store, tmp_path / "second", "plugins/p077")
    assert not first[2]
    assert not after[2]
    assert max(first[0], after[0]) <= 10, (first, after)
    assert max(first[1], after[1]) < 3_000_000, (first, after)
    check_all(bench.store)


def test_a_backup_after_a_prune_finds_all_that_is_there(bench: Bench) -> None:
    keep_last(bench.store, 1)
    run_prune(bench.store, NOTHING_UNUSED)
    before = sizes(bench.store)
    report = bench.back_up()
    assert (report.packs, sizes(bench.store)) == (0, before)
    check_all(bench.store)


def test_damaged_or_lost_roots_cost_no_more_than_time(bench: Bench, tmp_path: Path) -> None:
    keep_last(bench.store, 1)
    run_prune(bench.store, NOTHING_UNUSED)
    found = names(bench.store, "hints/")
    assert found == ["hints/newest.zst", "hints/roots.zst"]
    for name in found:
        for data in (b"", b"junk", bench.store.get(name)[:-1]):
            bench.store.put(name, data, overwrite=True)
            cold_restore(bench.store, tmp_path / f"{name[6:]}-damaged{len(data)}", "plugins/p1")
        bench.store.delete(name)
        cold_restore(bench.store, tmp_path / f"{name[6:]}-gone", "plugins/p1")
    check_all(bench.store)


# Properties


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_forgotten_and_pruned_the_rest_is_restored_equal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    home = tmp_path_factory.mktemp("prune")
    with pytest.MonkeyPatch.context() as patch:
        small_packs(patch, pack=data.draw(st.sampled_from([800, 3000, 20_000])), frame=500, meta=500)
        patch.setattr("drkit.repo.packer.FRAME_JOINED", 200)
        patch.setattr("drkit.retention.repack.FRAME_JOINED", 200)
        patch.setattr("drkit.retention.plan.SMALL_PACK", data.draw(st.sampled_from([0, 500, 2000])))
        patch.setattr("drkit.format.nodes.SEGMENT_CUT", 3)
        patch.setattr("drkit.repo.treewriter.ROOT_CHILDREN", 3)
        bench = Bench(home, MemoryStore(clock=Ticks()))
        trees: dict[str, str] = {}
        for turn in range(data.draw(st.integers(2, 5))):
            for number in data.draw(st.sets(st.integers(0, 25), min_size=1, max_size=14)):
                bench.write(f"d{number % 4}/{number}", random.Random(f"{turn}{number % 9}").randbytes(40 * number))
            report = bench.back_up()
            trees[report.snapshot] = report.tree_sha256
        for _ in range(data.draw(st.integers(1, 3))):
            if data.draw(st.booleans()):
                keep_last(bench.store, data.draw(st.integers(1, 4)))
            share = data.draw(st.sampled_from([0.0, 0.05, 0.4, float("inf")]))
            run_prune(bench.store, Limits(share, repack=data.draw(st.sampled_from([None, 0, 2000]))))
            if data.draw(st.booleans()):
                bench.write(f"new/{len(trees)}", b"%d" % len(trees) * 300)
                report = bench.back_up()
                trees[report.snapshot] = report.tree_sha256
        repo = check_all(bench.store)
        assert repo.snapshots()
        for ref in repo.snapshots():
            target = os.fsencode(home / f"back-{ref.id[:8]}")
            back = restore_tree(repo, ref, target, progress=NullProgress())
            assert (back.lost, back.tree_sha256) == ((), trees[ref.id])


def test_it_works_on_a_directory(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LocalStore(os.fsencode(tmp_path / "repo")))
    for number in range(5):
        bench.write("a", random.Random(number).randbytes(2000))
        bench.write(f"b{number}", random.Random(number).randbytes(20_000))
        bench.back_up()
    keep_last(bench.store, 1)
    before = sizes(bench.store)
    assert run_prune(bench.store, NOTHING_UNUSED).bytes_freed > 0
    assert sizes(bench.store) < before
    check_all(bench.store)
    assert condemned_packs(bench.store)
    condemned = frozenset().union(*condemned_packs(bench.store).values())
    assert not condemned & stored_packs(bench.store).keys()
