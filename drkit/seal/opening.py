"""Encrypted repositories: made, and opened with a secret."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from msgspec import structs

from drkit.errors import FormatError, IntegrityError, StoreCorrupt
from drkit.format import settings
from drkit.format.settings import ENCRYPTION, Settings
from drkit.seal.cipher import need_cryptography
from drkit.seal.secret import KeySource, Secret
from drkit.seal.store import SealedStore
from drkit.store.base import Store

if TYPE_CHECKING:
    from drkit.seal.keys import FoundSlot

_NAME = "drkit.json"


def encrypt(
    store: Store, config: Settings, secrets: Sequence[Secret], *, now: datetime
) -> tuple[SealedStore, Settings, list[FoundSlot]]:
    """Return the store of a new encrypted repository, its settings, and slots for the secrets, all yet to be stored."""
    from drkit.seal.keys import check_new, make_slot, new_encryption, new_ring

    need_cryptography()
    for secret in secrets:
        check_new(secret)
    encryption, ring = new_encryption(), new_ring()
    needs = structs.replace(config.format, requires=(*config.format.requires, ENCRYPTION))
    config = structs.replace(config, format=needs, encryption=encryption)
    sealed = SealedStore(store, ring, config.repository_id)
    inside = sealed.seal(_NAME, settings.encode_inside(config))
    config = structs.replace(config, sealed=base64.b64encode(inside).decode())
    slots = [
        make_slot(
            ring,
            secret.key(encryption.kdf, config.repository_id),
            kind=secret.kind,
            repository_id=config.repository_id,
            now=now,
        )
        for secret in secrets
    ]
    return sealed, config, slots


def unlock(store: Store, config: Settings, keys: KeySource) -> tuple[Store, Settings]:
    """Return the store as it looks in clear, and all of the settings, of which `config` has what is in clear.

    A repository that is not encrypted, and a store that is open already, are returned as they are. WrongKey if no
    secret opens it; IntegrityError if its settings are not those that it was made with.
    """
    if config.encryption is None:
        if isinstance(store, SealedStore):
            raise IntegrityError(f"{_NAME} in {store.url} says that the repository is not encrypted", hint=_SETTINGS)
        return store, config
    if not isinstance(store, SealedStore):
        from drkit.seal.keys import open_slots

        store = SealedStore(store, open_slots(store, config, keys).ring, config.repository_id)
    if store.repository_id != config.repository_id:
        raise IntegrityError(f"{_NAME} in {store.url} is of another repository", hint=_SETTINGS)
    try:
        inside = store.unseal(_NAME, base64.b64decode(config.sealed, validate=True))
        return store, settings.decode_inside(config, inside)
    except (binascii.Error, FormatError, StoreCorrupt) as error:
        raise IntegrityError(f"the settings of {store.url} cannot be trusted: {error}", hint=_SETTINGS) from error


_SETTINGS = "bring drkit.json and drkit-copy.json back from a copy: 'drkit repair --from URL'"
