"""What the tests of forget and prune share: pruning without waiting, and proof that all that is kept is whole."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from drkit.model import Level, SnapshotId
from drkit.progress import NullProgress
from drkit.repo import Repository
from drkit.repo.index import read_pack_table, stored_packs
from drkit.retention import Limits, Policy, PruneOptions, PruneReport, forget, prune
from drkit.store import MemoryStore
from drkit.store.base import Store
from drkit.verify import verify
from tests.support.repos import Bench, small_packs

KEEP_ALL = Limits(share=float("inf"))
NOTHING_UNUSED = Limits(share=0.0)


class Ticks:
    """The clock of a memory store: every write is a second after the one before."""

    def __init__(self, start: float = 1_750_000_000.0) -> None:
        self.ahead = 0.0
        self._ticks = count(start)

    def __call__(self) -> float:
        return next(self._ticks) + self.ahead


def rewritten_halves(root: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Plugins in many small packs, of which half the files change with each of four backups."""
    small_packs(monkeypatch)
    monkeypatch.setattr("drkit.repo.packer.FRAME_JOINED", 400)
    monkeypatch.setattr("drkit.retention.repack.FRAME_JOINED", 400)
    monkeypatch.setattr("drkit.retention.plan.SMALL_PACK", 500)
    made = Bench(root, MemoryStore(clock=Ticks()))
    chance = random.Random(3)
    for turn in range(4):
        for number in range(6):
            if turn == 0:
                made.plugin(f"plugins/p{number}", 12)
            for which in range(0, 12, 2):
                made.write(f"plugins/p{number}/skills/s{which}.md", b"%d %d " % (turn, which) + chance.randbytes(120))
        made.back_up()
    return made


def utc_now() -> datetime:
    return datetime.now(UTC)


def no_sleep(_seconds: float) -> None:
    """Wait for nobody."""


def run_prune(
    store: Store,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    *,
    dry_run: bool = False,
    min_age_s: float = 0.0,
    wait_s: float = 0.0,
) -> PruneReport:
    """Prune, as a new process would."""
    return prune(
        Repository.open(store),
        PruneOptions(limits=limits, dry_run=dry_run, min_age_s=min_age_s, wait_s=wait_s),
        progress=NullProgress(),
        now=utc_now,
        sleep=no_sleep,
    )


def keep_last(store: Store, number: int) -> list[SnapshotId]:
    """Forget all but the last snapshots; return the ids of those that are left."""
    report = forget(Repository.open(store), Policy(last=number))
    return [one.ref.id for one in report.kept]


def check_all(store: Store) -> Repository:
    """Verify every snapshot and every pack; nothing may be wrong, and nothing be left without an index."""
    repo = Repository.open(store)
    report = verify(repo, repo.snapshots(), level=Level.CONTENT, every_pack=True, progress=NullProgress())
    assert [(found.code, found.object, found.message) for found in report.findings] == []
    return repo


def sizes(store: Store, prefix: str = "packs/") -> int:
    """The sum of the sizes of the objects below a prefix."""
    return sum(info.size for info in store.list(prefix))


def frame_sizes(store: Store) -> list[int]:
    """The plaintext sizes of all frames of all packs."""
    return [
        size
        for pack, length in stored_packs(store).items()
        for _, _, size in read_pack_table(store, pack, length).offsets()
    ]
