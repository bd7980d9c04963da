"""Checks of a store that need no repository in it: that what is written can be read back, and is never replaced."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from drkit.doctor.report import ADVICE, DAMAGE, WARNING, Diagnosis
from drkit.errors import ObjectExists, ObjectNotFound, StoreError
from drkit.store import contract
from drkit.store.base import Store
from drkit.store.contract import Ability

_CODES = {
    "create": ("store-overwrites", WARNING, "let only one machine at a time write to it"),
    "conditional create": ("store-races", WARNING, "let only one machine at a time write to it, and prune alone"),
    "clock": ("clock-differs", WARNING, "set the clock, for instance with 'timedatectl set-ntp true'"),
    "native ranges": ("store-whole-objects", ADVICE, "nothing is lost; another server would be faster"),
}
"""What follows from an ability that a store lacks: code, exit code, repair. Without the others it is broken."""

SLACK = timedelta(minutes=1)
_SIZE = 4096
_DISTRUST = "do not trust this store: back up to another one with 'drkit init --repo URL' and 'drkit backup --repo URL'"


def check_store(store: Store, *, now: Callable[[], datetime]) -> Iterator[Diagnosis]:
    """Write an object of random bytes under `locks/`, read it in every way, and delete it again."""
    name = f"locks/doctor-{os.urandom(8).hex()}"
    data = os.urandom(_SIZE)
    before = now()
    try:
        store.put(name, data)
    except StoreError as error:
        yield Diagnosis("store-not-writable", store.url, str(error), error.hint, error.code)
        return
    try:
        yield from _read_back(store, name, data)
        yield from _clock(store, name, before, now())
        yield from _refusal(store, name, data)
        store.delete(name)
        with suppress(ObjectNotFound):
            store.stat(name)
            yield _broken(store, "still shows an object that was deleted")
    except StoreError as error:
        yield Diagnosis("store-broken", store.url, str(error), error.hint, error.code)
    finally:
        with suppress(StoreError):
            store.delete(name)


def try_store(store: Store, *, now: Callable[[], datetime]) -> tuple[tuple[Ability, ...], list[Diagnosis]]:
    """Run all that drkit asks of a store below `locks/`; return what it can, and what follows from what it cannot."""
    abilities: list[Ability] = []
    try:
        abilities.extend(contract.examine(store, clock=lambda: now().timestamp()))
    except StoreError as error:
        return (), [Diagnosis("store-not-writable", store.url, str(error), error.hint, error.code)]
    findings = []
    for lacking in abilities:
        if not lacking.ok:
            code, exit_code, repair = _CODES.get(lacking.name, ("store-broken", DAMAGE, _DISTRUST))
            findings.append(Diagnosis(code, store.url, f"{lacking.name}: {lacking.says}", repair, exit_code))
    return tuple(abilities), findings


def _read_back(store: Store, name: str, data: bytes) -> Iterator[Diagnosis]:
    if store.get(name) != data:
        yield _broken(store, "gives back other bytes than were written")
    if store.get_range(name, 100, 1000) != data[100:1100]:
        yield _broken(store, "gives other bytes of a range than were written there")
    if store.stat(name).size != len(data):
        yield _broken(store, "tells a wrong size")
    if name not in {info.name for info in store.list("locks/")}:
        yield _broken(store, "does not list an object that was just written")


def _refusal(store: Store, name: str, data: bytes) -> Iterator[Diagnosis]:
    """A put over an object that is there must be refused: two machines may write at once."""
    try:
        store.put(name, bytes(_SIZE))
    except ObjectExists:
        if store.get(name) != data:
            yield _broken(store, "replaced an object although it said that it did not")
        return
    yield Diagnosis(
        "store-overwrites",
        store.url,
        "the store replaces objects that are there already",
        "let only one machine at a time write to it",
        WARNING,
    )


def _clock(store: Store, name: str, before: datetime, after: datetime) -> Iterator[Diagnosis]:
    stamp = datetime.fromtimestamp(store.stat(name).modified, UTC)
    if not before - SLACK <= stamp <= after + SLACK:
        off = stamp - after if stamp > after else before - stamp
        side = "behind" if stamp > after else "ahead of"
        yield Diagnosis(
            "clock-differs",
            store.url,
            f"this machine's clock is {int(off.total_seconds())} s {side} the store's",
            "set the clock, for instance with 'timedatectl set-ntp true'",
        )


def _broken(store: Store, what: str) -> Diagnosis:
    return Diagnosis(
        "store-broken",
        store.url,
        f"the store {what}",
        _DISTRUST,
        DAMAGE,
    )
