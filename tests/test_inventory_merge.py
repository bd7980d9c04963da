"""Small objects of an inventory are joined, and nothing of what they say is lost on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.inventory.merge import merge_objects
from drkit.inventory.objects import read_objects, store_rows
from drkit.store.memory import MemoryStore
from tests.support.crash import store_crash_points
from tests.support.recording import REPO, content, opened, record_backup, record_verification


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    """Twenty commands, each with an object of its own."""
    made = MemoryStore()
    with opened(tmp_path / "first.db") as inventory:
        for number in range(10):
            snapshot = record_backup(inventory, number)
            store_rows(inventory, made, REPO)
            record_verification(inventory, snapshot)
            store_rows(inventory, made, REPO)
    return made


def rows(store: MemoryStore, place: Path) -> dict[str, list[tuple[object, ...]]]:
    """What a rebuild brings back; the second time nothing is added."""
    with opened(place) as inventory:
        assert read_objects(inventory, store, REPO).findings == ()
        found = content(inventory)
        read_objects(inventory, store, REPO)
        assert content(inventory) == found
        return dict(found)


def names(store: MemoryStore) -> list[str]:
    return [info.name for info in store.list("inventory/")]


def test_what_is_joined_is_all_there(store: MemoryStore, tmp_path: Path) -> None:
    before = rows(store, tmp_path / "before.db")
    assert len(names(store)) == 20
    assert merge_objects(store) == 20
    assert len(names(store)) == 1
    assert rows(store, tmp_path / "after.db") == before
    assert merge_objects(store) == 0


def test_few_objects_and_strange_ones_are_left_alone(store: MemoryStore) -> None:
    for name in names(store)[:5]:
        store.delete(name)
    assert merge_objects(store) == 0
    store.put(f"inventory/{'0' * 32}-1-00000000.jsonl.zst", b"junk")
    damaged = names(store)[3]
    store.put(damaged, b"junk", overwrite=True)
    store.put(damaged[:42] + "-999999-00000000.jsonl.zst", b"junk")
    assert merge_objects(store) == 14
    assert damaged in names(store)
    assert len(names(store)) == 4


def test_dying_at_any_call(store: MemoryStore, tmp_path: Path) -> None:
    before = rows(store, tmp_path / "before.db")

    def copied() -> MemoryStore:
        other = MemoryStore()
        for info in store.list(""):
            other.put(info.name, store.get(info.name))
        return other

    for point in store_crash_points(copied, merge_objects):
        assert isinstance(point.state, MemoryStore)
        assert rows(point.state, tmp_path / f"{point.number}.db") == before
        merge_objects(point.state)
        assert rows(point.state, tmp_path / f"{point.number}-again.db") == before
