"""Two keys of repositories, and what gives them."""

from __future__ import annotations

from datetime import UTC, datetime

from drkit.format import settings
from drkit.repo import opening
from drkit.seal import KeySource, Secret
from drkit.seal.secret import new_key
from drkit.store import Store

KEY = new_key()
OTHER = new_key()


def now() -> datetime:
    return datetime(2026, 3, 1, tzinfo=UTC)


def source(*secrets: Secret) -> KeySource:
    """Return a source that gives these, and reads nothing."""
    keys = KeySource({})
    keys._secrets = secrets  # no file needed for a key
    return keys


def clear(store: Store) -> settings.Settings:
    return opening.read_settings(store)[0]
