"""A store and a dict that are told the same things."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from drkit.errors import ObjectExists, ObjectNotFound, StoreCorrupt
from drkit.store import Store


def names(store: Store, prefix: str = "", after: str = "") -> list[str]:
    """The names of the objects below a prefix and after a name, as the store lists them."""
    return [info.name for info in store.list(prefix, after=after)]


class StoreModel(RuleBasedStateMachine):
    """Puts, deletes, reads and lists, each with what it must answer."""

    known = Bundle("known")

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.objects: dict[str, bytes] = {}

    @initialize(target=known)
    def first(self) -> str:
        return "packs/00/a"

    @rule(
        target=known,
        name=st.sampled_from(["drkit.json", "packs-a", "packs/00/a", "packs/00-/a", "packs/00/b", "packs/ff/a", "x/y"]),
        data=st.binary(max_size=40),
        overwrite=st.booleans(),
    )
    def put(self, name: str, data: bytes, overwrite: bool) -> str:
        if name in self.objects and not overwrite:
            with pytest.raises(ObjectExists):
                self.store.put(name, data)
        else:
            self.store.put(name, data, overwrite=overwrite)
            self.objects[name] = data
        return name

    @rule(name=known)
    def delete(self, name: str) -> None:
        if name in self.objects:
            self.store.delete(name)
            del self.objects[name]
        else:
            with pytest.raises(ObjectNotFound):
                self.store.delete(name)

    @rule(name=known, offset=st.integers(0, 50), length=st.integers(0, 50))
    def read(self, name: str, offset: int, length: int) -> None:
        if name not in self.objects:
            for call in (self.store.get, self.store.stat):
                with pytest.raises(ObjectNotFound):
                    call(name)
            return
        data = self.objects[name]
        assert self.store.get(name) == data
        assert self.store.stat(name).size == len(data)
        if offset + length <= len(data):
            assert self.store.get_range(name, offset, length) == data[offset : offset + length]
        else:
            with pytest.raises(StoreCorrupt):
                self.store.get_range(name, offset, length)

    @rule(
        prefix=st.sampled_from(["", "p", "packs", "packs/", "packs/00", "packs/00/", "x/"]), after=known | st.just("")
    )
    def find(self, prefix: str, after: str) -> None:
        expected = [name for name in sorted(self.objects) if name.startswith(prefix) and name > after]
        assert names(self.store, prefix, after) == expected

    @invariant()
    def lists_what_there_is(self) -> None:
        found = {info.name: info.size for info in self.store.list("")}
        assert found == {name: len(data) for name, data in self.objects.items()}

    def teardown(self) -> None:
        self.store.close()
