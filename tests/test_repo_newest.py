"""The nodes of the newest snapshot in one object: there for readers far away, never trusted, and needed by nobody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drkit.repo import Repository
from drkit.repo.newest import NAME, Known, TreeNode, read_newest, write_newest
from drkit.restore import restore_plugin
from drkit.store.local import LocalStore
from drkit.store.memory import MemoryStore
from drkit.store.wrap import AppendOnly
from tests.support.repos import Bench, names


def cold(bench: Bench, target: Path, plugin: str) -> None:
    """Restore a plugin as a reader far away does, and compare it with what the snapshot says of it."""
    repo = Repository.open(bench.store, both=False)
    ref = repo.resolve("latest")
    row = repo.plugin(repo.load(ref), plugin)
    assert restore_plugin(repo, ref, row, target=os.fsencode(target)).tree_sha256 == row.tree_sha256


def test_it_holds_all_nodes_but_the_segments_of_the_manifest(tmp_path: Path) -> None:
    bench = Bench(tmp_path, MemoryStore())
    for number in range(150):
        bench.plugin(f"plugins/p{number:03}", 8)
    bench.back_up()
    known = read_newest(bench.store)
    repo = bench.repo
    snap = repo.load(repo.resolve("latest"))
    assert snap.manifest.level > 0
    passed: list[str] = []
    segments = [node.id for node in repo.leaves(repo.reader(), snap.manifest, passed=passed.append)]
    table = [node.id for node in repo.leaves(repo.reader(), snap.plugin_table, passed=passed.append)]
    assert set(known.nodes) == {*passed, *table}
    assert not known.nodes.keys() & set(segments)
    below = [place for node_id in passed for place in known.children(node_id)]
    assert len(below) >= len(segments)
    assert None not in below


def test_a_store_that_is_near_has_none(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LocalStore(str(tmp_path / "repo")))
    bench.plugin("p")
    bench.back_up()
    assert names(bench.store, "hints/") == []


@pytest.mark.parametrize("what", ["old", "of another", "without places"])
def test_one_that_is_wrong_costs_nothing_but_time(tmp_path: Path, what: str) -> None:
    bench = Bench(tmp_path, MemoryStore())
    for number in range(60):
        bench.plugin(f"plugins/p{number:03}", 8)
    bench.back_up()
    old = bench.store.get(NAME)
    bench.write("plugins/p007/new.md", b"new")
    bench.back_up()
    if what == "old":
        bench.store.put(NAME, old, overwrite=True)
    elif what == "of another":
        write_newest(
            bench.store, [os.urandom(32)], [TreeNode(b"no node of this one", [os.urandom(32)])], lambda _: None
        )
    else:
        known = read_newest(bench.store)
        nodes = [TreeNode(data, [bytes(32)] * len(known.children(one))) for one, (data, _) in known.nodes.items()]
        write_newest(bench.store, [], nodes, lambda _: None)
    cold(bench, tmp_path / "out", "plugins/p007")
    assert (tmp_path / "out" / "new.md").read_bytes() == b"new"
    cold(bench, tmp_path / "other", "plugins/p059")


def test_a_store_that_replaces_nothing_keeps_the_first(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AppendOnly(MemoryStore()))
    bench.plugin("p")
    bench.back_up()
    first = bench.store.get(NAME)
    bench.write("p/new.md", b"new")
    bench.back_up()
    assert bench.store.get(NAME) == first
    cold(bench, tmp_path / "out", "p")


def test_what_is_damaged_says_nothing() -> None:
    store = MemoryStore()
    assert read_newest(store) == Known()
    write_newest(store, [], [TreeNode(b"node")], lambda _: None)
    data = store.get(NAME)
    assert len(read_newest(store).nodes) == 1
    for cut in range(0, len(data), 3):
        store.put(NAME, data[:cut], overwrite=True)
        assert read_newest(store) == Known()
