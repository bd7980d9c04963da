"""The promise of a fast backup: whatever happened since the last one, it stores what a first backup would store.

After any edits, with the stat cache whole, damaged, outdated or gone, and whatever the repository lost meanwhile, a
backup gives the same segments, lists, hashes and plugins as one into an empty repository without any cache.
"""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drkit.source.walk import PluginRules
from tests.support.backups import SMALL_CHUNKS, Bench, check_against_source, check_whole, many_segments
from tests.support.edits import Edit, Tree, edits, start

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
