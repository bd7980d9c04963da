"""The sealed store: ranges, sizes, listings and what it asks of the store beneath."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.errors import EndsBefore, ObjectNotFound, StoreCorrupt
from drkit.seal.cipher import CHUNK, STORED, KeyRing, plain_size, stored_size
from drkit.seal.names import STRAY
from drkit.seal.store import SealedStore, beneath, beside
from drkit.store import MemoryStore
from drkit.store.base import ObjectInfo
from drkit.store.cache import CachedStore
from drkit.store.wrap import Wrapped
from tests.support.stores import sealed


class Counting(Wrapped):
    """Notes what is asked of it; one that does not tell what a short object has, if `silent`."""

    def __init__(self, *, silent: bool = False) -> None:
        super().__init__(MemoryStore())
        self.asked: list[str] = []
        self.silent = silent
        self.spoiled = 0

    @property
    def directory(self) -> None:
        return None

    def get(self, name: str) -> bytes:
        self.asked.append("get")
        return self._spoil(self.inner.get(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self.asked.append("range")
        try:
            return self._spoil(self.inner.get_range(name, offset, length))
        except EndsBefore as error:
            if self.silent:
                raise StoreCorrupt(str(error)) from None
            raise EndsBefore(str(error), data=self._spoil(error.data)) from None

    def stat(self, name: str) -> ObjectInfo:
        self.asked.append("stat")
        return self.inner.stat(name)

    def _spoil(self, data: bytes) -> bytes:
        if not self.spoiled or not data:
            return data
        self.spoiled -= 1
        return data[:-1] + bytes((data[-1] ^ 1,))


def pack(data: bytes) -> str:
    digits = hashlib.sha256(data).hexdigest()
    return f"packs/{digits[:2]}/{digits}.zst"


def put(store: SealedStore, size: int) -> tuple[str, bytes]:
    data = os.urandom(size)
    store.put(pack(data), data)
    return pack(data), data


@pytest.mark.parametrize("size", [1, 100, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7])
def test_a_range_is_one_request_wherever_the_object_ends(size: int) -> None:
    inner = Counting()
    writer = sealed(inner)
    name, data = put(writer, size)
    for offset, length in {(0, size), (size - 1, 1), (size // 2, size - size // 2), (0, 1)}:
        reader = SealedStore(inner, writer.ring, writer.repository_id)
        inner.asked.clear()
        assert reader.get_range(name, offset, length) == data[offset : offset + length]
        assert inner.asked == ["range"]


def test_a_store_that_does_not_tell_is_asked_for_the_size_once() -> None:
    inner = Counting(silent=True)
    writer = sealed(inner)
    name, data = put(writer, 2 * CHUNK + 5)
    reader = SealedStore(inner, writer.ring, writer.repository_id)
    for _ in range(2):
        assert reader.get_range(name, CHUNK, CHUNK + 5) == data[CHUNK:]
    assert inner.asked == ["range", "stat", "range", "range"]


def test_what_a_listing_tells_of_sizes_is_remembered() -> None:
    inner = Counting(silent=True)
    writer = sealed(inner)
    name, data = put(writer, 100)
    reader = SealedStore(inner, writer.ring, writer.repository_id)
    assert [info.size for info in reader.list("packs/")] == [100]
    assert reader.get_range(name, 90, 10) == data[90:]
    assert inner.asked == ["range"]
    with pytest.raises(EndsBefore):
        reader.get_range(name, CHUNK, 1)
    assert inner.asked == ["range"]


def test_the_end_of_an_object_is_cached(tmp_path: Path) -> None:
    inner = Counting()
    writer = sealed(inner)
    name, data = put(writer, CHUNK + 50)
    for expected in (1, 0):
        inner.asked.clear()
        reader = SealedStore(CachedStore(inner, os.fsencode(tmp_path)), writer.ring, writer.repository_id)
        for _ in range(3):
            assert reader.get_range(name, CHUNK, 50) == data[CHUNK:]
        assert len(inner.asked) == expected
    files = [path.read_bytes() for path in tmp_path.iterdir()]
    assert files
    assert not any(data[CHUNK:] in file for file in files)


def test_snapshots_are_cached_as_they_are_stored(tmp_path: Path) -> None:
    inner = Counting()
    writer = sealed(inner)
    name = f"snapshots/20260301T120000.000000Z-{'ab' * 32}.json"
    writer.put(name, b"readable")
    for expected in (["get"], []):
        inner.asked.clear()
        reader = SealedStore(CachedStore(inner, os.fsencode(tmp_path)), writer.ring, writer.repository_id)
        assert reader.get(name) == b"readable"
        assert inner.asked == expected
    assert not any(b"readable" in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize("cached", [False, True])
def test_what_the_way_spoiled_is_asked_for_once_more(tmp_path: Path, *, cached: bool) -> None:
    inner = Counting()
    writer = sealed(inner)
    name, data = put(writer, 500)
    store = CachedStore(inner, os.fsencode(tmp_path)) if cached else inner
    reader = SealedStore(store, writer.ring, writer.repository_id)
    inner.spoiled = 1
    assert reader.get_range(name, 10, 20) == data[10:30]
    inner.spoiled = 1
    assert reader.get(name) == data
    inner.spoiled = 2
    with pytest.raises(StoreCorrupt, match="does not authenticate"):
        reader.get(name)


@given(st.integers(0, 5 * STORED))
def test_sizes_agree(size: int) -> None:
    assert plain_size(stored_size(size)) == size
    assert 0 <= plain_size(size) <= max(0, size - 36)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3 * CHUNK), st.data())
def test_every_range_is_that_of_the_plaintext(size: int, data: st.DataObject) -> None:
    store = sealed(MemoryStore())
    name, plain = put(store, size)
    offset = data.draw(st.integers(0, size + CHUNK))
    length = data.draw(st.integers(0, size + CHUNK))
    reader = SealedStore(store.inner, store.ring, store.repository_id)
    if offset + length <= size:
        assert reader.get_range(name, offset, length) == plain[offset : offset + length]
    else:
        with pytest.raises(EndsBefore):
            reader.get_range(name, offset, length)


def test_listings_are_in_the_order_of_plain_names() -> None:
    store = sealed(MemoryStore())
    names = sorted(
        [f"packs/{number:02x}/{number:02x}{'0' * 62}.zst" for number in range(40)]
        + [f"snapshots/2026030{number}T120000.000000Z-{'ab' * 32}.json" for number in range(1, 9)]
        + ["a", "a-b", "a.b", "a/b", "locks/backup-1", "keys/x.json"]
    )
    for name in reversed(names):
        store.put(name, name.encode())
    assert [info.name for info in store.list("")] == names
    for prefix in (
        "packs/",
        "packs/1",
        "packs/10/1000",
        "snap",
        "snapshots/20260303",
        "a",
        "a-",
        "locks/",
        "keys/",
        "none",
    ):
        for after in ("", "a", "a-b", "packs/10", "packs/11/1100000000", "snapshots/20260303", names[-1]):
            listed = [info.name for info in store.list(prefix, after=after)]
            assert listed == [name for name in names if name.startswith(prefix) and name > after], (prefix, after)


def test_strangers_are_listed_as_what_they_are() -> None:
    store = sealed(MemoryStore())
    name, _ = put(store, 10)
    stranger = f"packs/ab/{'ab' * 32}.zst"
    store.inner.put(stranger, b"x")
    assert {info.name for info in store.list("packs/")} == {name, stranger + STRAY}
    with pytest.raises(ObjectNotFound):
        store.get(stranger)


def test_beside_and_beneath() -> None:
    store = sealed(MemoryStore())
    other = beside(store, MemoryStore("other"))
    assert isinstance(other, SealedStore)
    other.put("a", b"1")
    assert beneath(other, "a") == (other.inner, "a.enc")
    store.inner.put("a.enc", other.inner.get("a.enc"))
    assert store.get("a") == b"1"
    assert beside(other.inner, store.inner) is store.inner
    assert beneath(store.inner, "a") == (store.inner, "a")


def test_errors_name_the_object_as_the_caller_does() -> None:
    store = sealed(MemoryStore())
    with pytest.raises(ObjectNotFound, match=r"packs/ab/(ab){32}\.zst$"):
        store.get(f"packs/ab/{'ab' * 32}.zst")


def test_an_epoch_that_the_ring_lacks_is_told() -> None:
    store = sealed(MemoryStore())
    later = KeyRing(store.ring.name_key, {**store.ring.masters, 2: os.urandom(32)}, 2)
    SealedStore(store.inner, later, store.repository_id).put("a", b"1")
    with pytest.raises(StoreCorrupt, match="key of epoch 2"):
        store.get("a")
