"""What the commands of `drkit key` have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from drkit.clock import utc_now
from drkit.errors import UsageError

if TYPE_CHECKING:
    from drkit.cli.session import Session
    from drkit.format.settings import Settings
    from drkit.seal.keys import FoundSlot, Opened
    from drkit.store.base import Store

SLOT_KEYS = "{id, kind, created, host, label, twice}"


def encrypted(session: Session, *, writing: bool = True) -> tuple[Store, Settings]:
    """Return the repository's store, as it is, and what is in clear of its settings. UsageError if all is in clear."""
    from drkit.repo import Repository, opening

    store = session.store()
    config, findings = opening.read_settings(store)
    if config.encryption is None:
        raise UsageError(
            f"the repository in {store.url} is not encrypted",
            hint="make one with 'drkit init --encrypt', and back up into it",
        )
    if writing:
        Repository(store, config, findings).check_writable()
    return store, config


@contextmanager
def changing(session: Session) -> Iterator[tuple[Store, Settings, Opened]]:
    """Give what `encrypted` does, and what the user's secrets open, while nobody else changes slots.

    LockedError if somebody does; WrongKey if nothing opens: who cannot open a repository shall not close it.
    """
    from drkit.repo.lock import KeyLock
    from drkit.seal import SealedStore
    from drkit.seal.keys import open_slots

    store, config = encrypted(session)
    ring = open_slots(store, config, session.keys).ring
    with KeyLock(SealedStore(store, ring, config.repository_id), utc_now):
        yield store, config, open_slots(store, config, session.keys)


def keys_of(slot: FoundSlot) -> dict[str, Any]:
    """Return what a result says of a slot."""
    of = slot.slot
    return {
        "id": slot.id,
        "kind": of.kind,
        "created": of.created,
        "host": of.host,
        "label": of.label,
        "twice": slot.twice,
    }


def text_of(slot: FoundSlot) -> str:
    """Return a slot as one line."""
    of = slot.slot
    return f"{slot.id[:12]}  {of.kind:<10}  {of.created}  {of.host}  {of.label}".rstrip()
