"""The protocol of backups and prunes as a model, of which every interleaving and every crash is looked at.

Each process is a function that takes one step on a store: one operation, or none that others could see. The explorer
tries all orders of all steps, and ends each process at each of its steps. What must hold in every state: what a
snapshot needs that its backup has not taken back is in some pack. `test_the_model_does_what_prune_does` holds the
model against the order in which the real prune calls its store.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from drkit.store import MemoryStore
from tests.support.faults import FaultyStore
from tests.support.pruning import NOTHING_UNUSED, Ticks, keep_last, run_prune
from tests.support.repos import Bench, small_packs

Blobs = frozenset[str]


class Store(NamedTuple):
    """Packs by name, snapshots, records, and locks with the records that were there when each was put."""

    packs: tuple[tuple[str, Blobs], ...]
    snapshots: tuple[tuple[str, Blobs], ...]
    records: tuple[tuple[str, Blobs], ...] = ()
    locks: Blobs = frozenset()
    before: frozenset[tuple[str, str]] = frozenset()
    """(lock, record): the lock was there before the record."""

    def put(self, kind: str, name: str, content: Blobs) -> Store:
        rows: Any = tuple(sorted({**dict(getattr(self, kind)), name: content}.items()))
        return self._replace(**{kind: rows})

    def delete(self, kind: str, name: str) -> Store:
        rows: Any = tuple(row for row in getattr(self, kind) if row[0] != name)
        return self._replace(**{kind: rows})

    def condemned(self) -> Blobs:
        return frozenset().union(*(packs for _, packs in self.records))

    def held(self, without: Blobs = frozenset()) -> Blobs:
        return frozenset().union(*(blobs for name, blobs in self.packs if name not in without))


class Process(NamedTuple):
    """Where a process is, and what it remembers. `state` is "on", "dead" (killed), "done" or "failed"."""

    name: str
    at: int = 0
    state: str = "on"
    seen: tuple[Any, ...] = ()


Step = Callable[[Store, Process], tuple[Store, Process]]


class Rules(NamedTuple):
    """The protocol, and what happens if a rule of it is left out."""

    look_again: bool = True
    wait: bool = True
    look_once_more: bool = True
    store_again: bool = True
    mind_records: bool = True
    check_lock: bool = True
    eager: bool = False
    """Condemns every pack that it may, as if nothing at all may stay unused."""


def go(process: Process, *seen: Any, at: int | None = None, state: str = "on") -> Process:
    return process._replace(at=process.at + 1 if at is None else at, seen=seen or process.seen, state=state)


def backup(needs: Blobs, rules: Rules, store: Store, own: Process) -> tuple[Store, Process]:
    """lock → records → packs → new pack → check → snapshot → records → check → again → unlock."""
    name = own.name
    match own.at:
        case 0:
            return store._replace(locks=store.locks | {name}), go(own)
        case 1:
            return store, go(own, store.condemned() if rules.mind_records else frozenset())
        case 2:
            (condemned,) = own.seen
            return store, go(own, condemned, needs - store.held(condemned))
        case 3:
            missing = own.seen[1]
            return (store.put("packs", f"{name} new", missing) if missing else store), go(own)
        case 4:
            lost = rules.check_lock and name not in store.locks
            return store, go(own, *own.seen, at=9 if lost else 5, state="failed" if lost else "on")
        case 5:
            return store.put("snapshots", name, needs), go(own)
        case 6:
            return store, go(own, own.seen[0], store.condemned())
        case 7:
            if rules.check_lock and name not in store.locks:
                return store.delete("snapshots", name), go(own, state="failed", at=9)
            old, new = own.seen
            return store, go(own, at=9 if old == new or not rules.store_again else 8)
        case 8:
            _, condemned = own.seen
            missing = needs - store.held(condemned)
            if not missing:
                return store, go(own, at=9)
            if not missing <= store.held():
                return store.delete("snapshots", name), go(own, state="failed", at=9)
            return store.put("packs", f"{name} again {'+'.join(sorted(missing))}", missing), go(
                own, condemned, frozenset(), at=6
            )
        case _:
            return store._replace(locks=store.locks - {name}), own._replace(state="done", at=10)


def prune(rules: Rules, store: Store, own: Process) -> tuple[Store, Process]:
    """lock → snapshots → packs → locks → record → locks → snapshots → spare → packs → locks → snapshots → delete."""
    name = own.name
    record = f"{name} record"
    match own.at:
        case 0:
            if any(lock.startswith("prune") for lock in store.locks):
                return store, own._replace(state="failed")
            return store._replace(locks=store.locks | {name}), go(own)
        case 1:
            return store, go(own, store.snapshots)
        case 2:
            return store, go(own, own.seen[0], store.packs, store.condemned())
        case 3:
            marked, packs, must = own.seen
            live = frozenset().union(*(blobs for _, blobs in marked))
            gone = choose(packs, must, live, store.locks - {name}, eager=rules.eager)
            return store, go(own, live, packs, must, gone, at=4 if gone else 13)
        case 4:
            live, packs, must, gone = own.seen
            pairs = {(lock, record) for lock in store.locks if lock != name}
            return store.put("records", record, gone)._replace(before=store.before | pairs), go(own)
        case 5:
            if name not in store.locks:
                return store, own._replace(state="failed")
            return store, go(own, *own.seen, store.locks)
        case 6:
            live, packs, must, gone, locks = own.seen
            fresh = needed(store) if rules.look_again else live
            spared = younger(packs, locks - {name}) & gone - must
            spared |= holding(packs, fresh - live, gone) - must
            return store, go(own, fresh | live, packs, gone - spared)
        case 7:
            return store.put("records", record, own.seen[2]), go(own)
        case 8:
            live, packs, gone = own.seen
            kept = frozenset().union(*(blobs for pack, blobs in packs if pack not in gone))
            inside = frozenset().union(*(blobs for pack, blobs in packs if pack in gone))
            moved = (live & inside) - kept
            after = store.put("packs", f"{name} moved", moved) if moved else store
            return after, go(own, live, packs, gone, moved)
        case 9:
            old = any((lock, record) in store.before for lock in store.locks)
            return store, go(own, at=13 if old and rules.wait else 10)
        case 10:
            live, packs, gone, moved = own.seen
            fresh = needed(store) if rules.look_once_more else frozenset()
            stays = holding(packs, fresh - live - moved, gone)
            return store, go(own, gone - stays, at=11)
        case 11:
            if name not in store.locks:
                return store, own._replace(state="failed")
            return store, go(own, at=12)
        case 12:
            (gone,) = own.seen
            if not gone:
                return store, go(own, at=13)
            first = min(gone)
            return store.delete("packs", first), go(own, gone - {first}, at=12)
        case _:
            return store._replace(locks=store.locks - {name}), own._replace(state="done", at=14)


def needed(store: Store) -> Blobs:
    return frozenset().union(*(blobs for _, blobs in store.snapshots))


def younger(packs: tuple[tuple[str, Blobs], ...], locks: Blobs) -> Blobs:
    """The packs that a backup at work has written."""
    return frozenset(pack for pack, _ in packs if pack.split()[0] in locks)


def holding(packs: tuple[tuple[str, Blobs], ...], blobs: Blobs, gone: Blobs) -> Blobs:
    left = blobs - frozenset().union(*(held for pack, held in packs if pack not in gone))
    return frozenset(pack for pack, held in packs if pack in gone and held & left)


def choose(packs: tuple[tuple[str, Blobs], ...], must: Blobs, live: Blobs, locks: Blobs, *, eager: bool) -> Blobs:
    there = frozenset(pack for pack, _ in packs)
    young = younger(packs, locks)
    return (
        frozenset(pack for pack, blobs in packs if pack in must or (pack not in young and (eager or not blobs <= live)))
        & there
    )


def explore(
    start: Store, processes: tuple[Process, ...], steps: dict[str, Step], *, crashes: int
) -> Iterator[tuple[Store, tuple[Process, ...]]]:
    """Yield every state that can be reached, each once; at most `crashes` processes are killed."""
    seen = {(start, processes)}
    todo = [(start, processes)]
    while todo:
        assert len(seen) < 2_000_000
        store, now = todo.pop()
        yield store, now
        found: list[tuple[Store, tuple[Process, ...]]] = []
        for number, process in enumerate(now):
            if process.state == "dead" and process.name in store.locks:  # some day somebody finds its lock stale
                found.append((store._replace(locks=store.locks - {process.name}), now))
            if process.state != "on" and not (process.state == "failed" and process.at == 9):
                continue
            after, moved = steps[process.name](store, process)
            found.append((after, (*now[:number], moved, *now[number + 1 :])))
            if sum(one.state == "dead" for one in now) < crashes:
                found.append((store, (*now[:number], process._replace(state="dead"), *now[number + 1 :])))
        for state in found:
            if state not in seen:
                seen.add(state)
                todo.append(state)


def broken(store: Store, processes: tuple[Process, ...]) -> list[str]:
    """The snapshots of which something is gone, less those of backups at work: they may still take theirs back."""
    working = {one.name for one in processes if one.state == "on" and 5 < one.at < 9}
    held = store.held()
    return [name for name, blobs in store.snapshots if not blobs <= held and name not in working]


OLD = frozenset({"live"})
START = Store(
    packs=(("p1 mixed", frozenset({"live", "dead"})), ("p2 dead", frozenset({"gone"}))),
    snapshots=(("old", OLD),),
)
NEEDS = {"a": frozenset({"live", "dead"}), "b": frozenset({"dead", "gone", "own"})}


def run(rules: Rules, names: tuple[str, ...], crashes: int) -> tuple[int, set[str], set[tuple[str, ...]]]:
    """Explore; return how many states there were, what broke in them, and how the runs without a crash ended."""
    steps: dict[str, Step] = {}
    for name in names:
        if name.startswith("prune"):
            steps[name] = functools.partial(prune, rules)
        else:
            steps[name] = functools.partial(backup, NEEDS[name], rules)
    wrong: set[str] = set()
    ends: set[tuple[str, ...]] = set()
    count = 0
    for store, processes in explore(START, tuple(map(Process, names)), steps, crashes=crashes):
        count += 1
        wrong.update(broken(store, processes))
        if wrong:
            break
        if all(one.state in {"done", "failed"} for one in processes):
            ends.add((*(f"{one.name} {one.state}" for one in processes), *(pack for pack, _ in store.packs)))
    return count, wrong, ends


@pytest.mark.parametrize("eager", [False, True])
def test_two_backups_and_a_prune_in_every_order_with_a_crash_at_every_step(eager: bool) -> None:
    count, wrong, ends = run(Rules(eager=eager), ("a", "b", "prune"), crashes=1)
    assert wrong == set()
    assert count > 10_000
    assert not any("a failed" in end or "b failed" in end for end in ends), "no backup fails for a prune"
    assert any("p1 mixed" not in end and "p2 dead" not in end for end in ends), "space does come back"


@pytest.mark.parametrize("eager", [False, True])
def test_a_backup_and_two_prunes_of_which_one_dies(eager: bool) -> None:
    """The second finds the record of the first, and may take its lock away."""
    count, wrong, ends = run(Rules(eager=eager), ("a", "prune1", "prune2"), crashes=2)
    assert wrong == set()
    assert count > 5_000
    assert any("prune2 done" in end and "p1 mixed" not in end for end in ends)


@pytest.mark.parametrize(
    "rules",
    [
        Rules(store_again=False, wait=False, look_once_more=False, look_again=False),
        Rules(mind_records=False),
        Rules(wait=False, look_once_more=False, look_again=False),
    ],
)
def test_without_its_rules_the_protocol_loses_data(rules: Rules) -> None:
    """The explorer finds it: what it does not find with all of them is not there."""
    assert run(rules._replace(eager=True), ("a", "b", "prune"), crashes=1)[1]


def test_the_model_does_what_prune_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same operations on the same kinds of objects in the same order."""
    small_packs(monkeypatch)
    bench = Bench(tmp_path, MemoryStore(clock=Ticks()))
    for turn in range(3):
        for number in range(turn, 12, turn + 1):
            bench.write(f"{number}", random.Random(number * turn).randbytes(300))
        bench.back_up()
    keep_last(bench.store, 1)
    order: list[str] = []
    store = FaultyStore(bench.store)
    for verb in ("put", "list", "delete"):
        for prefix in ("snapshots/", "packs/", "prunes/", "locks/backup-", "index/", "locks/prune-"):
            note = f"{verb} {prefix}"
            store.act(verb, functools.partial(order.append, note), prefix=prefix, times=None)
    run_prune(store, NOTHING_UNUSED)

    def first(note: str, after: int = 0) -> int:
        return order.index(note, after)

    snapshots = first("list snapshots/")
    packs = first("list packs/", snapshots)
    locks = first("list locks/backup-", packs)
    record = first("put prunes/", locks)
    again = first("list locks/backup-", record)
    more = first("list snapshots/", again)
    written = first("put packs/", more)
    index = first("put index/", written)
    last_locks = first("list locks/backup-", index)
    last_look = first("list snapshots/", last_locks)
    deleted = first("delete index/", last_look)
    assert first("delete packs/") > deleted
    assert "put packs/" not in order[:more]
    assert "delete packs/" not in order[:deleted]
    assert first("put locks/prune-") < snapshots
    assert order[-1] == "delete locks/prune-"


def test_the_model_does_what_a_backup_does(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("a")
    order: list[str] = []
    store = FaultyStore(bench.store)
    for verb in ("put", "list", "delete", "stat"):
        for prefix in ("snapshots/", "packs/", "prunes/", "locks/backup-"):
            note = f"{verb} {prefix}"
            store.act(verb, functools.partial(order.append, note), prefix=prefix, times=None)
    bench.store = store
    bench.back_up()
    places: list[int] = []
    for note in (
        *("put locks/backup-", "list prunes/", "list packs/", "put packs/", "stat locks/backup-"),
        *("put snapshots/", "list prunes/", "stat locks/backup-", "delete locks/backup-"),
    ):
        places.append(order.index(note, places[-1] + 1 if places else 0))
    assert places == sorted(places)
