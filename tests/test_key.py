"""What opens an encrypted repository: its slots, its copies, and its settings."""

from __future__ import annotations

import base64
import builtins
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from drkit.copy import copy
from drkit.doctor.repository import _slots
from drkit.errors import IntegrityError, LockedError, StoreError, UsageError, WrongKey
from drkit.format import settings
from drkit.progress import NullProgress
from drkit.repair import repair
from drkit.repo import Repository, opening
from drkit.seal import KeySource, SealedStore, Secret
from drkit.seal.keys import (
    FoundSlot,
    add_slot,
    damaged_slots,
    delete_slot,
    make_slot,
    new_ring,
    next_epoch,
    open_slots,
    put_slot,
    read_slots,
    rotate,
    slot_names,
)
from drkit.seal.secret import new_key
from drkit.seal.sheet import code_text
from drkit.store import MemoryStore
from drkit.store.wrap import AppendOnly
from tests.support.keys import KEY, OTHER, clear, now, source
from tests.support.repos import START, Bench


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    Repository.create(store, now=now(), secrets=[KEY])
    return store


# Slots


def test_a_slot_opens_with_its_secret_only(store: MemoryStore) -> None:
    opened = open_slots(store, clear(store), source(KEY))
    assert [secret for _, secret in opened.slots] == [KEY]
    for wrong in (OTHER, Secret("passphrase", KEY.data), Secret("keyfile", KEY.data[:-1] + b"x")):
        with pytest.raises(WrongKey, match="the key that was given does not open"):
            open_slots(store, clear(store), source(wrong))
    with pytest.raises(WrongKey, match="no key was given") as caught:
        open_slots(store, clear(store), source())
    assert "DRKIT_PASSWORD_FILE" in caught.value.hint


@pytest.mark.parametrize("key", ["kind", "created", "host", "label", "replaces", "wrapped"])
def test_nothing_in_a_slot_can_be_changed(store: MemoryStore, key: str) -> None:
    (slot,) = read_slots(store)
    delete_slot(store, slot.id)
    plain: dict[str, Any] = msgspec.json.decode(slot.data)
    plain[key] = {"kind": "passphrase", "replaces": ["x"], "wrapped": "A" + plain["wrapped"][1:]}.get(key, "other")
    data = settings.canonical(plain)
    put_slot(store, FoundSlot(hashlib.sha256(data).hexdigest(), slot.slot, data, False))
    assert len(read_slots(store)) == 1
    with pytest.raises(WrongKey):
        open_slots(store, clear(store), source(KEY))


def test_one_of_two_copies_is_enough_and_repair_brings_the_other_back(store: MemoryStore) -> None:
    (slot,) = read_slots(store)
    first, second = slot_names(slot.id)
    for name in (first, second):
        store.put(name, b"damaged", overwrite=True)
        assert [found.twice for found in read_slots(store, both=True)] == [False]
        Repository.open(store, keys=source(KEY))
        report = repair(store, (), progress=NullProgress(), now=now, keys=source(KEY))
        assert [healed.object for healed in report.healed] == [name]
        assert [found.twice for found in read_slots(store, both=True)] == [True]
    copied = MemoryStore("copied")
    copy(Repository.open(store, keys=source(KEY)), copied, progress=NullProgress(), now=now)
    add_slot(store, clear(store), open_slots(store, clear(store), source(KEY)).ring, OTHER, now=now)
    removed = add_slot(copied, clear(copied), open_slots(copied, clear(copied), source(KEY)).ring, new_key(), now=now)
    for name in (first, second):
        store.put(name, b"damaged", overwrite=True)
    assert damaged_slots(store) == [slot.id]
    assert [one.code for one in _slots(Repository.open(store, keys=source(OTHER)))] == ["key-slot-damaged"]
    repair(store, [copied], progress=NullProgress(), now=now, keys=source(KEY, OTHER))
    assert damaged_slots(store) == []
    assert slot.id in {one.id for one in read_slots(store)}
    assert removed.id not in {one.id for one in read_slots(store)}
    for one in read_slots(store):
        if one.id != slot.id:
            delete_slot(store, one.id)
    store.delete(first)
    store.put(second, b"damaged", overwrite=True)
    with pytest.raises(IntegrityError, match="none of its key slots"):
        Repository.open(store, keys=source(KEY))


def test_rotating_keeps_what_opens_and_seals_anew(store: MemoryStore) -> None:
    before = Repository.open(store, keys=source(KEY))
    before.store.put("locks/old", b"1")
    config = clear(store)
    ring = open_slots(store, config, source(KEY)).ring
    add_slot(store, config, ring, OTHER, now=now, label="other")
    with pytest.raises(UsageError, match=r"would be lost .*other"):
        rotate(store, config, source(KEY), (), now=now)
    with pytest.raises(UsageError, match="opens no slot"):
        rotate(store, config, source(KEY), (OTHER, new_key()), now=now)
    assert len(read_slots(store)) == 2
    new, dropped = rotate(store, config, source(KEY), (OTHER,), now=now)
    assert (len(new), dropped) == (2, [])
    for secret in (KEY, OTHER):
        after = Repository.open(store, keys=source(secret))
        assert isinstance(after.store, SealedStore)
        assert after.store.ring.current == 2
        assert after.store.get("locks/old") == b"1"
        after.store.put("locks/new", b"2", overwrite=True)
    with pytest.raises(StoreError, match="epoch 2"):
        before.store.get("locks/new")
    new, dropped = rotate(store, config, source(KEY), (), drop=True, now=now)
    assert [slot.slot.label for slot in dropped] == ["other"]
    with pytest.raises(WrongKey):
        Repository.open(store, keys=source(OTHER))
    assert Repository.open(store, keys=source(KEY)).config == after.config


def test_the_newest_ring_counts(store: MemoryStore) -> None:
    (old,) = read_slots(store)
    rotate(store, clear(store), source(KEY), (), now=now)
    put_slot(store, old)  # somebody has kept it
    assert open_slots(store, clear(store), source(KEY)).ring.current == 2


def test_a_rotation_that_meets_another_gives_up(store: MemoryStore) -> None:
    config = clear(store)
    real = rotate.__globals__["_put_proved"]
    assert config.encryption is not None
    key = OTHER.key(config.encryption.kdf, config.repository_id)
    foreign = make_slot(new_ring(), key, kind="keyfile", repository_id=config.repository_id, now=START)

    def meet(*args: Any) -> None:
        real(*args)
        put_slot(store, foreign)

    before = {slot.id for slot in read_slots(store)}
    with mock.patch("drkit.seal.keys._put_proved", meet), pytest.raises(LockedError):
        rotate(store, config, source(KEY), (), now=now)
    assert {slot.id for slot in read_slots(store)} == before | {foreign.id}


def test_too_many_rotations() -> None:
    ring = new_ring()
    for _ in range(254):
        ring = next_epoch(ring)
    with pytest.raises(UsageError, match="254 times"):
        next_epoch(ring)


# Copies


def test_a_copy_opens_with_the_same_keys_and_rotations_travel(tmp_path: Path) -> None:
    bench = Bench(tmp_path, MemoryStore("plain"))
    store = MemoryStore("here")
    repo = Repository.create(store, now=START, secrets=[KEY])
    bench.store = repo.store
    bench.plugin("plugins/p0")
    bench.back_up()
    there, kept = MemoryStore("there"), MemoryStore("kept")
    for target in (there, AppendOnly(kept)):
        assert not copy(repo, target, progress=NullProgress(), now=now).findings
    for name in ("drkit.json", "drkit-copy.json"):
        assert there.get(name) == store.get(name)
    assert [info.name for info in there.list("packs/")] == [info.name for info in store.list("packs/")]
    old = {slot.id for slot in read_slots(store)}
    for _ in range(2):  # a copy may miss one
        rotate(store, clear(store), source(KEY), (), now=now)
    repo = Repository.open(store, keys=source(KEY))
    bench.store = repo.store
    bench.plugin("plugins/p1")
    bench.back_up()
    assert not copy(repo, there, progress=NullProgress(), now=now).findings
    assert {slot.id for slot in read_slots(there)} == {slot.id for slot in read_slots(store)}
    assert [finding.code for finding in copy(repo, AppendOnly(kept), progress=NullProgress(), now=now).findings] == [
        "key-kept"
    ]
    assert {slot.id for slot in read_slots(kept)} == {slot.id for slot in read_slots(store)} | old
    for target in (there, kept):
        copied = Repository.open(target, keys=source(KEY))
        assert [ref.id for ref in copied.snapshots()] == [ref.id for ref in repo.snapshots()]
        assert list(copied.plugins(copied.load(copied.snapshots()[-1])))


def test_a_repository_that_lost_its_keys_gets_them_from_a_copy(store: MemoryStore) -> None:
    repo = Repository.open(store, keys=source(KEY))
    there = MemoryStore("there")
    copy(repo, there, progress=NullProgress(), now=now)
    for info in list(store.list("keys/")):
        store.delete(info.name)
    report = repair(store, [there], progress=NullProgress(), now=now, keys=source(KEY))
    assert {healed.object for healed in report.healed} == {info.name for info in there.list("keys/")}
    Repository.open(store, keys=source(KEY))


def test_a_key_from_before_a_rotation_repairs_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, MemoryStore("plain"))
    place, copied = MemoryStore("rotated"), MemoryStore("behind")
    repo = Repository.create(place, now=now(), secrets=[KEY])
    add_slot(place, clear(place), open_slots(place, clear(place), source(KEY)).ring, OTHER, now=now)
    copy(repo, copied, progress=NullProgress(), now=now)
    rotate(place, clear(place), source(KEY), [], drop=True, now=now)
    bench.write("file", b"after")
    bench.store = Repository.open(place, keys=source(KEY)).store
    bench.back_up()
    held = {info.name: place.get(info.name) for info in place.list("")}
    with pytest.raises(WrongKey):
        repair(place, [copied], progress=NullProgress(), now=now, keys=source(OTHER))
    for name in ("drkit.json", "drkit-copy.json"):
        place.delete(name)
    with pytest.raises(WrongKey):
        repair(place, [copied], progress=NullProgress(), now=now, keys=source(OTHER))
    left = {info.name: place.get(info.name) for info in place.list("")}
    assert left == {name: data for name, data in held.items() if not name.startswith("drkit")}


def test_a_slot_that_was_removed_does_not_come_back_by_repair(store: MemoryStore) -> None:
    config = clear(store)
    added = add_slot(store, config, open_slots(store, config, source(KEY)).ring, OTHER, now=now)
    there = MemoryStore("there")
    copy(Repository.open(store, keys=source(KEY)), there, progress=NullProgress(), now=now)
    delete_slot(store, added.id)
    assert repair(store, [there], progress=NullProgress(), now=now, keys=source(KEY)).healed == ()
    assert len(read_slots(store)) == 1


# Settings


def test_settings_in_clear_that_were_changed_are_refused(store: MemoryStore) -> None:
    plain: dict[str, Any] = msgspec.json.decode(store.get("drkit.json"))
    assert set(plain) == {"checksum", "encryption", "format", "repository_id", "sealed"}
    for change in (
        {"repository_id": "0" * 32},
        {"format": {"major": 1, "minor": 1, "requires": ["encryption"]}},
        {"sealed": base64.b64encode(b"x" * 60).decode()},
    ):
        forged = {**plain, **change}
        del forged["checksum"]
        forged["checksum"] = hashlib.sha256(settings.canonical(forged)).hexdigest()
        for name in opening.SETTINGS_NAMES:
            store.put(name, settings.canonical(forged), overwrite=True)
        with pytest.raises((IntegrityError, WrongKey)):
            Repository.open(store, keys=source(KEY))


def test_a_key_for_a_repository_in_clear_is_no_reason_to_write_in_clear() -> None:
    store = MemoryStore()
    Repository.create(store, now=now())
    repo = Repository.open(store, keys=KeySource({"DRKIT_PASSWORD": "x"}))
    with pytest.raises(UsageError, match="is not encrypted"):
        repo.check_writable()
    Repository.open(store, keys=KeySource({})).check_writable()


def test_without_cryptography_it_says_what_to_install(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith(("cryptography", "segno")):
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    for action in (
        lambda: Repository.open(store, keys=source(KEY)),
        lambda: Repository.create(MemoryStore(), now=now(), secrets=[KEY]),
        lambda: code_text(KEY),
    ):
        with pytest.raises(UsageError, match="is not installed") as caught:
            action()
        assert caught.value.hint == "pip install 'drkit[encrypt]'"
