"""Key slots: the key ring of a repository, wrapped for each passphrase and key file (docs/format.md, section 13)."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct, structs

from drkit.errors import (
    IntegrityError,
    LockedError,
    ObjectExists,
    ObjectNotFound,
    StoreCorrupt,
    StoreError,
    UsageError,
    WrongKey,
)
from drkit.format.settings import EncryptionSettings, KdfSettings, Settings, canonical
from drkit.seal.cipher import EPOCHS, MASTER, KeyRing, need_cryptography
from drkit.seal.names import NAME_KEY
from drkit.seal.secret import KeySource, Kind, Secret
from drkit.store.base import Store

FOLDER = "keys/"
_NAME = re.compile(r"keys/([0-9a-f]{64})(-copy)?\.json")
_NONCE = 12
_GIVE = "set DRKIT_PASSWORD_FILE, DRKIT_PASSWORD_COMMAND, DRKIT_PASSWORD or DRKIT_KEY_FILE"
_DROP = "give their secrets with --key-file and --password-file, or give them up with --drop-others"
_KEYS_BACK = "bring the repository's keys/ back from a copy: 'drkit repair --from URL'"


class Slot(Struct, frozen=True):
    """A key slot: everything but `wrapped` is for people, and authenticated. `replaces` holds ids of older slots."""

    kind: Kind
    created: str
    host: str
    label: str
    replaces: tuple[str, ...]
    wrapped: str


class FoundSlot(Struct, frozen=True):
    """A slot that is stored, with the SHA-256 of its bytes; `twice` tells whether its second copy is right as well."""

    id: str
    slot: Slot
    data: bytes
    twice: bool


class Opened(Struct, frozen=True):
    """The newest key ring that the given secrets open, and which slots each secret opens."""

    ring: KeyRing
    slots: tuple[tuple[str, Secret], ...]


def new_encryption() -> EncryptionSettings:
    """Return the settings of a new encrypted repository."""
    return EncryptionSettings(KdfSettings(base64.b64encode(os.urandom(16)).decode()))


def new_ring() -> KeyRing:
    """Return new keys."""
    return KeyRing(os.urandom(NAME_KEY), {1: os.urandom(MASTER)}, 1)


def next_epoch(ring: KeyRing) -> KeyRing:
    """Return a ring with a new master key for what will be written. UsageError if there were too many."""
    epoch = ring.current + 1
    if epoch > EPOCHS:
        raise UsageError(f"the key was rotated {EPOCHS - 1} times, which is the limit")
    return KeyRing(ring.name_key, {**ring.masters, epoch: os.urandom(MASTER)}, epoch)


def make_slot(
    ring: KeyRing,
    key: bytes,
    *,
    kind: Kind,
    repository_id: str,
    now: datetime,
    label: str = "",
    replaces: Sequence[str] = (),
) -> FoundSlot:
    """Return a slot that `key` opens, yet to be stored."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    created = now.astimezone(UTC).isoformat(timespec="seconds")
    slot = Slot(kind, created, os.uname().nodename, label, tuple(replaces), "")
    nonce = os.urandom(_NONCE)
    wrapped = nonce + AESGCM(key).encrypt(nonce, _encode_ring(ring), _about(slot, repository_id))
    slot = structs.replace(slot, wrapped=base64.b64encode(wrapped).decode())
    data = msgspec.json.format(canonical(msgspec.to_builtins(slot)), indent=2) + b"\n"
    return FoundSlot(hashlib.sha256(data).hexdigest(), slot, data, False)


def check_new(secret: Secret) -> None:
    """Raise UsageError for a passphrase that is none."""
    if not secret.data:
        raise UsageError("the passphrase is empty", hint="choose one that nobody guesses: six random words")


def put_slot(store: Store, slot: FoundSlot) -> None:
    """Store a slot, twice."""
    for name in slot_names(slot.id):
        with contextlib.suppress(ObjectExists):
            store.put(name, slot.data)


def delete_slot(store: Store, slot_id: str) -> None:
    """Remove a slot, both copies of it."""
    for name in slot_names(slot_id):
        with contextlib.suppress(ObjectNotFound):
            store.delete(name)


def slot_names(slot_id: str) -> tuple[str, str]:
    """Return the names of a slot's two copies."""
    return f"{FOLDER}{slot_id}.json", f"{FOLDER}{slot_id}-copy.json"


def slot_id_of(name: str) -> str | None:
    """Return the slot that an object name names, or None if it is none."""
    match = _NAME.fullmatch(name)
    return match[1] if match else None


def read_slots(store: Store, *, both: bool = False) -> list[FoundSlot]:
    """Return the slots of which a copy is intact, oldest first; with `both`, look at the second of each, too."""
    slots = []
    for slot_id in _stored(store):
        if copies := _intact(store, slot_id, both=both):
            with contextlib.suppress(msgspec.MsgspecError, UnicodeError):  # of a later version
                slot = msgspec.json.decode(copies[0], type=Slot)
                slots.append(FoundSlot(slot_id, slot, copies[0], len(copies) == 2))
    return sorted(slots, key=lambda found: (found.slot.created, found.id))


def damaged_slots(store: Store) -> list[str]:
    """Return the ids of the slots of which no copy is intact: their secrets open nothing any more."""
    return [slot_id for slot_id in _stored(store) if not _intact(store, slot_id, both=False)]


def _stored(store: Store) -> list[str]:
    return list(dict.fromkeys(found for info in store.list(FOLDER) if (found := slot_id_of(info.name))))


def _intact(store: Store, slot_id: str, *, both: bool) -> list[bytes]:
    copies: list[bytes] = []
    for name in slot_names(slot_id):
        with contextlib.suppress(ObjectNotFound, StoreCorrupt):
            data = store.get(name)
            if hashlib.sha256(data).hexdigest() == slot_id:
                copies.append(data)
        if copies and not both:
            break
    return copies


def open_slots(store: Store, config: Settings, keys: KeySource, slots: Iterable[FoundSlot] | None = None) -> Opened:
    """Open what the secrets open; each passphrase is computed once for all slots.

    WrongKey if nothing opens, or if there is no secret; IntegrityError if there are no slots.
    """
    need_cryptography()
    assert config.encryption is not None
    found = read_slots(store) if slots is None else list(slots)
    if not found:
        raise no_slots(store)
    secrets = keys.secrets()
    if not secrets:
        raise WrongKey(f"{store.url} is encrypted, and no key was given", hint=_GIVE)
    rings: list[KeyRing] = []
    opened: list[tuple[str, Secret]] = []
    for secret in secrets:
        key = keys.key(secret, config.encryption.kdf, config.repository_id)
        for one in found:
            if one.slot.kind == secret.kind and (ring := _unwrap(one.slot, key, config.repository_id)):
                rings.append(ring)
                opened.append((one.id, secret))
    if not rings:
        raise WrongKey(f"the key that was given does not open {store.url}")
    return Opened(max(rings, key=lambda ring: ring.current), tuple(opened))


def no_slots(store: Store) -> IntegrityError:
    """Return what is to be said where no slot is left."""
    return IntegrityError(f"{store.url} is encrypted, and none of its key slots is left", hint=_KEYS_BACK)


def add_slot(
    store: Store, config: Settings, ring: KeyRing, secret: Secret, *, now: Callable[[], datetime], label: str = ""
) -> FoundSlot:
    """Store a slot for a secret, and prove that it opens. UsageError if the secret is none."""
    check_new(secret)
    assert config.encryption is not None
    key = secret.key(config.encryption.kdf, config.repository_id)
    slot = make_slot(ring, key, kind=secret.kind, repository_id=config.repository_id, now=now(), label=label)
    _put_proved(store, slot, key, ring, config.repository_id)
    return slot


def rotate(
    store: Store,
    config: Settings,
    keys: KeySource,
    others: Sequence[Secret],
    *,
    drop: bool = False,
    now: Callable[[], datetime],
) -> tuple[list[FoundSlot], list[FoundSlot]]:
    """Write with a new master key from now on; return the new slots, and the old ones that are gone without one.

    The new slots are for the secrets of `keys` that open one, and for `others`. UsageError if slots are left that none
    of them opens, unless these are to `drop`. All new ones are stored before the first old one is taken away: killed
    anywhere, every secret that opened a slot still does. LockedError if somebody else changes slots at this moment.
    """
    assert config.encryption is not None
    old = read_slots(store)
    opened = open_slots(store, config, keys, old)
    ring = next_epoch(opened.ring)
    given = {
        secret: keys.key(secret, config.encryption.kdf, config.repository_id)
        for secret in (*(secret for _, secret in opened.slots), *others)
    }
    own = {
        secret: [one for one in old if one.slot.kind == secret.kind and _unwrap(one.slot, key, config.repository_id)]
        for secret, key in given.items()
    }
    if any(not slots for slots in own.values()):
        raise UsageError("a secret that was given opens no slot", hint="check the files that you named")
    kept = {one.id for slots in own.values() for one in slots}
    dropped = [one for one in old if one.id not in kept]
    if dropped and not drop:
        left = ", ".join(f"{one.id[:12]} ({one.slot.label or one.slot.kind})" for one in dropped)
        raise UsageError(f"slots would be lost of which no secret was given: {left}", hint=_DROP)
    new: list[FoundSlot] = []
    for secret, key in given.items():
        slot = make_slot(
            ring,
            key,
            kind=secret.kind,
            repository_id=config.repository_id,
            now=now(),
            label=own[secret][0].slot.label,
            replaces=sorted(superseded(old).union(one.id for one in old)),  # a copy may have missed a rotation
        )
        _put_proved(store, slot, key, ring, config.repository_id)
        new.append(structs.replace(slot, twice=True))
    if {one.id for one in read_slots(store)} - {one.id for one in (*old, *new)}:
        for slot in new:
            delete_slot(store, slot.id)
        raise LockedError(f"somebody else changes the key slots of {store.url}")
    for one in old:
        delete_slot(store, one.id)
    return new, dropped


def replaced_slots(store: Store, config: Settings, keys: KeySource) -> frozenset[str]:
    """Return the ids of the slots that a rotation has replaced, as far as `keys` prove it.

    Slots lie in clear, so anybody may have written one: only of those that open what they say is believed.
    """
    slots = read_slots(store)
    try:
        opened = {slot_id for slot_id, _ in open_slots(store, config, keys, slots).slots}
    except (IntegrityError, WrongKey):
        return frozenset()
    return superseded(one for one in slots if one.id in opened)


def superseded(slots: Iterable[FoundSlot]) -> frozenset[str]:
    """Return the ids of the slots that others stand for."""
    return frozenset(slot_id for found in slots for slot_id in found.slot.replaces)


def _put_proved(store: Store, slot: FoundSlot, key: bytes, ring: KeyRing, repository_id: str) -> None:
    put_slot(store, slot)
    back = next((found for found in read_slots(store, both=True) if found.id == slot.id), None)
    if back is None or not back.twice or _unwrap(back.slot, key, repository_id) != ring:
        raise StoreError(f"{store.url} does not give a key slot back as it was put", hint="nothing else was changed")


def _unwrap(slot: Slot, key: bytes, repository_id: str) -> KeyRing | None:
    """Return the ring in a slot; None if the key does not open it."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    with contextlib.suppress(InvalidTag, binascii.Error, ValueError):
        wrapped = base64.b64decode(slot.wrapped, validate=True)
        plain = AESGCM(key).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], _about(slot, repository_id))
        return _decode_ring(plain)
    return None


def _about(slot: Slot, repository_id: str) -> bytes:
    plain: dict[str, Any] = msgspec.to_builtins(slot)
    del plain["wrapped"]
    return b"drkit key slot" + repository_id.encode() + b"\0" + canonical(plain)


class _Ring(Struct):
    name: bytes  # in JSON, msgspec has base64 for bytes
    masters: dict[str, bytes]
    current: int


def _encode_ring(ring: KeyRing) -> bytes:
    masters = {str(epoch): key for epoch, key in ring.masters.items()}
    return msgspec.json.encode(_Ring(ring.name_key, masters, ring.current), order="deterministic")


def _decode_ring(plain: bytes) -> KeyRing:
    """Return a ring. ValueError if it is none, which an authentic one never is."""
    ring = msgspec.json.decode(plain, type=_Ring)
    return KeyRing(ring.name, {int(epoch): key for epoch, key in ring.masters.items()}, ring.current)
