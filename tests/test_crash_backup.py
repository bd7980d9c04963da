"""A backup dies, or the disk fails, at every call: older snapshots stay whole, and the next one goes on from there."""

from __future__ import annotations

import errno
import functools
import importlib
import os
import random
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from drkit.errors import NoSpace, StoreError
from drkit.model import Kind, Level
from drkit.progress import NullProgress
from drkit.repo import Repository
from drkit.repo.index import read_pack_table, stored_packs
from drkit.store import LocalStore, MemoryStore
from drkit.store.base import Store
from drkit.verify import verify
from tests.support.backups import SMALL_CHUNKS, Bench, Image, check_whole
from tests.support.crash import crash_points, enospc_points, store_crash_points
from tests.support.faults import CHANGES, VERBS, FaultyStore


@pytest.fixture(autouse=True)
def _small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup of some 100 KB writes several packs."""
    monkeypatch.setattr("drkit.repo.packer.PACK_TARGET", 20_000)
    monkeypatch.setattr("drkit.repo.packer.FRAME_TARGET", 5_000)
    monkeypatch.setattr("drkit.repo.packer.POOL_TARGET", 10_000)
    monkeypatch.setattr("drkit.repo.treewriter.PACK_TARGET", 20_000)
    monkeypatch.setattr("drkit.repo.treewriter.SMALL_BACKUP", 10_000)
    monkeypatch.setattr("drkit.backup.gather._SCATTERED", 1_000)  # which stores twice on purpose


@pytest.fixture
def _checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Index objects in the middle of a backup; how many depends on when packs are durable."""
    monkeypatch.setattr("drkit.backup.scan._TICK", 8)
    monkeypatch.setattr(importlib.import_module("drkit.backup.backup"), "INDEX_PACKS", 2)


class Scene:
    """A source with a snapshot of it, and changes since; copies of the repository to run the next backup in."""

    def __init__(self, home: Path, store: Store) -> None:
        self.bench = Bench(home, store, chunker=SMALL_CHUNKS)
        chance = random.Random(5)
        for number in range(60):
            self.bench.write(f"{number % 5}/{number}", chance.randbytes(1500))
        self.first = self.bench.take().snapshot
        for number in range(0, 60, 2):
            self.bench.write(f"{number % 5}/{number}", chance.randbytes(1500))
        self.bench.write("new/large", chance.randbytes(100_000))
        (self.bench.root / "1/1").unlink()
        self.expected: Image = self.bench.fresh()
        self.copies = 0

    def copy(self) -> Bench:
        """Return a bench with a copy of repository and cache."""
        self.copies += 1
        home = self.bench.home / f"copy-{self.copies}"
        home.mkdir()
        cache = home / "cache"
        shutil.copytree(os.fsdecode(self.bench.cache), cache)
        store = self.bench.store
        if store.directory is None:
            other: Store = MemoryStore()
            for info in store.list(""):
                other.put(info.name, store.get(info.name))
        else:
            shutil.copytree(os.fsdecode(store.directory), home / "repo")
            other = LocalStore(os.fsencode(home / "repo"))
        return self.bench.beside(other, cache)

    def check(self, bench: Bench) -> None:
        """What must hold after whatever happened to a backup in `bench`."""
        repository = bench.open()
        refs = repository.snapshots()
        assert self.first in {ref.id for ref in refs}
        report = verify(repository, refs, level=Level.CONTENT, every_pack=True, progress=NullProgress())
        assert report.findings == ()
        there = set(stored_packs(bench.store))
        again = bench.take()
        assert again.warnings == ()
        assert bench.image(again) == self.expected
        check_whole(bench, again)
        assert there <= set(stored_packs(bench.store))
        assert [blob for blob, count in data_blobs(bench.store).items() if count > 1] == []
        assert len(refs) <= len(bench.open().snapshots()) - 1
        assert threads() == []

    def check_no_litter(self, bench: Bench) -> None:
        assert bench.store.directory is not None
        found = [path for path in Path(os.fsdecode(bench.store.directory)).rglob("*") if path.name.startswith(".tmp")]
        assert found == []


def data_blobs(store: Store) -> Counter[bytes]:
    """How many packs hold each blob."""
    found: Counter[bytes] = Counter()
    for pack, size in stored_packs(store).items():
        found.update(row[2] for row in read_pack_table(store, pack, size).rows() if row[1] == Kind.DATA)
    return found


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("drkit")]


@pytest.fixture
def memory(tmp_path: Path) -> Scene:
    return Scene(tmp_path, MemoryStore())


@pytest.fixture
def local() -> Iterator[Scene]:
    """In memory where the system has such a disk: what is proved here does not depend on it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as home:
        yield Scene(Path(home), LocalStore(os.fsencode(home) + b"/repo"))


@pytest.mark.usefixtures("_checkpoints")
def test_an_undisturbed_backup_writes_packs_and_index_objects_before_its_snapshot(memory: Scene) -> None:
    bench = memory.copy()
    order: list[str] = []
    store = FaultyStore(bench.store)
    for prefix in ("packs", "index", "snapshots", "locks"):
        store.act("put", functools.partial(order.append, prefix), prefix=f"{prefix}/", times=None)
    store.act("delete", functools.partial(order.append, "no locks"), prefix="locks/")
    bench.store = store
    bench.take()
    assert order[0] == "locks"
    assert order[-2:] == ["snapshots", "no locks"]
    assert order.count("packs") >= 4
    assert order.count("index") >= 2
    assert "packs" in order[order.index("index") :]
    memory.check(bench)


@pytest.mark.parametrize("verbs", [CHANGES, VERBS])
def test_dying_at_any_call_of_the_store(memory: Scene, verbs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drkit.repo.packer._UNDER_WAY", 0)  # every run closes its packs at the same frames
    benches: dict[int, Bench] = {}

    def make() -> Store:
        bench = memory.copy()
        benches[id(bench.store)] = bench
        return bench.store

    def act(store: Store) -> None:
        inner = store.inner if isinstance(store, FaultyStore) else store
        benches[id(inner)].beside(store, Path(os.fsdecode(benches[id(inner)].cache))).take()

    for point in store_crash_points(make, act, verbs=verbs, limit=40):
        memory.check(benches[id(point.state)])


@pytest.mark.usefixtures("_checkpoints")
def test_dying_at_any_call_of_the_system(local: Scene) -> None:
    for point in crash_points(local.copy, lambda bench: bench.take(), limit=45):
        local.check(point.state)
        local.check_no_litter(point.state)
        shutil.rmtree(Path(os.fsdecode(point.state.cache)).parent)


@pytest.mark.usefixtures("_checkpoints")
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_disk_that_fails_at_any_call(local: Scene, code: int, lasting: bool) -> None:
    """The error says what is wrong, or it did not matter; nothing hangs, and nothing half-done is referred to."""
    for point in enospc_points(local.copy, lambda bench: bench.take(), code=code, lasting=lasting, limit=16):
        assert threads() == []
        assert point.error is None or isinstance(point.error, StoreError), (point.call, point.error)
        if code == errno.ENOSPC and point.error is not None:
            assert isinstance(point.error, NoSpace)
        local.check(point.state)
        local.check_no_litter(point.state)
        shutil.rmtree(Path(os.fsdecode(point.state.cache)).parent)


@pytest.mark.parametrize("prefix", ["packs/", "index/", "snapshots/", "locks/"])
@pytest.mark.parametrize("done", [False, True])
def test_an_error_at_any_kind_of_object(memory: Scene, prefix: str, done: bool) -> None:
    """`done`: the object was stored, but the answer was lost."""
    bench = memory.copy()
    with FaultyStore(bench.store) as store:
        store.fail("put", prefix=prefix, error=NoSpace("full"), done=done)
        with pytest.raises(NoSpace, match="full"):
            bench.beside(store, Path(os.fsdecode(bench.cache))).take()
    assert [ref.id for ref in bench.open().snapshots()] == [memory.first]
    assert list(bench.store.list("locks/")) == []
    memory.check(bench)


@pytest.mark.parametrize("verb", ["list", "get", "stat", "get_range"])
def test_a_store_that_cannot_be_read_is_an_error_not_a_loss(memory: Scene, verb: str) -> None:
    bench = memory.copy()
    with FaultyStore(bench.store) as counter:
        bench.beside(counter, bench.home / "nowhere").take()
    assert counter.calls[verb] > 0
    for after in range(counter.calls[verb]):
        bench = memory.copy()
        store = FaultyStore(bench.store)
        store.fail(verb, error=StoreError("the network is away"), after=after)
        try:
            report = bench.beside(store, bench.home / "nowhere").take()
        except StoreError:
            store.assert_all_hit()
            assert list(bench.store.list("locks/")) == []
            assert [ref.id for ref in bench.open().snapshots()] == [memory.first]
        else:
            assert bench.image(report) == memory.expected
        memory.check(bench)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupt_in_the_middle_of_the_scan(memory: Scene, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    bench = memory.copy()
    original = os.scandir
    calls: list[object] = []

    def scandir(path: bytes) -> object:
        calls.append(path)
        if len(calls) > 2 + after:
            raise KeyboardInterrupt
        return original(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        with pytest.raises(KeyboardInterrupt):
            bench.take()
    assert threads() == []
    assert list(bench.store.list("locks/")) == []
    assert [ref.id for ref in bench.open().snapshots()] == [memory.first]
    memory.check(bench)


def test_an_interrupted_backup_is_resumed(memory: Scene) -> None:
    """Killed just before its snapshot: the next one stores nothing again but what no pack had yet."""
    bench = memory.copy()
    with FaultyStore(bench.store) as store:
        store.fail("put", prefix="snapshots/", error=StoreError("gone"))
        with pytest.raises(StoreError, match="gone"):
            bench.beside(store, bench.home / "nowhere").take()
    before = set(stored_packs(bench.store))
    report = bench.take()
    assert report.packs == 0
    assert set(stored_packs(bench.store)) == before
    assert bench.image(report) == memory.expected


def test_packs_of_a_killed_backup_that_no_index_names_are_used(memory: Scene) -> None:
    bench = memory.copy()
    with FaultyStore(bench.store) as store:
        store.fail("put", prefix="index/", error=StoreError("gone"))
        with pytest.raises(StoreError, match="gone"):
            bench.beside(store, bench.home / "nowhere").take()
    before = set(stored_packs(bench.store))
    report = bench.take()
    assert report.packs == 0
    assert set(stored_packs(bench.store)) == before
    memory.check(bench)


def test_leftovers_of_killed_writers_are_removed(local: Scene) -> None:
    bench = local.copy()
    assert bench.store.directory is not None
    litter = Path(os.fsdecode(bench.store.directory)) / "snapshots/.tmp-0123456789abcdef"
    litter.write_bytes(b"half a snapshot")
    bench.take()
    assert not litter.exists()


def test_a_repository_object_is_the_one_that_was_opened(memory: Scene) -> None:
    """The same Repository may be used for several backups."""
    bench = memory.copy()
    repository = bench.open()
    bench.open = lambda: repository  # type: ignore[method-assign]
    first, second = bench.take(), bench.take()
    assert (second.parent, second.packs) == (first.snapshot, 0)
    assert isinstance(repository, Repository)
    assert bench.image(second) == memory.expected
