"""What the guard works on, and which proof an edit takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime

from msgspec import Struct

from drkit.backup import BackupOptions
from drkit.backup.live import InUse
from drkit.clock import utc_now
from drkit.guard.lock import Waiting
from drkit.inventory import Inventory
from drkit.model import Level
from drkit.repo import Repository
from drkit.store.base import Store


class Policy(Struct, frozen=True):
    """The proof without which there is no permit.

    `level` of verification of the plugin; a proof of the same content that is recorded and younger than `max_age_s`
    may stand for a new one (None: always a new one). It must hold in `copies` stores, the repository's own among them,
    and in all of `stores` (names or URLs): before there is a permit, the snapshot is copied there, and proved there.
    """

    level: Level = Level.RESTORE
    max_age_s: float | None = None
    copies: int = 1
    stores: tuple[str, ...] = ()


class Elsewhere(Struct, frozen=True):
    """Another store that holds, or is to hold, a copy of the repository: its name, its URL, and how it is opened."""

    name: str
    url: str
    open: Callable[[], Store]


class Site(Struct):
    """A source, and where its snapshots and records go; made once for a command.

    `source` is an absolute real path. `others` are the stores of the repository's copies; `policy` is what holds where
    a call names none. `in_use` are the databases that this process has open: never read as files.
    """

    source: bytes
    repo: Repository
    store_url: str
    inventory: Inventory
    options: BackupOptions = BackupOptions()
    cache_dir: bytes | None = None
    in_use: tuple[InUse, ...] = ()
    others: tuple[Elsewhere, ...] = ()
    policy: Policy = Policy()
    lock_timeout_s: float = 60.0
    now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[int], bytes] = os.urandom

    @property
    def waiting(self) -> Waiting:
        """How long this site's locks are waited for."""
        return Waiting(self.lock_timeout_s, self.monotonic, self.sleep)
