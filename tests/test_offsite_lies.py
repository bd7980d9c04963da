"""Stores that lie: what they claim is found out or does no harm, through whole lives of repositories."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from drkit.copy import copy
from drkit.errors import DrkitError
from drkit.model import Level
from drkit.progress import NullProgress
from drkit.repair import repair
from drkit.repo import Repository
from drkit.store import MemoryStore, ObjectInfo, Store
from drkit.store.wrap import Wrapped
from drkit.verify import verify
from tests.support.pruning import NOTHING_UNUSED, Ticks, check_all, keep_last, run_prune, utc_now
from tests.support.repos import Bench, contents, names, small_packs

NIGHTS = 6


class Liar(Wrapped):
    """A store that lies now and then: how, a subclass says. `told` counts the lies."""

    def __init__(self, inner: Store, seed: int) -> None:
        super().__init__(inner)
        self.chance = random.Random(seed)
        self.told = 0

    def lies(self, share: float) -> bool:
        lie = self.chance.random() < share
        self.told += lie
        return lie


class ShortReads(Liar):
    """Gives less than it was asked for, and says nothing."""

    def get(self, name: str) -> bytes:
        data = super().get(name)
        return data[: self.chance.randrange(len(data))] if data and self.lies(0.05) else data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        data = super().get_range(name, offset, length)
        return data[: self.chance.randrange(len(data))] if data and self.lies(0.05) else data


class FlipsOnce(Liar):
    """Gives a wrong bit; asked again, the right one."""

    def get(self, name: str) -> bytes:
        return self._flipped(super().get(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._flipped(super().get_range(name, offset, length))

    def _flipped(self, data: bytes) -> bytes:
        if not data or not self.lies(0.05):
            return data
        changed = bytearray(data)
        changed[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
        return bytes(changed)


class LateLists(Liar):
    """Lists show what was put, and what was deleted, as it was some calls ago."""

    def __init__(self, inner: Store, seed: int) -> None:
        super().__init__(inner, seed)
        self._delay = seed
        self._calls = 0
        self._changes: list[tuple[int, str, ObjectInfo | None]] = []

    def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
        self._calls += 1
        there = [info for info in self.inner.list(name) if info.name == name]
        super().put(name, data, overwrite=overwrite)
        self._changes.append((self._calls, name, there[0] if there else None))

    def delete(self, name: str) -> None:
        self._calls += 1
        there = self.inner.stat(name)
        super().delete(name)
        self._changes.append((self._calls, name, there))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        self._calls += 1
        found = {info.name: info for info in super().list(prefix, after=after)}
        for at, name, before in reversed(self._changes):
            if self._calls - at > self._delay:
                break
            if name.startswith(prefix) and name > after:
                self.told += 1
                found.pop(name, None)
                if before is not None:
                    found[name] = before
        return iter([found[name] for name in sorted(found)])


class PutsTwice(Liar):
    """Carries a put out once more, some calls later, whatever has become of the object since."""

    def __init__(self, inner: Store, seed: int) -> None:
        super().__init__(inner, seed)
        self._late: list[tuple[str, bytes]] = []

    def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
        super().put(name, data, overwrite=overwrite)
        self._late.append((name, bytes(data)))
        self._again()

    def delete(self, name: str) -> None:
        super().delete(name)
        self._again()

    def _again(self) -> None:
        while len(self._late) > 3 and self.lies(0.5):
            name, data = self._late.pop(self.chance.randrange(3))
            self.inner.put(name, data, overwrite=True)


def nights(bench: Bench, liar: Liar) -> dict[str, str]:
    """Back up, copy, forget, prune and repair, again and again; return the tree hashes of what was committed.

    A command may say that it failed. Nothing but that may happen.
    """
    honest, trees, done = MemoryStore("honest"), {}, 0
    for night in range(NIGHTS):
        bench.write("changing.md", b"%d" % night * 700)
        bench.write(f"night{night}.md", random.Random(night).randbytes(2000))
        bench.store = liar
        try:
            report = bench.back_up()
            trees[str(report.snapshot)] = report.tree_sha256
            copy(Repository.open(liar), honest, progress=NullProgress(), now=utc_now)
            done += 1
            if night % 2:
                keep_last(liar, 2)
                run_prune(liar, NOTHING_UNUSED)
            repair(liar, [honest], progress=NullProgress(), now=utc_now)
        except DrkitError:
            pass
        for name in names(liar.inner, "locks/"):
            liar.inner.delete(name)  # one that was put again belongs to nobody: after half an hour, or by 'unlock'
    assert done > 1
    return trees


LIARS = [ShortReads, FlipsOnce, LateLists, PutsTwice]


@pytest.mark.parametrize("kind", LIARS)
@pytest.mark.parametrize("seed", range(1, 9))
def test_a_life_on_a_store_that_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Liar], seed: int
) -> None:
    """What was told as done is there, whole, when the truth is asked."""
    small_packs(monkeypatch)
    truth = MemoryStore("truth", clock=Ticks())
    bench = Bench(tmp_path, truth)
    bench.plugin("plugins/a")
    bench.back_up()
    liar = kind(truth, seed)
    trees = nights(bench, liar)
    assert liar.told > 3
    repo = check_all(truth)
    told = [ref.id for ref in repo.snapshots() if ref.id in trees]
    assert told[-1] == list(trees)[-1]
    assert [trees[snapshot] for snapshot in told] == [repo.load(repo.resolve(one)).tree_sha256 for one in told]
    bench.store = truth
    bench.back_up()
    assert contents(check_all(truth)) == bench.files()


class FlipsWhenWritten(Liar):
    """Stores one object, the one with this number, with a wrong bit, and says that it is stored."""

    def __init__(self, inner: Store, number: int) -> None:
        super().__init__(inner, number)
        self._left = number
        self.flipped = ""

    def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
        self._left -= 1
        if self._left == -1 and len(data):
            self.flipped = name
            data = bytearray(data)
            data[len(data) // 2] ^= 16
        super().put(name, data, overwrite=overwrite)


HARMLESS = ("locks/", "hints/", "prunes/", "RECOVER.md", "recover.py")
"""What is read by nobody who trusts it, or is told of when it is read; what no restore needs."""


def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    small_packs(monkeypatch)
    monkeypatch.setattr("drkit.retention.plan.SMALL_PACK", 500)
    bench = Bench(tmp_path, MemoryStore("first", clock=Ticks()))
    for turn in range(3):
        bench.plugin(f"plugins/p{turn}")
        bench.write("changing.md", random.Random(turn).randbytes(2500))
        bench.back_up()
    return bench


def duplicate(store: Store) -> MemoryStore:
    made = MemoryStore("second", clock=Ticks())
    for name in names(store, ""):
        made.put(name, store.get(name))
    return made


def damage(store: Store) -> list[str]:
    """What a verification of everything finds."""
    repo = Repository.open(store)
    report = verify(repo, repo.snapshots(), level=Level.CONTENT, every_pack=True, progress=NullProgress())
    return [*(one.object for one in report.findings), *(one.object for one in repo.findings)]


def test_what_a_backup_wrote_wrong_is_found_by_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And healed from a copy that was made before it was noticed, or by the next backup."""
    bench = scene(tmp_path, monkeypatch)
    before = bench.store
    met = set()
    for number in range(60):
        bench.store = liar = FlipsWhenWritten(duplicate(before), number)
        bench.write("new.md", random.Random(7).randbytes(6000))
        try:
            bench.back_up()
        except DrkitError:
            met.add("told at once")
            continue
        if not liar.flipped:
            break
        met.add(liar.flipped.split("/")[0])
        found = damage(liar.inner)
        assert found or liar.flipped.startswith(HARMLESS), liar.flipped
        assert repair(liar.inner, [], progress=NullProgress(), now=utc_now).healed == ()
    assert {"packs", "index", "snapshots"} <= met
    assert number < 59


def test_what_a_copy_wrote_wrong_is_put_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = scene(tmp_path, monkeypatch)
    for number in range(80):
        liar = FlipsWhenWritten(MemoryStore("copy"), number)
        for _ in range(2):
            try:
                copy(bench.repo, liar, progress=NullProgress(), now=utc_now)
                break
            except DrkitError:
                continue  # told: the same command mends it
        else:
            report = repair(liar.inner, [bench.store], progress=NullProgress(), now=utc_now)
            assert report.ok
        if not liar.flipped:
            break
        found = [name for name in damage(liar.inner) if not name.startswith(HARMLESS)]
        assert set(found) <= {liar.flipped}
        assert not liar.flipped.startswith("packs/") or found == []
        assert repair(liar.inner, [bench.store], progress=NullProgress(), now=utc_now).ok
        assert damage(liar.inner) == []
    assert 10 < number < 79


def test_what_a_prune_wrote_wrong_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read back before what it was made of is deleted."""
    bench = scene(tmp_path, monkeypatch)
    keep_last(bench.store, 1)
    refused = 0
    for number in range(60):
        liar = FlipsWhenWritten(duplicate(bench.store), number)
        try:
            run_prune(liar, NOTHING_UNUSED)
        except DrkitError:
            refused += 1
        if not liar.flipped:
            break
        for name in names(liar.inner, "locks/"):
            liar.inner.delete(name)
        for name in names(liar.inner, "prunes/"):
            if liar.flipped == name:
                liar.inner.delete(name)  # as the error says
        assert contents(Repository.open(liar.inner)) == bench.files(), liar.flipped
        run_prune(liar.inner, NOTHING_UNUSED)
        assert contents(check_all(liar.inner)) == bench.files()
    assert refused > 0
    assert 5 < number < 59
