"""How a repository comes to be and is found again: its settings, and what shows that a place holds something."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from drkit.errors import (
    FormatError,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    RepositoryNotFound,
    StoreCorrupt,
    StoreError,
    StoreUnavailable,
    UsageError,
)
from drkit.format import settings
from drkit.format.settings import CompressionSettings, NewerFormat, ParitySettings, Settings
from drkit.model import Finding, FormatVersion
from drkit.repo.parity import check_parity
from drkit.seal import Secret, encrypt
from drkit.store.base import Store
from drkit.store.parallel import soon

if TYPE_CHECKING:
    from drkit.seal.keys import FoundSlot

SETTINGS_NAMES = ("drkit.json", "drkit-copy.json")

# What an interrupted init leaves, and what the root of a new file system has.
OF_INIT = re.compile(rb"index|keys|locks|packs|snapshots|RECOVER\.md|recover\.py|drkit.*\.json|\.tmp-.*|lost\+found")
OF_REPOSITORY = re.compile(OF_INIT.pattern + rb"|hints|inventory|parity|prunes|quarantine")

_COPY = "run 'drkit repair', or copy the intact one of drkit.json and drkit-copy.json over the other, in {}"
_RECOVER = (
    "heal them from a copy with 'drkit repair --from URL'; without one get everything back with the repository's own "
    "recover.py, then start a new repository elsewhere"
)


_NONE_READABLE = (
    "see what is damaged with 'drkit verify --all', and what the repository's own recover.py can still read: "
    "'python3 recover.py --list'"
)


def new_settings(now: datetime, compression: CompressionSettings, parity: ParitySettings | None) -> Settings:
    """Return the settings of a new repository, with a random id."""
    return Settings(
        format=FormatVersion(),
        repository_id=os.urandom(16).hex(),
        created=now.astimezone(UTC).isoformat(timespec="seconds"),
        compression=compression,
        parity=parity,
    )


def create(store: Store, config: Settings, secrets: Sequence[Secret], now: datetime) -> tuple[Store, Settings]:
    """Make a new repository, encrypted if there are `secrets`; return its store and its settings."""
    slots: list[FoundSlot] = []
    if secrets:
        store, config, slots = encrypt(store, config, secrets, now=now)
    found(store, config, slots)
    return store, config


def found(store: Store, config: Settings, slots: Iterable[FoundSlot] = ()) -> None:
    """Make a repository with these settings and key slots where nothing is, but what an interrupted call has left.

    UsageError if there is a repository, what is left of one, or somebody's files.
    """
    check_parity(config)
    check_vacant(store)
    from drkit import recovery
    from drkit.seal.keys import put_slot

    store.prepare()
    for name, data in recovery.files().items():
        store.put(name, data, overwrite=True)
    for slot in slots:
        put_slot(store, slot)
    # The settings come last: a repository without them is none, and init can be run again.
    for name in reversed(SETTINGS_NAMES):
        try:
            store.put(name, settings.encode(config))
        except ObjectExists as error:
            raise UsageError(f"somebody else made a repository in {store.url} at this moment") from error


def check_vacant(store: Store) -> None:
    """Raise UsageError if there is a repository, what is left of one, or somebody's files."""
    for name in SETTINGS_NAMES:
        try:
            store.stat(name)
        except ObjectNotFound:
            continue
        raise UsageError(f"there is a repository in {store.url} already", hint="use it as it is, or name another place")
    if _has_content(store):
        raise UsageError(f"there is a repository without its settings in {store.url}", hint=_RECOVER)
    refuse_strangers(store)


def refuse_strangers(store: Store, mine: re.Pattern[bytes] = OF_INIT) -> None:
    """Raise UsageError if a directory holds what does not match `mine`: somebody's files."""
    names: list[bytes] = []
    if store.directory is not None:
        with suppress(OSError):  # none yet; what else is wrong with it shows when it is prepared
            names = sorted(name for name in os.listdir(store.directory) if not mine.fullmatch(name))
    if names:
        raise UsageError(
            f"{store.url} holds other files, among them {os.fsdecode(names[0])}",
            hint="name an empty or new directory: a repository has one of its own",
        )


def read_settings(store: Store, *, both: bool = True) -> tuple[Settings, list[Finding]]:
    """Return the settings, and a finding for a copy that is damaged; without `both`, only as far as they are needed.

    RepositoryNotFound if there is no repository, NewerFormat if it is of a newer version, IntegrityError if both
    copies are damaged, or missing where there are packs, snapshots or an index.
    """
    findings: list[Finding] = []
    config: Settings | None = None
    absent = 0
    gets = [soon(store, partial(store.get, name)) for name in SETTINGS_NAMES] if both else []
    for number, name in enumerate(SETTINGS_NAMES):
        try:
            decoded = settings.decode(gets[number]() if both else store.get(name))
            config = config or decoded
            if not both:
                break
        except ObjectNotFound:
            absent += 1
            findings.append(Finding("settings-missing", name, f"{name} is missing", _COPY.format(store.url)))
        except NewerFormat:
            raise
        except (FormatError, StoreCorrupt) as error:
            findings.append(Finding("settings-damaged", name, f"{name} is damaged: {error}", _COPY.format(store.url)))
    if absent == len(SETTINGS_NAMES) and not _has_content(store):
        raise RepositoryNotFound(f"there is no drkit repository in {store.url}")
    if config is None:
        raise IntegrityError(f"both copies of drkit.json in {store.url} are damaged or missing", hint=_RECOVER)
    return config, findings


def _has_content(store: Store) -> bool:
    try:
        return any(True for prefix in ("snapshots/", "packs/", "index/") for _ in store.list(prefix))
    except StoreUnavailable:
        raise
    except StoreError:  # a directory that is missing holds nothing
        return False


def no_latest(count: int, errors: list[IntegrityError]) -> UsageError | IntegrityError:
    """Return the error for `count` snapshots none of which is the latest; `errors` says which cannot be read."""
    if not errors:
        what = "only rejected snapshots" if count else "no snapshot yet"
        return UsageError(f"the repository has {what}", hint="make one with 'drkit backup SOURCE'")
    if all(isinstance(error, NewerFormat) for error in errors):
        return errors[0]
    many = len(errors) > 1
    which = "" if len(errors) == count else " that are not rejected" if many else " that is not rejected"
    what = f"none of the {len(errors)} snapshots{which} can" if many else f"the only snapshot{which} cannot"
    return IntegrityError(f"{what} be read", hint=_NONE_READABLE)
