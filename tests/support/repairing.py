"""Repairing a bench, and damaging the files of a store by chance."""

from __future__ import annotations

import random
from pathlib import Path

from drkit.progress import NullProgress
from drkit.repair import RepairReport, repair
from drkit.store import Store
from tests.support.repos import Bench


def repaired(bench: Bench, *copies: Store, store: Store | None = None, dry_run: bool = False) -> RepairReport:
    """Repair a bench's own store, or another one at its time."""
    return repair(store or bench.store, copies, dry_run=dry_run, progress=NullProgress(), now=lambda: bench.now)


def flip_all_over(folder: Path, chance: random.Random, *, share: float, spare: str = "") -> int:
    """Flip a bit in this share of the files; return in how many. Files of the name `spare` stay as they are."""
    count = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != spare):
        if chance.random() < share:
            data = bytearray(path.read_bytes())
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path.chmod(0o600)
            path.write_bytes(data)
            count += 1
    return count
