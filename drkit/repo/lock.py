"""A backup's lock object: it tells a prune which packs are too young to condemn (docs/format.md, section 9)."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

import msgspec

from drkit import osutil
from drkit.errors import FormatError, ObjectNotFound, StoreError
from drkit.format.manifest import is_id
from drkit.model import PackId
from drkit.store.base import Store

REWRITE_AFTER = timedelta(minutes=5)
STALE_AFTER = timedelta(minutes=30)


class BackupLock:
    """Held from before the first read of the repository until after the snapshot. A context manager."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self.name = f"locks/backup-{secrets.token_hex(8)}"
        self._store = store
        self._now = now
        self._written = now()
        self._started = self._written

    def __enter__(self) -> Self:
        try:
            self._write()
            self._remove_dead()
        except BaseException:
            with contextlib.suppress(StoreError):
                self._store.delete(self.name)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._store.delete(self.name)
        except ObjectNotFound:
            return  # taken away as stale: `held` has told the backup, if it came that far

    def refresh(self) -> None:
        """Rewrite the lock if it is due, but not if it was taken away: what it protected may be gone."""
        if self._now() - self._written >= REWRITE_AFTER and self.held():
            self._write()

    def held(self) -> bool:
        """Whether the lock is still there."""
        try:
            self._store.stat(self.name)
        except ObjectNotFound:
            return False
        return True

    def _write(self) -> None:
        self._written = self._now()
        content = {
            "kind": "backup",
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "process": osutil.process_identity(os.getpid()),
            "started": self._started.astimezone(UTC).isoformat(),
        }
        self._store.put(self.name, msgspec.json.encode(content), overwrite=True)

    def _remove_dead(self) -> None:
        """Remove locks of killed backups: stale by the store's stamps, or of a process that is gone."""
        stamp = self._store.stat(self.name).modified
        for info in self._store.list("locks/backup-"):
            with contextlib.suppress(ObjectNotFound):  # its owner came first
                if info.name != self.name and (
                    stamp - info.modified > STALE_AFTER.total_seconds() or _is_gone(self._store.get(info.name))
                ):
                    self._store.delete(info.name)


class _Owner(msgspec.Struct):
    pid: int
    process: str = ""


def _is_gone(lock: bytes) -> bool:
    """Whether a lock's process has ended for certain: it ran in this boot and pid namespace, and is not there now."""
    try:
        owner = msgspec.json.decode(lock, type=_Owner)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    mine = osutil.process_identity(os.getpid()).split("/")[:-2]
    return bool(mine) and owner.process.split("/")[:-2] == mine and osutil.process_identity(owner.pid) != owner.process


class _PruneRecord(msgspec.Struct):
    packs: tuple[str, ...]


def condemned_packs(store: Store) -> dict[str, frozenset[PackId]]:
    """Return the packs that each prune record condemns, by the record's name.

    FormatError if a record cannot be read: what it condemns is unknown, so nothing may be taken as present.
    """
    records: dict[str, frozenset[PackId]] = {}
    for info in store.list("prunes/"):
        try:
            data = store.get(info.name)
            record = msgspec.json.decode(data, type=_PruneRecord)
            if not all(map(is_id, record.packs)):
                raise ValueError("it names what is no pack")
            records[info.name] = frozenset(PackId(bytes.fromhex(digits)) for digits in record.packs)
        except ObjectNotFound:
            continue
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise FormatError(
                f"the prune record {info.name} is damaged: {error}",
                hint="if no prune is running, move it out of the repository and run the command again",
            ) from error
    return records
