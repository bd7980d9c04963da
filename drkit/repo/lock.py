"""Lock objects and prune records: how backups and a prune learn of each other (docs/format.md, section 9)."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import ClassVar, Self

import msgspec

from drkit import osutil
from drkit.errors import FormatError, LockedError, ObjectNotFound, StoreCorrupt, StoreError, UsageError
from drkit.format.manifest import is_id
from drkit.model import PackId
from drkit.store.base import ObjectInfo, Store
from drkit.store.parallel import is_remote, soon

REWRITE_AFTER = timedelta(minutes=5)
STALE_AFTER = timedelta(minutes=30)
_LATELY = timedelta(seconds=10)


class StoreLock:
    """An object below `locks/`, there as long as its owner works. A context manager.

    `stamp` is the store's own stamp of its first writing: what has an older one was there before the owner began.
    """

    kind: ClassVar[str]

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self.name = f"locks/{self.kind}-{os.urandom(8).hex()}"
        self.stamp = 0.0
        self._store = store
        self._released: Callable[[], None] | None = None
        self._now = now
        self._written = now()
        self._started = self._confirmed = self._written

    def __enter__(self) -> Self:
        try:
            self._write()
            self._begin()
        except BaseException:
            with contextlib.suppress(StoreError):
                self._store.delete(self.name)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()()

    def release(self) -> Callable[[], None]:
        """Begin to take the lock away, where that takes its time, and return what waits for it, as leaving does."""
        if self._released is None:
            self._released = soon(self._store, self._remove)
        return self._released

    def _remove(self) -> None:
        with contextlib.suppress(StoreError):  # `held` has raised it, if it came that far
            self._settle()
        with contextlib.suppress(ObjectNotFound):  # taken away as stale: `held` has told its owner, if it came that far
            self._store.delete(self.name)

    def refresh(self) -> None:
        """Rewrite the lock if it is due, but not if it was taken away: what it protected may be gone."""
        if self._now() - self._written >= REWRITE_AFTER and self.held():
            self._write()

    def held(self, *, lately: bool = False) -> bool:
        """Whether the lock is still there; with `lately`, where to ask takes its time, whether it was seconds ago.

        A lock is stale half an hour after its last writing: what was there just now was not taken away for that.
        """
        self._settle()
        now = self._now()
        if lately and is_remote(self._store) and now - self._confirmed < _LATELY:
            return True
        try:
            self._store.stat(self.name)
        except ObjectNotFound:
            return False
        self._confirmed = now
        return True

    def refuse_in(self, other: Store) -> None:
        """UsageError if another store has this lock, too: then it is the same one by another name, and no copy."""
        with contextlib.suppress(ObjectNotFound):
            other.stat(self.name)
            raise UsageError(
                f"{other.url} and {self._store.url} are the same store",
                hint="name another place: what lies in one place only is no copy",
            )

    def _begin(self) -> None:
        """Learn the stamp, and do what its kind of work begins with."""
        self.stamp = self._store.stat(self.name).modified

    def _settle(self) -> None:
        """Wait until what was begun is done."""

    def _write(self) -> None:
        self._written = self._now()
        content = {
            "kind": self.kind,
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "process": osutil.process_identity(os.getpid()),
            "started": self._started.astimezone(UTC).isoformat(),
            "stamp": self.stamp,
        }
        self._store.put(self.name, msgspec.json.encode(content), overwrite=True)
        self._confirmed = self._written


class BackupLock(StoreLock):
    """Held from before the first read of the repository until after the snapshot."""

    kind = "backup"

    def _begin(self) -> None:
        """Look around; over a network while the backup goes on, which needs nothing of it."""
        self._settle = soon(self._store, self._look)  # type: ignore[method-assign]
        if not is_remote(self._store):
            self._settle()

    def _look(self) -> None:
        found = list(self._store.list("locks/backup-"))
        own = next((info for info in found if info.name == self.name), None) or self._store.stat(self.name)
        self.stamp = own.modified
        remove_dead(self._store, self.stamp, found, own=self.name)


class SoleLock(StoreLock):
    """Held by the only one that does its kind of work on a repository. LockedError if there is another."""

    what: ClassVar[str]

    def _begin(self) -> None:
        """Take away what the dead have left, so that a backup that was taken for dead learns of it, and look around.

        Of two that begin at once each writes first and reads second: one sees the other, or both do and give up.
        """
        super()._begin()
        others = remove_dead(self._store, self.stamp, self._store.list("locks/"), own=self.name)
        if not self._seen:
            raise StoreError(
                f"{self._store.url} does not list what was just put into it",
                hint=f"a {self.what} needs a store that lists what it has; see 'drkit doctor --store URL'",
            )
        if any(lock.name.startswith(f"locks/{self.kind}-") for lock in others):
            raise LockedError(
                f"another {self.what} is working on {self._store.url}",
                hint="wait until it has ended; 30 minutes after its machine died, 'drkit unlock' removes its lock",
            )

    @property
    def _seen(self) -> bool:
        return any(info.name == self.name for info in self._store.list(f"locks/{self.kind}-"))


class KeyLock(SoleLock):
    """Held while key slots change: two at once could take away what the other leaves."""

    kind = "key"
    what = "change of the keys"


class PruneLock(SoleLock):
    """Held by a prune."""

    kind = "prune"
    what = "prune"

    def now(self) -> float:
        """Return the present time by the store's own stamps. StoreError if the lock was taken away."""
        if not self.held():
            raise StoreError(
                "the prune's lock was taken away; what it had not deleted yet stays",
                hint="run 'drkit prune' again: it goes on from what is there",
            )
        self._write()
        return self._store.stat(self.name).modified


class FoundLock(msgspec.Struct, frozen=True):
    """Somebody's lock: its name, who holds it, and the store's stamps of its first and its last writing."""

    name: str
    owner: str
    stamp: float
    modified: float


def find_locks(
    store: Store, now: float, listed: Iterable[ObjectInfo], *, own: str = ""
) -> tuple[list[FoundLock], list[FoundLock]]:
    """Return the locks of the living and of the dead: stale by the store's stamps, or of a process that is gone.

    `now` is a stamp of the store, `listed` are locks, `own` is one to pass over.
    """
    alive: list[FoundLock] = []
    dead: list[FoundLock] = []
    for info in listed:
        with contextlib.suppress(ObjectNotFound):  # its owner came first
            if info.name != own:
                data = b""  # of a damaged or forged one nothing is known but its age
                with contextlib.suppress(StoreCorrupt):
                    data = store.get(info.name)
                owner = _owner(data)
                first = min(owner.stamp or info.modified, info.modified)
                found = FoundLock(info.name, f"{owner.host} {owner.pid or ''}".strip(), first, info.modified)
                stale = now - info.modified > STALE_AFTER.total_seconds()
                (dead if stale or _is_gone(data) else alive).append(found)
    return alive, dead


def remove_dead(store: Store, now: float, listed: Iterable[ObjectInfo], *, own: str) -> list[FoundLock]:
    """Remove the locks of the dead, and return those of the living; see `find_locks`."""
    alive, dead = find_locks(store, now, listed, own=own)
    for lock in dead:
        with contextlib.suppress(ObjectNotFound):
            store.delete(lock.name)
    return alive


class _Visit(StoreLock):
    """Tells the store's present time."""

    kind = "visit"


def unlock(
    store: Store, now: Callable[[], datetime], *, every: bool = False
) -> tuple[list[FoundLock], list[FoundLock]]:
    """Remove the locks of the dead, with `every` also of the living; return what was removed, and what is left."""
    with _Visit(store, now) as visit:
        alive, dead = find_locks(store, visit.stamp, store.list("locks/"), own=visit.name)
        removed = [*dead, *alive] if every else dead
        for lock in removed:
            with contextlib.suppress(ObjectNotFound):
                store.delete(lock.name)
    return removed, [] if every else alive


class _Owner(msgspec.Struct):
    pid: int = 0
    process: str = ""
    host: str = ""
    stamp: float = 0.0


def _owner(lock: bytes) -> _Owner:
    """Return what a lock says of its owner; nothing, if it is none that drkit wrote."""
    try:
        return msgspec.json.decode(lock, type=_Owner)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _Owner()


def _is_gone(lock: bytes) -> bool:
    """Whether a lock's process has ended for certain: it ran in this boot and pid namespace, and is not there now."""
    owner = _owner(lock)
    mine = osutil.process_identity(os.getpid()).split("/")[:-2]
    if not mine or owner.pid <= 0 or owner.process.split("/")[:-2] != mine:
        return False
    return osutil.process_identity(owner.pid) != owner.process


class _PruneRecord(msgspec.Struct):
    packs: tuple[str, ...]
    sha256: str = ""


def put_record(store: Store, name: str, packs: Iterable[PackId]) -> None:
    """Put the record of a prune that condemns these packs, with a hash: it has none in its name."""
    digits = tuple(sorted(pack.hex() for pack in packs))
    store.put(name, msgspec.json.encode(_PruneRecord(digits, _sha256(digits))), overwrite=True)


def _sha256(digits: Sequence[str]) -> str:
    return hashlib.sha256("".join(digits).encode()).hexdigest()


def condemned_packs(store: Store) -> dict[str, frozenset[PackId]]:
    """Return the packs that each prune record condemns, by the record's name.

    FormatError if a record cannot be read: what it condemns is unknown, so nothing may be taken as present.
    """
    records: dict[str, frozenset[PackId]] = {}
    for info in store.list("prunes/"):
        with contextlib.suppress(ObjectNotFound):
            records[info.name] = read_record(store, info.name)
    return records


def read_record(store: Store, name: str) -> frozenset[PackId]:
    """Return the packs that a prune record condemns. FormatError if it cannot be read, ObjectNotFound if it is gone."""
    try:
        record = msgspec.json.decode(store.get(name), type=_PruneRecord)
        if not all(map(is_id, record.packs)):
            raise ValueError("it names what is no pack")
        if record.sha256 not in {"", _sha256(record.packs)}:
            raise ValueError("its hash is wrong")
    except (StoreCorrupt, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError(
            f"the prune record {name} is damaged: {error}",
            hint="run 'drkit repair', which sets it aside if no prune is at work, then run the command again",
        ) from error
    return frozenset(PackId(bytes.fromhex(digits)) for digits in record.packs)
