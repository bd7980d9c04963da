"""Checks of a repository: that a recovery would find everything, and that it does not lie where the source does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from drkit.doctor.report import DAMAGE, WARNING, Diagnosis, Targets, age, as_diagnosis, word
from drkit.errors import IntegrityError, ObjectNotFound, StoreCorrupt
from drkit.format.limits import FORMAT_MINOR
from drkit.model import Snapshot, show_path
from drkit.repo import Repository, SnapshotRef
from drkit.seal import SealedStore
from drkit.seal.keys import damaged_slots, read_slots

LOST = frozenset({"pack-missing", "pack-size", "pack-damaged"})
"""Findings of an index that mean that content is lost."""


class Newest(Struct, frozen=True):
    """The newest readable snapshot of a source; `history` has the other recent ones, newest first."""

    ref: SnapshotRef
    snapshot: Snapshot
    history: tuple[SnapshotRef, ...] = ()


def newest_snapshots(repo: Repository) -> tuple[list[Newest], list[Diagnosis]]:
    """Return the newest snapshot of each source among the last 200, and what is wrong with those that are damaged."""
    newest: dict[tuple[str, bytes], Newest] = {}
    older: dict[tuple[str, bytes], list[SnapshotRef]] = {}
    damaged = []
    for ref in reversed(repo.snapshots()[-200:]):
        try:
            snap = repo.load(ref)
        except (IntegrityError, StoreCorrupt) as error:
            repair = "restore from another snapshot ('drkit snapshots'), and back up again"
            damaged.append(Diagnosis("snapshot-damaged", ref.name, str(error), repair, DAMAGE))
            continue
        if "rejected" not in snap.tags:
            key = (snap.host, snap.raw_source)
            newest.setdefault(key, Newest(ref, snap))
            older.setdefault(key, []).append(ref)
    return [Newest(one.ref, one.snapshot, tuple(older[key][1:])) for key, one in newest.items()], damaged


def check_repository(
    repo: Repository, newest: Sequence[Newest], *, now: datetime, host: str, targets: Targets
) -> Iterator[Diagnosis]:
    """Look at the settings, the recovery program, the index, the newest snapshots and where everything lies."""
    if repo.config.format.minor > FORMAT_MINOR:
        message = f"it is of format 1.{repo.config.format.minor}: this drkit may only read it"
        yield Diagnosis("newer-format", repo.store.url, message, "install the newest drkit with 'pip install -U drkit'")
    yield from _recovery(repo)
    yield from _slots(repo)
    for finding in repo.load_index().findings:
        yield as_diagnosis(finding, DAMAGE if finding.code in LOST else WARNING)
    for finding in repo.findings:
        yield as_diagnosis(finding, WARNING)
    if not newest:
        yield Diagnosis("no-snapshot", repo.store.url, "it has no snapshot to restore from", "drkit backup SOURCE")
    for one in newest:
        yield from _age(one, now, targets)
        yield from _readable(repo, one)
        if one.snapshot.host == host:
            yield from _device(repo, one.snapshot)


def _recovery(repo: Repository) -> Iterator[Diagnosis]:
    from drkit import recovery

    here = os.path.dirname(recovery.__file__)
    for name, wanted in recovery.files().items():
        repair = f"put {os.path.join(here, name)} at the top of {repo.store.url}"
        try:
            if repo.store.get(name) != wanted:
                message = f"{name} is damaged, or of another version of drkit"
                yield Diagnosis("recovery-differs", name, message, repair, WARNING)
        except ObjectNotFound:
            message = f"{name} is missing: without drkit nobody could restore"
            yield Diagnosis("recovery-missing", name, message, repair, WARNING)
        except StoreCorrupt as error:
            yield Diagnosis("recovery-differs", name, str(error), repair, WARNING)


def _slots(repo: Repository) -> Iterator[Diagnosis]:
    if not isinstance(repo.store, SealedStore):
        return
    store = repo.store.inner
    for slot in read_slots(store, both=True):
        if not slot.twice:
            message = f"one of the two copies of this {slot.slot.kind}'s slot is missing or damaged"
            yield Diagnosis("key-slot-damaged", f"keys/{slot.id[:12]}…", message, "drkit repair", WARNING)
    for slot_id in damaged_slots(store):
        message = "both copies of this key slot are damaged: its secret opens nothing any more"
        repair = "'drkit repair --from URL' brings it back from a copy; or make another with 'drkit key add'"
        yield Diagnosis("key-slot-damaged", f"keys/{slot_id[:12]}…", message, repair, WARNING)


def snapshot_time(ref: SnapshotRef) -> datetime:
    """Return the time in a snapshot's name."""
    return datetime.strptime(ref.time, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)


def _age(one: Newest, now: datetime, targets: Targets) -> Iterator[Diagnosis]:
    ref, snap = one.ref, one.snapshot
    old = now - snapshot_time(ref)
    source = show_path(snap.raw_source)
    if old < -timedelta(minutes=1):
        message = f"its time is {age(-old)} ahead of this machine's clock"
        repair = "set the clock, for instance with 'timedatectl set-ntp true', before the next backup"
        yield Diagnosis("clock-behind", ref.name, message, repair)
    elif old > targets.rpo:
        message = f"the newest snapshot of {source} is {age(old)} old, the target is {age(targets.rpo)}"
        repair = (
            f"drkit backup {word(snap.raw_source)}; 'drkit schedule print --systemd' prints what does it every night"
        )
        yield Diagnosis("backup-old", ref.name, message, repair)


def _readable(repo: Repository, one: Newest) -> Iterator[Diagnosis]:
    """Read one way from the root down to a file's first bytes; verify reads them all."""
    ref, snap = one.ref, one.snapshot
    try:
        next(repo.plugins(snap), None)
        segment = next(repo.segments(snap), None)
        if segment is not None and segment.lost:
            raise IntegrityError(segment.lost)
        if segment is not None:
            reader = repo.reader()
            for entry in segment.entries:
                if entry.type == "f" and entry.size:
                    for _ in reader.content(entry, segment.places):
                        return
    except (IntegrityError, StoreCorrupt) as error:
        repair = f"'drkit verify {ref.id[:12]}' says what is lost; 'drkit backup' stores what the source still has"
        yield Diagnosis("snapshot-unreadable", ref.name, str(error), repair, DAMAGE)


def _device(repo: Repository, snap: Snapshot) -> Iterator[Diagnosis]:
    location = repo.location()
    if location is None:
        return
    source = show_path(snap.raw_source)
    elsewhere = "keep a second one elsewhere: 'drkit copy --to URL'"
    try:
        same = os.stat(location).st_dev == os.stat(snap.raw_source).st_dev
    except OSError as error:
        message = f"the source {source} cannot be read: {error.strerror}"
        yield Diagnosis(
            "source-missing", source, message, f"if it is lost: drkit restore latest --target {word(snap.raw_source)}"
        )
        return
    if same:
        message = f"the repository is on the same device as the source {source}: one dead disk takes both"
        yield Diagnosis("same-device", repo.store.url, message, elsewhere, WARNING)
