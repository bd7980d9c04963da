"""The cache of a store: what never changes is asked for once, and nothing damaged is ever believed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drkit.repo import Repository
from drkit.store import MemoryStore, Store
from drkit.store.cache import AHEAD, CachedStore
from tests.support.faults import FaultyStore
from tests.support.repos import Bench, contents, latest

PACK = f"packs/ab/ab{'0' * 62}.zst"


def cached(path: Path, inner: Store, **limits: int) -> CachedStore:
    return CachedStore(inner, os.fsencode(path), **limits)


def test_what_never_changes_is_asked_for_once(tmp_path: Path) -> None:
    with FaultyStore(MemoryStore()) as faulty:
        data = os.urandom(3 * AHEAD)
        index = f"index/{hashlib.sha256(data).hexdigest()}.zst"
        for name in (PACK, index, "drkit.json"):
            faulty.inner.put(name, data)
        for _ in range(2):  # another process, with nothing in memory
            store = cached(tmp_path, faulty)
            for _ in range(2):
                assert store.get(index) == data
                assert store.get_range(PACK, len(data) - 900, 900) == data[-900:]
                assert store.get_range(PACK, len(data) - AHEAD, 5) == data[-AHEAD : 5 - AHEAD]  # it came with the last
                assert store.get("drkit.json") == data
    assert (faulty.calls["get"], faulty.calls["get_range"]) == (1 + 4, 1)


def test_a_damaged_cache_is_never_believed(tmp_path: Path) -> None:
    inner = MemoryStore()
    data = os.urandom(AHEAD)
    name = f"snapshots/20260101T000000.000000Z-{hashlib.sha256(data).hexdigest()}.json"
    for one in (PACK, name):
        inner.put(one, data)

    def read() -> None:
        store = cached(tmp_path, inner)
        assert store.get(name) == data
        assert store.get_range(PACK, 0, len(data)) == data

    read()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    contents_before = [path.read_bytes() for path in files]
    for spoil in (
        lambda old: b"",
        lambda old: old[:-1],
        lambda old: old + b"x",
        lambda old: bytes([old[0] ^ 1]) + old[1:],
        lambda old: old[:40] + bytes([old[40] ^ 1]) + old[41:],
    ):
        for path, old in zip(files, contents_before, strict=True):
            path.write_bytes(spoil(old))
        read()
    files[0].write_bytes(contents_before[1])  # whole, but something else
    read()


def test_an_object_that_does_not_hash_to_its_name_is_not_kept(tmp_path: Path) -> None:
    with FaultyStore(MemoryStore()) as faulty:
        data = os.urandom(1000)
        name = f"index/{hashlib.sha256(data).hexdigest()}.zst"
        faulty.inner.put(name, data)
        faulty.corrupt("get")
        store = cached(tmp_path, faulty)
        assert store.get(name) != data
        assert store.get(name) == data
        assert cached(tmp_path, faulty).get(name) == data
        assert faulty.calls["get"] == 2


def test_the_cache_is_bounded_and_keeps_what_was_used_last(tmp_path: Path) -> None:
    inner = MemoryStore()
    names = [f"packs/ab/ab{number:062x}.zst" for number in range(30)]
    for name in names:
        inner.put(name, os.urandom(1000))
    with FaultyStore(inner) as faulty:
        store = cached(tmp_path, faulty, limit=12_000, in_memory=0)
        for number, name in enumerate(names):
            store.get_range(name, 0, 1000)
            for path in tmp_path.iterdir():
                os.utime(path, (number, number)) if path.stat().st_mtime > 1e9 else None
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 12_000
        calls = faulty.calls["get_range"]
        store.get_range(names[-1], 0, 1000)
        assert faulty.calls["get_range"] == calls
        store.get_range(names[0], 0, 1000)
        assert faulty.calls["get_range"] == calls + 1


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    inner = MemoryStore()
    inner.put(PACK, b"x" * 100)
    store = cached(tmp_path / "file" / "below", inner)
    assert store.get_range(PACK, 0, 100) == b"x" * 100


READER = """
import os, sys
from drkit.store import MemoryStore
from drkit.store.cache import CachedStore
inner = MemoryStore()
for number in range(40):
    inner.put(f"packs/ab/ab{number:062x}.zst", bytes([number]) * 50_000)
print("ready", flush=True)
for turn in range(int(sys.argv[2])):
    store = CachedStore(inner, os.fsencode(sys.argv[1]), limit=600_000, in_memory=0)
    for number in range(40):
        assert store.get_range(f"packs/ab/ab{number:062x}.zst", 0, 50_000) == bytes([number]) * 50_000
"""


def test_processes_share_a_cache_and_may_be_killed(tmp_path: Path) -> None:
    def start(turns: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", READER, str(tmp_path), str(turns)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    with start(1000) as killed, start(4) as one, start(4) as two:
        assert killed.stdout is not None
        killed.stdout.readline()
        time.sleep(0.1)
        killed.send_signal(signal.SIGKILL)
        assert (one.wait(60), two.wait(60), killed.wait(60)) == (0, 0, -signal.SIGKILL)
    with start(1) as after:
        assert after.wait(60) == 0
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 700_000


def test_threads_share_a_cache(tmp_path: Path) -> None:
    inner = MemoryStore()
    names = [f"packs/ab/ab{number:062x}.zst" for number in range(20)]
    for number, name in enumerate(names):
        inner.put(name, bytes([number]) * 10_000)
    store = cached(tmp_path, inner, limit=100_000, in_memory=50_000)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: store.get_range(name, 0, 10_000), names * 5))
    assert found == [bytes([number]) * 10_000 for number in range(20)] * 5


@pytest.mark.parametrize("way", ["corrupt", "lie_short"])
@pytest.mark.parametrize("with_cache", [False, True])
def test_a_pack_that_comes_wrong_once_is_read_again(tmp_path: Path, way: str, with_cache: bool) -> None:
    bench = Bench(tmp_path)
    bench.plugin("plugins/p", 30)
    bench.back_up()
    with FaultyStore(bench.store) as faulty:
        store: Store = cached(tmp_path / "cache", faulty) if with_cache else faulty
        repo = Repository.open(store)
        getattr(faulty, way)("get_range", prefix="packs/")
        assert contents(repo) == bench.files()
    if with_cache:  # what was wrong did not stay in the cache
        with FaultyStore(bench.store) as sound:
            assert contents(Repository.open(cached(tmp_path / "cache", sound))) == bench.files()


def test_a_pack_that_stays_wrong_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.plugin("plugins/p", 30)
    bench.back_up()
    with FaultyStore(bench.store) as faulty:
        faulty.corrupt("get_range", prefix="packs/", times=None, at=-1)
        repo = Repository.open(faulty)
        assert any("is lost" in segment.lost for segment in repo.segments(latest(repo)))
