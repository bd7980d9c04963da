"""The promise of a fast backup: whatever happened since the last one, it stores what a first backup would store.

After any edits, with the stat cache whole, damaged, outdated or gone, and whatever the repository lost meanwhile, a
backup gives the same segments, lists, hashes and plugins as one into an empty repository without any cache.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drkit.backup import BackupReport, recorder
from drkit.model import Entry, Snapshot
from drkit.repo import Repository, SnapshotRef
from drkit.source.stats import Stat
from drkit.source.walk import PluginRules
from tests.support.backups import (
    MARKER,
    SMALL_CHUNKS,
    Bench,
    check_against_source,
    check_whole,
    many_segments,
    next_tick,
)
from tests.support.edits import Edit, Tree, edits, make_socket, remove, start

EXCLUDES: tuple[tuple[str, ...], ...] = ((), ("b",), ("*.json",), ("/a/**", "f1"), ("/c/b", "\udcff*"))
NEVER_EMPTY = ("add", 0, 0, 2)
RULES = (PluginRules(), PluginRules((".claude-plugin/plugin.json", "SKILL.md"), ("c",)), PluginRules(()))


class Round(NamedTuple):
    """What happens before a backup: to the tree, to the cache, to the repository; and how the backup is asked."""

    edits: list[Edit]
    cache: tuple[str, int]
    repository: tuple[str, int]
    excludes: int
    rules: int


def trouble(*kinds: str) -> st.SearchStrategy[tuple[str, int]]:
    """One of the kinds, or as often none, and a number to go with it."""
    return st.tuples(st.just("none") | st.sampled_from(kinds), st.integers(0, 10**6))


rounds = st.lists(
    st.builds(
        Round,
        edits,
        trouble("remove", "older", "truncate", "flip", "append"),
        trouble("forget", "lose_pack", "condemn", "lose_index", "damage_pack", "lose_all_packs"),
        st.just(0) | st.integers(0, len(EXCLUDES) - 1),
        st.just(0) | st.integers(0, len(RULES) - 1),
    ),
    min_size=1,
    max_size=4,
)


class Trouble:
    """What can happen to the cache and the repository of a bench."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.caches: list[bytes] = []

    def to_cache(self, what: str, number: int) -> None:
        file = self.bench.cache_file()
        data = file.read_bytes()
        self.caches.append(data)
        if what == "remove":
            file.unlink()
        elif what == "older":
            file.write_bytes(self.caches[number % len(self.caches)])
        elif what == "truncate":
            file.write_bytes(data[: number % len(data)])
        elif what == "flip":
            at = number % len(data)
            file.write_bytes(data[:at] + bytes([data[at] ^ 1 << number % 8]) + data[at + 1 :])
        elif what == "append":
            file.write_bytes(data + data[number % len(data) :])

    def to_repository(self, what: str, number: int) -> None:
        store = self.bench.store
        packs = [info.name for info in store.list("packs/")]
        if what == "forget":
            store.delete(self.bench.open().snapshots()[-1].name)
        elif what == "lose_pack" and packs:
            store.delete(packs[number % len(packs)])
        elif what == "lose_all_packs":
            for name in packs:
                store.delete(name)
        elif what == "damage_pack" and packs:
            name = packs[number % len(packs)]
            store.put(name, store.get(name)[: number % 1000], overwrite=True)
        elif what == "condemn" and packs:
            digits = packs[number % len(packs)][-68:-4]
            store.put(f"prunes/{secrets.token_hex(8)}", msgspec.json.encode({"packs": [digits]}))
        elif what == "lose_index":
            for info in list(store.list("index/")):
                store.delete(info.name)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(from_scratch=st.booleans(), first=edits, then=rounds)
def test_an_incremental_backup_stores_what_a_first_one_would(
    from_scratch: bool, first: list[Edit], then: list[Round]
) -> None:
    with tempfile.TemporaryDirectory() as home, many_segments():
        bench = Bench(Path(home), chunker=SMALL_CHUNKS)
        tree = Tree(bench.root)
        if not from_scratch:
            start(tree)
        tree.edit([*first, NEVER_EMPTY])
        report = bench.take()
        assert bench.image(report) == bench.fresh()
        cause = Trouble(bench)
        for turn in then:
            tree.edit([*turn.edits, NEVER_EMPTY])
            cause.to_cache(*turn.cache)
            cause.to_repository(*turn.repository)
            excludes, rules = EXCLUDES[turn.excludes], RULES[turn.rules]
            report = bench.take(excludes=excludes, rules=rules)
            assert bench.image(report) == bench.fresh(excludes=excludes, rules=rules)
            check_whole(bench, report)
            if not (turn.excludes or turn.rules):
                check_against_source(bench, report)


# What went wrong once, or nearly


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, chunker=SMALL_CHUNKS)
    start(Tree(bench.root))
    return bench


def check_next(bench: Bench, **options: Any) -> BackupReport:
    """The next backup with the cache, and the one after it, store what a first one does."""
    report = bench.take(**options)
    assert bench.image(report) == bench.fresh(**options)
    check_whole(bench, report)
    again = bench.take(**options)
    assert (bench.image(again), again.files_unchanged) == (bench.image(report), report.files)
    return report


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("name", ["c/f0", "c/f1", "a", "c"])
def test_a_socket_in_a_files_or_a_directorys_place(bench: Bench, name: str, cut: bool) -> None:
    with many_segments() if cut else nullcontext():
        bench.take()
        remove(os.fsencode(bench.root / name))
        make_socket(os.fsencode(bench.root / name))
        report = check_next(bench)
    check_against_source(bench, report)
    assert name.encode() not in bench.paths(report)


@pytest.mark.parametrize("away", [True, False])
def test_the_first_name_of_a_hard_link_group_moves(bench: Bench, away: bool) -> None:
    """With its directory, so that the file's own stat stays as it was."""
    bench.write("1/first", b"linked")
    os.link(bench.root / "1/first", bench.root / "5")
    os.link(bench.root / "1/first", bench.root / "7")
    bench.take()
    next_tick()
    (bench.root / "1").rename(bench.home / "elsewhere" if away else bench.root / "6")
    check_against_source(bench, check_next(bench))


def test_the_first_name_of_a_hard_link_group_is_left_out(bench: Bench) -> None:
    bench.write("1/first", b"linked")
    os.link(bench.root / "1/first", bench.root / "5")
    bench.take()
    check_next(bench, excludes=("1",))
    check_against_source(bench, check_next(bench))


def test_a_manifest_that_is_left_out_names_no_plugin(bench: Bench) -> None:
    bench.take(excludes=("*.json",))
    bench.write(f"b/{MARKER}", b'{"name":"renamed in secret"}')
    report = check_next(bench, excludes=("*.json",))
    assert {row.name for row in bench.image(report).plugins} == {"source", "b", "c"}


@pytest.mark.parametrize("length", [None, 0, 100, -1])
@pytest.mark.parametrize("cache", [True, False])
def test_what_a_lost_or_cut_pack_held_is_stored_again(bench: Bench, cache: bool, length: int | None) -> None:
    """Although nothing has changed in the source."""
    first = bench.image(bench.take())
    (pack,) = (info.name for info in bench.store.list("packs/"))
    data = bench.store.get(pack)
    bench.store.delete(pack)
    if length is not None:
        bench.store.put(pack, data[:length])
    report = bench.take(cache=cache)
    assert (report.packs, bench.image(report)) == (1, first)
    check_whole(bench, report)
    check_against_source(bench, report)


def test_the_last_file_of_a_plugin_is_left_out_now(bench: Bench) -> None:
    """Nothing else in it has changed, and nothing comes after it in the plugin."""
    bench.write("b/zz", b"the last")
    bench.take()
    before, after = bench.image(bench.take()), bench.image(check_next(bench, excludes=("zz",)))
    assert [new.files - old.files for old, new in zip(before.plugins, after.plugins, strict=True)] == [-1, -1, 0]


@pytest.mark.parametrize("cache", [True, False])
def test_a_plugin_of_which_a_lost_part_is_left_out_now(bench: Bench, cache: bool) -> None:
    """Nothing that can still be read of the last backup tells that the plugin has changed."""
    for number in range(30):
        bench.write(f"b/z{number}")
    with many_segments():
        bench.take()
        if cache:
            file = bench.cache_file()
            data = file.read_bytes()
            file.write_bytes(data[: len(data) // 2] + b"\0" + data[len(data) // 2 + 1 :])
        else:
            (pack,) = (info.name for info in bench.store.list("packs/"))
            data = bench.store.get(pack)
            bench.store.put(pack, data[: len(data) // 2], overwrite=True)
        excludes = tuple(f"z{number}" for number in range(20, 30))
        report = bench.take(cache=cache, excludes=excludes)
        assert bench.image(report) == bench.fresh(excludes=excludes)


def test_a_manifest_that_is_cut_elsewhere(bench: Bench) -> None:
    """As by another version; nothing of it may be taken for the end before its end."""
    with many_segments():
        bench.take(cache=False)
    report = bench.take(cache=False)
    assert bench.image(report) == bench.fresh()
    check_against_source(bench, report)


def test_words_that_are_no_utf_8(bench: Bench) -> None:
    """From a command line in another encoding."""
    bench.write(b"\xff\xfe.log", b"x")
    report = bench.take(tags=("t\udcff",), excludes=("\udcff*",), host="h\udce9")
    repository = bench.open()
    snap = repository.load(repository.resolve(report.snapshot))
    assert (snap.tags, snap.excludes, snap.host) == (("t\\xff",), ("\\xff*",), "h\\xe9")
    assert b"\xff\xfe.log" not in bench.paths(report)
    assert bench.take(host="h\udce9").parent == report.snapshot


def test_segments_of_the_last_backup_are_taken_over_where_they_can_be(bench: Bench) -> None:
    """The speed, too, is a promise: a change costs the entries around it and no others."""
    for number in range(2000):
        bench.write(f"many/{number // 50}/{number}")
    bench.take()
    bench.write("many/20/1000", b"changed")
    encoded: list[bytes] = []
    original = recorder.Recorder.add

    def add(self: recorder.Recorder, entry: Entry, path: bytes, tail: bytes, stat: Stat) -> None:
        encoded.append(path)
        original(self, entry, path, tail, stat)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder.Recorder, "add", add)
        report = bench.take()
    assert report.files_unchanged == report.files - 1
    assert b"many/20/1000" in encoded
    assert len(encoded) <= 2 * 256


def test_a_parent_that_is_forgotten_after_it_was_listed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody prunes meanwhile: that is no damage, and no warning."""
    bench.write("z-new", b"new")
    first = bench.take()
    second = bench.take()
    load = Repository.load

    def forgotten(repo: Repository, ref: SnapshotRef) -> Snapshot:
        if ref.id == second.snapshot:
            bench.store.delete(ref.name)
        return load(repo, ref)

    monkeypatch.setattr(Repository, "load", forgotten)
    third = bench.take()
    assert (third.parent, third.warnings) == (first.snapshot, ())
