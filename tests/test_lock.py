"""The lock of a backup: who may take it away."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from drkit import osutil
from drkit.repo.lock import BackupLock
from drkit.store import MemoryStore


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


def locks(store: MemoryStore) -> list[str]:
    return [info.name for info in store.list("locks/")]


def lock_of(process: str, pid: int) -> bytes:
    return msgspec.json.encode({"kind": "backup", "host": "h", "pid": pid, "process": process, "started": ""})


def test_lock_is_there_while_held_and_gone_afterwards() -> None:
    store = MemoryStore()
    with BackupLock(store, now) as lock:
        assert locks(store) == [lock.name]
        assert lock.held()
    assert locks(store) == []


def test_lock_of_a_living_process_stays() -> None:
    store = MemoryStore()
    mine = osutil.process_identity(os.getpid())
    store.put("locks/backup-00", lock_of(mine, os.getpid()))
    store.put("locks/backup-01", b"not json")
    store.put("locks/backup-02", lock_of("another boot/pid:[1]/7/1", 7))
    with BackupLock(store, now):
        assert set(locks(store)) >= {"locks/backup-00", "locks/backup-01", "locks/backup-02"}


@pytest.mark.skipif(not osutil.process_identity(os.getpid()), reason="this system does not identify processes")
def test_lock_of_a_killed_process_goes() -> None:
    script = "import os; from drkit import osutil; print(osutil.process_identity(os.getpid()))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        identity = process.communicate()[0].strip()
    assert identity
    store = MemoryStore()
    store.put("locks/backup-00", lock_of(identity, process.pid))
    with BackupLock(store, now) as lock:
        assert locks(store) == [lock.name]


def test_lock_that_was_not_rewritten_for_half_an_hour_goes() -> None:
    stamps = iter([0.0, timedelta(minutes=31).total_seconds()])
    store = MemoryStore(clock=lambda: next(stamps))
    store.put("locks/backup-00", b"{}")
    with BackupLock(store, now) as lock:
        assert locks(store) == [lock.name]
