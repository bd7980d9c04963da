"""The game day: lose things on purpose, in a copy of the repository, and see what comes back, how, and when."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from random import Random

from msgspec import Struct, structs

from drkit.clock import utc_now
from drkit.copy import copy
from drkit.drill.compare import differences
from drkit.drill.drill import FULL_RTO_S, DrillOptions
from drkit.drill.report import GameDayReport, Loss
from drkit.drill.restorer import RESTORERS, Restored
from drkit.errors import DrkitError, IntegrityError, NoSpace, UsageError
from drkit.model import Level, Place, Snapshot, show_path
from drkit.progress import Progress
from drkit.repo.names import pack_name
from drkit.repo.repository import Repository, SnapshotRef
from drkit.restore.scratch import scratch
from drkit.seal import SealedStore, beneath, beside
from drkit.store.base import Store
from drkit.store.local import LocalStore

Rebuild = Callable[[Store, bytes], str]
"""Makes a new inventory, in the file given, from a store alone; returns what it holds. DrkitError if it cannot."""
Heal = Callable[[Store, Store], str]
"""Brings back a store that lost everything from one that is left; returns what it did. DrkitError if it cannot."""

_LEFT_OUT = ("locks/",)
_OLDER = "there is no older snapshot to fall back to: back up again, and keep more than one"


class _Day(Struct):
    """A game day under way: the repository, which is only read, and its copy, in which things get lost."""

    repo: Repository
    ref: SnapshotRef
    snap: Snapshot
    copy: Store
    options: DrillOptions
    directory: bytes
    progress: Progress
    random: Random

    @property
    def rto_s(self) -> float:
        return self.options.rto_s or FULL_RTO_S


def game_day(
    repo: Repository,
    ref: SnapshotRef,
    *,
    options: DrillOptions,
    progress: Progress,
    rebuild: Rebuild | None = None,
    heal: Heal | None = None,
    others: Sequence[Store] = (),
    now: Callable[[], datetime] = utc_now,
    random: Random,
) -> GameDayReport:
    """Copy the repository to scratch; lose its index, a bit of a pack, its newest snapshot, the inventory, all of it.

    After each loss everything is restored from the copy and compared with the manifest of the intact repository; then
    the copy is mended for the next loss. Without `rebuild` there is no inventory to lose. With `heal` the whole store
    is destroyed, and brought back from what each of `others` holds, or where there are none from a second copy in
    scratch. The repository and the others are only read. NoSpace if the scratch directory cannot hold all that.
    """
    began = time.monotonic()
    snap = repo.load(ref)
    with scratch(options.scratch) as directory:
        made = _scratch_copy(repo.store, repo.store, os.path.join(directory, b"copy"), snap.bytes, progress)
        day = _Day(repo, ref, snap, made, options, directory, progress, random)
        losses = [_lose_index(day), _flip_a_bit(day), _truncate_snapshot(day)]
        if rebuild:
            losses.append(_lose_inventory(day, rebuild))
        if heal:
            losses += [_lose_store(day, heal, other, now) for other in others or (None,)]
    return GameDayReport(ref.id, tuple(losses), round(time.monotonic() - began, 3))


def _as_stored(store: Store) -> Store:
    """Return the store that holds the very bytes, which in a sealed one may be of objects that it does not know."""
    return store.inner if isinstance(store, SealedStore) else store


def _scratch_copy(like: Store, source: Store, directory: bytes, restored: int, progress: Progress) -> Store:
    """Copy a store as it is into a new directory; return it as a store that reads like `like`."""
    raw = _as_stored(source)
    made = LocalStore(directory)
    objects = [info for info in raw.list("") if not info.name.startswith(_LEFT_OUT)]
    total = sum(info.size for info in objects)
    _check_space(os.path.dirname(directory), total + restored)
    progress.start(len(objects), total, "copying")
    made.prepare()
    for info in objects:
        made.put(info.name, raw.get(info.name))
        progress.advance(1, info.size)
    return beside(like, made)


def _check_space(directory: bytes, needed: int) -> None:
    found = os.statvfs(directory)
    if found.f_bavail * found.f_frsize < needed:
        raise NoSpace(
            f"a game day needs {needed} bytes in {show_path(directory)}, for a copy and a restored tree",
            hint="set TMPDIR to a directory with more space",
        )


# Losses


def _lose_index(day: _Day) -> Loss:
    names = [info.name for info in day.copy.list("index/")]
    what = f"deleted the whole index ({len(names)})"
    with _mended(day, names):
        for name in names:
            day.copy.delete(name)
        began = time.monotonic()
        packs = Repository.open(day.copy).load_index().index.packs
        rebuilding_s = time.monotonic() - began
        how = f"the packs' own tables ({len(packs)}) gave the whole index back in {rebuilding_s:.2f} s"
        return _judge(day, "index", what, how, whole=True)


def _flip_a_bit(day: _Day) -> Loss:
    place = _content_place(day)
    if place is None:
        return Loss(
            "pack", "no file has content, so no bit of one could be flipped", True, "", (), 0.0, day.rto_s, True
        )
    name = pack_name(place.pack)
    store, stored = beneath(day.copy, name)
    first, length = (place.frame_offset, place.frame_length) if stored == name else (0, store.stat(stored).size)
    at = first + day.random.randrange(length)
    bit = day.random.randrange(8)
    what = f"flipped bit {bit} of byte {at} of {name}"
    with _mended(day, [name]):
        data = bytearray(store.get(stored))
        data[at] ^= 1 << bit
        store.put(stored, data, overwrite=True)
        if not _noticed(day, name):
            return _failed(day, "pack", what, "'drkit verify --level packs' did not notice it")
        how = "verify named the pack, and the restore names every path that is lost"
        return _judge(day, "pack", what, how, whole=False)


def _truncate_snapshot(day: _Day) -> Loss:
    data = day.copy.get(day.ref.name)
    what = f"cut {day.ref.name} to {len(data) // 2} of {len(data)} bytes"
    with _mended(day, [day.ref.name]):
        day.copy.put(day.ref.name, data[: len(data) // 2], overwrite=True)
        began = time.monotonic()
        try:
            older = _newest_readable(day)
        except DrkitError as error:
            return _failed(day, "snapshot", what, str(error))
        if older is None:
            total_s = round(time.monotonic() - began, 3)
            return Loss("snapshot", what, False, f"it was noticed, but {_OLDER}", (), total_s, day.rto_s, True)
        if older == day.ref:
            return _judge(day, "snapshot", what, "it was noticed, and its parity gave it back", whole=True)
        how = f"it was noticed, and the one before, {older.id[:12]} of {older.time}, was restored instead"
        return _judge(day, "snapshot", what, how, whole=True, older=older)


def _newest_readable(day: _Day) -> SnapshotRef | None:
    """Return the snapshot that a restore from the copy falls back to: drkit reads one through its parity, too."""
    repo = Repository.open(day.copy)
    newest = repo.latest()
    if newest != day.ref or day.options.by == "drkit":
        return newest
    older = [ref for ref in repo.snapshots() if ref != day.ref]
    return older[-1] if older else None


def _lose_inventory(day: _Day, rebuild: Rebuild) -> Loss:
    what = "removed the inventory"
    began = time.monotonic()
    try:
        how = rebuild(day.copy, os.path.join(day.directory, b"inventory.db"))
    except DrkitError as error:
        return _failed(day, "inventory", what, str(error))
    rebuilding_s = time.monotonic() - began
    return _judge(day, "inventory", what, f"{how}, in {rebuilding_s:.2f} s; no restore needs it", whole=True)


def _lose_store(day: _Day, heal: Heal, other: Store | None, now: Callable[[], datetime]) -> Loss:
    """Destroy all of the copy, and let it be brought back from what another store holds."""
    with scratch(day.directory) as directory:
        place = os.path.join(directory, b"second")
        whose = other.url if other is not None else "a second store, which 'drkit copy' has filled"
        what = f"destroyed the whole store; left is {whose}"
        try:
            if other is None:
                second: Store = beside(day.copy, LocalStore(place))
                copy(Repository.open(day.copy), second, progress=day.progress, now=now)
            else:
                second = _scratch_copy(day.copy, other, place, day.snap.bytes, day.progress)
            older = _newest_of_both(day, second)
            raw = _as_stored(day.copy)
            for info in list(raw.list("")):
                raw.delete(info.name)
            began = time.monotonic()
            how = heal(day.copy, second)
        except DrkitError as error:
            return _failed(day, "store", what, str(error))
        if older is None:
            return _failed(day, "store", what, f"{whose} holds no snapshot of this repository")
        how = f"{how}, in {time.monotonic() - began:.2f} s"
        if older == day.ref:
            return _judge(day, "store", what, how, whole=True)
        how += f"; it lacks what came after snapshot {older.id[:12]} of {older.time}, which was restored instead"
        return _judge(day, "store", what, how, whole=True, older=older)


def _newest_of_both(day: _Day, second: Store) -> SnapshotRef | None:
    """Return the newest snapshot that the repository and another store have; IntegrityError if it is another's."""
    there = Repository.open(second)
    if there.config.repository_id != day.repo.config.repository_id:
        raise IntegrityError(f"{second.url} holds another repository")
    held = {ref.id for ref in there.snapshots()}
    return next((ref for ref in reversed(day.repo.snapshots()) if ref.id in held), None)


# What came of it


def _judge(day: _Day, loss: str, what: str, how: str, *, whole: bool, older: SnapshotRef | None = None) -> Loss:
    """Restore everything from the copy and compare it with the intact repository's manifest.

    `whole`: nothing may be lost. Otherwise what is lost must be named, and all else be right. `older` is the
    snapshot that must come back instead of the newest.
    """
    ref, snap = (older, day.repo.load(older)) if older else (day.ref, day.snap)
    try:
        found, wrong, missing = _restore(day, snap)
    except UsageError:
        raise
    except (DrkitError, OSError) as error:
        return _failed(day, loss, what, str(error))
    failures = []
    if found.snapshot and not ref.id.startswith(found.snapshot):
        failures.append(f"snapshot {found.snapshot[:12]} was restored instead of {ref.id[:12]}")
    if wrong:
        failures.append(f"{len(wrong)} files came back wrong without a word, the first is {wrong[0]}")
    unnamed = sorted(set(missing).difference(found.lost))
    if unnamed:
        failures.append(f"{len(unnamed)} paths are missing that no message names, the first is {unnamed[0]}")
    if whole and (found.lost or found.tree_sha256 != snap.tree_sha256):
        failures.append(f"not everything came back: {len(found.lost)} paths are lost")
    if found.total_s > day.rto_s:
        failures.append(f"it took {found.total_s:.1f} s, over the RTO of {day.rto_s:.1f} s")
    return Loss(
        loss=loss,
        what=what,
        survived=not (found.lost or wrong or missing),
        how=how,
        lost=found.lost,
        total_s=found.total_s,
        rto_s=day.rto_s,
        passed=not failures,
        reason="; ".join(failures),
    )


def _restore(day: _Day, snap: Snapshot) -> tuple[Restored, list[str], list[str]]:
    """Restore `latest` from the copy; return that, the files that are wrong, and the paths that are not there.

    Of what was told to be lost from one path to another, the intact manifest says which paths that are.
    """
    with scratch(day.directory) as directory:
        target = os.path.join(directory, b"tree")
        restore = RESTORERS[day.options.by]
        found = restore(day.copy, "latest", None, target, rto_s=day.rto_s, progress=day.progress)
        wrong, missing, unknown = differences(day.repo.segments(snap), target, found.gaps)
    lost = tuple(dict.fromkeys((*unknown, *found.lost)))
    return structs.replace(found, lost=lost), wrong, missing


def _failed(day: _Day, loss: str, what: str, reason: str) -> Loss:
    return Loss(loss, what, False, "", (), 0.0, day.rto_s, False, reason)


def _noticed(day: _Day, name: str) -> bool:
    from drkit.verify import verify

    damaged = Repository.open(day.copy)
    report = verify(damaged, [damaged.resolve(day.ref.id)], level=Level.PACKS, progress=day.progress)
    return any(finding.object == name for finding in report.findings)


def _content_place(day: _Day) -> Place | None:
    """Return the place of some file's content: one of a random segment of those that have any."""
    found: Place | None = None
    seen = 0
    for segment in day.repo.segments(day.snap):
        ids = [entry.blobs[0] if entry.blobs else entry.sha256 for entry in segment.entries if entry.size]
        places = [segment.places[blob] for blob in ids if blob in segment.places]
        if places:
            seen += 1
            if day.random.randrange(seen) == 0:
                found = day.random.choice(places)
    return found


@contextmanager
def _mended(day: _Day, names: Sequence[str]) -> Iterator[None]:
    """Put these objects of the repository into the copy again when the block ends."""
    try:
        yield
    finally:
        for name in names:
            day.copy.put(name, day.repo.store.get(name), overwrite=True)
