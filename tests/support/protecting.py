"""Repositories with parity: filled, damaged, pruned, and seen to be whole with all the parity there should be."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drkit.format import settings as settings_format
from drkit.format.settings import ParitySettings
from drkit.format.snapshot import parse_name
from drkit.model import Finding, Level
from drkit.progress import NullProgress
from drkit.repo import Repository
from drkit.repo.parity import parity_id_of
from drkit.retention import Limits, PruneOptions, PruneReport, prune
from drkit.store import MemoryStore, Store
from drkit.verify import verify
from tests.support.repos import START, Bench, contents, names, pack_ids, small_packs

PACK = 40_000
"""Each pack has about ten sectors, and shards of one."""


def with_parity(bench: Bench, shards: ParitySettings) -> Bench:
    """Let a bench's repository, in which there is nothing yet, have parity."""
    made = Repository.create(MemoryStore(), now=START, parity=shards).config
    for name in ("drkit.json", "drkit-copy.json"):
        bench.store.put(name, settings_format.encode(made), overwrite=True)
    return bench


def filled(root: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Back up twice into a repository of small packs, with two shards of parity to eight of data."""
    small_packs(monkeypatch, pack=PACK, frame=6000)
    bench = with_parity(Bench(root), ParitySettings(8, 2))
    for number in range(20):
        bench.write(f"plugins/p{number}/noise.bin", random.Random(number).randbytes(15_000))
        bench.plugin(f"plugins/p{number}")
    bench.back_up()
    bench.write("plugins/p3/new.md", random.Random(1).randbytes(3000))
    bench.back_up()
    return bench


def change(store: Store, name: str, *places: int, cut: int = 0) -> None:
    """Flip a bit at these places of an object, and cut off its end."""
    data = bytearray(store.get(name))
    for at in places:
        data[at % len(data)] ^= 0x20
    store.put(name, bytes(data[: len(data) - cut]), overwrite=True)


def pruned(bench: Bench) -> PruneReport:
    """Prune, and leave nothing unused."""
    return prune(
        bench.repo,
        PruneOptions(limits=Limits(0.0, None, None)),
        progress=NullProgress(),
        now=lambda: bench.now,
        sleep=lambda _: None,
    )


def findings(store: Store, level: Level = Level.CONTENT) -> list[Finding]:
    """What a verification of everything finds."""
    repo = Repository.open(store)
    report = verify(repo, repo.snapshots(), level=level, every_pack=True, progress=NullProgress())
    return list(report.findings)


def parities(store: Store) -> set[bytes | None]:
    """The ids of all that has parity."""
    return {parity_id_of(name) for name in names(store, "parity/")}


def protected(store: Store) -> set[bytes]:
    """The ids of all that should have parity."""
    snapshots = {bytes.fromhex(parse_name(name)[1]) for name in names(store, "snapshots/")}
    return {*pack_ids(store), *snapshots}


def assert_whole(bench: Bench, store: Store) -> None:
    """Nothing is wrong with a store, and nothing in it without parity."""
    assert findings(store) == []
    assert parities(store) == protected(store)
    assert contents(Repository.open(store)) == bench.files()
