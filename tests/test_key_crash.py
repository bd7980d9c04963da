"""Killed at every change of the store while keys are made, rotated and removed: the repository still opens."""

from __future__ import annotations

import contextlib

from drkit.errors import UsageError, WrongKey
from drkit.repo import Repository
from drkit.seal import SealedStore
from drkit.seal.keys import add_slot, delete_slot, open_slots, read_slots, rotate
from drkit.store import MemoryStore, Store
from tests.support.crash import store_crash_points
from tests.support.keys import KEY, OTHER, clear, now, source


def encrypted() -> MemoryStore:
    store = MemoryStore()
    repo = Repository.create(store, now=now(), secrets=[KEY])
    repo.store.put("locks/old", b"1")
    return store


def test_killed_while_it_is_made() -> None:
    points = 0
    for point in store_crash_points(
        MemoryStore, lambda store: Repository.create(store, now=now(), secrets=[KEY, OTHER])
    ):
        points += 1
        with contextlib.suppress(UsageError):  # the second copy of the settings is what was missing
            Repository.create(point.state, now=now(), secrets=[KEY, OTHER])
        for secret in (KEY, OTHER):
            assert isinstance(Repository.open(point.state, keys=source(secret)).store, SealedStore)
    assert points == 8


def test_killed_while_the_key_is_rotated() -> None:
    def action(store: Store) -> None:
        rotate(store, clear(store), source(KEY), (), now=now)

    epochs = set()
    for point in store_crash_points(encrypted, action):
        for _ in range(2):  # as it was left, and after another rotation
            repo = Repository.open(point.state, keys=source(KEY))
            assert isinstance(repo.store, SealedStore)
            epochs.add(repo.store.ring.current)
            assert repo.store.get("locks/old") == b"1"
            repo.store.put("locks/new", b"2", overwrite=True)
            action(point.state)
            assert len(read_slots(point.state)) == 1
            assert Repository.open(point.state, keys=source(KEY)).store.get("locks/new") == b"2"
    assert epochs == {1, 2, 3}


def test_killed_while_a_slot_is_removed() -> None:
    def two() -> MemoryStore:
        store = encrypted()
        add_slot(store, clear(store), open_slots(store, clear(store), source(KEY)).ring, OTHER, now=now)
        return store

    def action(store: Store) -> None:
        (own,) = open_slots(store, clear(store), source(OTHER)).slots
        delete_slot(store, own[0])

    for point in store_crash_points(two, action):
        with contextlib.suppress(WrongKey):
            action(point.state)
        assert len(read_slots(point.state)) == 1
        Repository.open(point.state, keys=source(KEY))
