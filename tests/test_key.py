"""What opens an encrypted repository: slots, secrets, and the commands that manage them."""

from __future__ import annotations

import base64
import builtins
import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from drkit.clock import utc_now
from drkit.copy import copy
from drkit.doctor.repository import _slots
from drkit.errors import IntegrityError, LockedError, StoreError, UsageError, WrongKey
from drkit.format import settings
from drkit.progress import NullProgress
from drkit.repair import repair
from drkit.repo import Repository, opening
from drkit.repo.lock import KeyLock
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
from drkit.seal.secret import key_lines, new_key, parse_key, read_key_file
from drkit.seal.sheet import code_text
from drkit.store import LocalStore, MemoryStore, Store
from drkit.store.wrap import AppendOnly
from tests.support.cli import Cli
from tests.support.crash import store_crash_points
from tests.support.repos import START, Bench

KEY = new_key()
OTHER = new_key()


def now() -> datetime:
    return datetime(2026, 3, 1, tzinfo=UTC)


def source(*secrets: Secret) -> KeySource:
    """Return a source that gives these, and reads nothing."""
    keys = KeySource({})
    keys._secrets = secrets  # no file needed for a key
    return keys


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    Repository.create(store, now=now(), secrets=[KEY])
    return store


def clear(store: Store) -> settings.Settings:
    return opening.read_settings(store)[0]


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


# Killed at every change of the store


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


# Secrets


def test_a_key_is_read_as_base64_and_from_the_lines_of_a_sheet(tmp_path: Path) -> None:
    text = base64.b64encode(KEY.data).decode()
    lines = key_lines(KEY.data)
    for good in (text, f" {text[:20]}\n{text[20:]}\n", "\n".join(lines), "\n\n".join(lines[::-1]).upper()):
        assert parse_key(good) == KEY.data
    assert parse_key("before\n" + "\n".join(line.replace(" ", "") for line in lines) + "\nafter: 1") == KEY.data
    for number, line in enumerate(lines):
        digit = "0" if line[3] != "0" else "1"
        with pytest.raises(ValueError, match=f"line {number + 1}"):
            parse_key("\n".join([*lines[:number], line[:3] + digit + line[4:], *lines[number + 1 :]]))
        with pytest.raises(ValueError, match=f"line {number + 1}"):
            parse_key("\n".join([*lines[:number], *lines[number + 1 :]]))
    with pytest.raises(ValueError, match="line 2 of the key is mistyped"):
        parse_key("\n".join([*lines, lines[0].replace("1:", "2:")]))
    for bad in ("", "!", text[:-4], text + "AAAA"):
        with pytest.raises(ValueError, match="it "):
            parse_key(bad)
    (tmp_path / "bad").write_bytes(b"\xff")
    for path in ("bad", "none"):
        with pytest.raises(UsageError, match=path):
            read_key_file(str(tmp_path / path))


def test_where_a_passphrase_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_bytes(b"two words\r\n")
    key = tmp_path / "k"
    key.write_text(base64.b64encode(KEY.data).decode())
    asked: list[str] = []

    def ask() -> str:
        asked.append("")
        return "typed"

    def secrets(**environ: str) -> tuple[Secret, ...]:
        found = KeySource(environ, prompt=ask)
        assert found.secrets() is found.secrets()
        return found.secrets()

    passphrase = Secret("passphrase", b"two words")
    assert secrets(DRKIT_PASSWORD="two words") == (passphrase,)
    assert secrets(DRKIT_PASSWORD_FILE=str(file), DRKIT_PASSWORD_COMMAND="false") == (passphrase,)
    assert secrets(DRKIT_PASSWORD_COMMAND="echo two words") == (passphrase,)
    assert secrets(DRKIT_KEY_FILE=str(key), DRKIT_PASSWORD="two words") == (KEY, passphrase)
    assert secrets(DRKIT_KEY_FILE=str(key)) == (KEY,)
    assert asked == []
    assert secrets() == (Secret("passphrase", b"typed"),)
    assert len(asked) == 1
    for environ in (
        {"DRKIT_PASSWORD_COMMAND": "false"},
        {"DRKIT_PASSWORD_COMMAND": "'"},
        {"DRKIT_PASSWORD_FILE": "/no"},
    ):
        with pytest.raises(UsageError, match=r"DRKIT_PASSWORD_COMMAND|cannot read the password file"):
            secrets(**environ)
    with pytest.raises(UsageError, match=r"it ended with 1$") as caught:
        secrets(DRKIT_PASSWORD_COMMAND="sh -c 'exit 1' my-own-secret")
    assert "my-own-secret" not in str(caught.value)


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


# Commands


def test_the_commands(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("content that nobody reads")
    cli = Cli(tmp_path, DRKIT_REPO="repo", DRKIT_INVENTORY="inventory.db")
    assert cli("init", "--encrypt").code == 2
    assert cli("init", "--key-file", "k").code == 2
    assert cli.ok("init", "--encrypt", "--key-file", "k", "--json").json["encrypted"] is True
    assert stat.S_IMODE(os.stat(tmp_path / "k").st_mode) == 0o600
    assert cli("init", "--encrypt", "--key-file", "k2").code == 2
    assert not (tmp_path / "k2").exists()
    assert len(cli.ok("key", "list", "--json").json["slots"]) == 1  # no key needed
    for command in (["snapshots"], ["backup", "source"], ["verify"], ["key", "add"], ["key", "export"], ["prune"]):
        assert cli(*command, "--json").error["code"] == 12
    cli.environ["DRKIT_PASSWORD"] = "wrong"
    assert cli("snapshots", "--json").error["message"] == "the key that was given does not open " + str(
        tmp_path / "repo"
    )
    del cli.environ["DRKIT_PASSWORD"]
    cli.environ["DRKIT_KEY_FILE"] = "k"
    cli.ok("backup", "source", "--verify", "restore")
    assert not any(b"nobody reads" in path.read_bytes() for path in (tmp_path / "repo").rglob("*") if path.is_file())

    cli.environ["DRKIT_NEW_PASSWORD"] = "correct horse"
    added = cli.ok("key", "add", "--label", "ann", "--json").json
    assert (added["kind"], added["label"], added["twice"]) == ("passphrase", "ann", True)
    sheet = cli.ok("key", "export", "--output", "sheet.txt", "--qr", "code.svg", "--json").json
    assert b"<svg" in (tmp_path / "code.svg").read_bytes()
    assert all(line in (tmp_path / "sheet.txt").read_text() for line in sheet["lines"])
    assert "█" in (tmp_path / "sheet.txt").read_text()
    assert stat.S_IMODE(os.stat(tmp_path / "sheet.txt").st_mode) == 0o600
    assert cli("key", "export", "--output", "sheet.txt").code == 2
    assert cli("key", "export", "--qr", "code.gif").code == 2
    assert len(cli.ok("key", "list", "--json").json["slots"]) == 3
    for environ in ({"DRKIT_PASSWORD": "correct horse"}, {"DRKIT_KEY_FILE": "sheet.txt"}):
        other = Cli(tmp_path, DRKIT_REPO="repo", DRKIT_INVENTORY="inventory.db", **environ)
        assert other.ok("cat", "latest", "file").out == b"content that nobody reads"

    (tmp_path / "empty").write_text("\n")
    cli.environ["DRKIT_NEW_PASSWORD_FILE"] = "empty"
    del cli.environ["DRKIT_NEW_PASSWORD"]
    assert "is empty" in cli("key", "add").err
    assert cli("key", "rotate").code == 2
    (tmp_path / "password").write_text("correct horse\n")
    rotated = cli.ok("key", "rotate", "--password-file", "password", "--drop-others", "--json").json
    assert [slot["label"] for slot in rotated["slots"]] == ["", "ann"]
    assert [slot["id"] for slot in rotated["dropped"]] == [sheet["id"]]
    cli.ok("copy", "--to", "copy", "--verify", "content")
    cli.ok("verify", "--all", "--level", "content")
    ann = next(slot["id"] for slot in rotated["slots"] if slot["label"] == "ann")
    for wrong in ("", "zz"):
        assert cli("key", "remove", wrong).code == 2
    cli.ok("key", "remove", ann[:10])
    (last,) = cli.ok("key", "list", "--json").json["slots"]
    assert "last key slot" in cli("key", "remove", last["id"]).err
    assert "1 of" not in cli.ok("key", "list").text


def test_slots_are_changed_by_one_at_a_time(tmp_path: Path) -> None:
    cli = Cli(tmp_path, DRKIT_REPO="repo", DRKIT_INVENTORY="inventory.db", DRKIT_KEY_FILE="k")
    cli.ok("init", "--encrypt", "--key-file", "k")
    slot = cli.ok("key", "add", "--key-file", "k2", "--json").json["id"]
    keys = KeySource({"DRKIT_KEY_FILE": str(tmp_path / "k")})
    repo = Repository.open(LocalStore(bytes(tmp_path / "repo")), keys=keys)
    assert isinstance(repo.store, SealedStore)
    with KeyLock(repo.store, utc_now):
        for command in (["remove", slot[:8]], ["rotate", "--drop-others"], ["add", "--key-file", "k3"], ["export"]):
            assert cli("key", *command, "--json").error["code"] == 11
        assert len(cli.ok("key", "list", "--json").json["slots"]) == 2
        assert not (tmp_path / "k3").exists()
    assert cli("key", "export", "--output", "no/such/place", "--json").error["code"] == 2
    assert len(cli.ok("key", "list", "--json").json["slots"]) == 2
    for name in slot_names(slot):
        repo.store.inner.put(name, b"damaged", overwrite=True)
    listed = cli("key", "list", "--json")
    assert (listed.code, listed.json["damaged"]) == (3, [slot])
    cli.ok("key", "remove", slot[:8])
    assert cli.ok("key", "list", "--json").json["damaged"] == []
    assert not list(repo.store.list("locks/"))


def test_key_commands_on_a_repository_in_clear(tmp_path: Path) -> None:
    cli = Cli(tmp_path, DRKIT_REPO="repo")
    cli.ok("init")
    assert "is not encrypted" in cli("key", "list").err
    LocalStore(os.fsencode(tmp_path / "repo")).stat("drkit.json")
