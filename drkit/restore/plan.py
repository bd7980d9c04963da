"""The first pass over a manifest: what a restore will write, before anything is written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from drkit.errors import IntegrityError, NoSpace
from drkit.format.limits import CHUNK_MAX, CHUNK_THRESHOLD
from drkit.model import show_path
from drkit.repo.reader import BlobReader
from drkit.restore.report import Lost
from drkit.restore.select import Batch

_BLOCK = 4096


class Plan(Struct):
    """Counts of what was selected, names of a hard-link group included.

    `space` is about what it takes on disk without holes; `large` says that there are files which may have some.
    `repeats` counts the uses of blobs that are needed more than once.
    """

    files: int = 0
    dirs: int = 0
    links: int = 0
    others: int = 0
    bytes: int = 0
    space: int = 0
    large: bool = False
    lost: tuple[Lost, ...] = ()
    repeats: dict[str, int] = {}

    @property
    def entries(self) -> int:
        """How many names will be made."""
        return self.files + self.dirs + self.links + self.others


def make_plan(batches: Iterable[Batch]) -> Plan:
    """Count what the batches hold."""
    plan = Plan(repeats={})
    lost: list[Lost] = []
    seen: set[int] = set()  # 60 bits of each blob id: a collision only keeps a blob in memory for nothing
    for batch in batches:
        if batch.lost is not None:
            lost.append(batch.lost)
        for _, entry, first in batch.items:
            kind = entry.type
            if kind == "d":
                plan.dirs += 1
                plan.space += _BLOCK
                continue
            if kind != "f":
                plan.links += kind == "l"
                plan.others += kind != "l"
                continue
            plan.files += 1
            plan.bytes += entry.size
            if first is not None or not entry.size:
                continue
            plan.space += -(-entry.size // _BLOCK) * _BLOCK
            if entry.size > CHUNK_THRESHOLD:
                plan.large = True
                continue
            short = int(entry.sha256[:15], 16)
            if short in seen:
                plan.repeats[entry.sha256] = plan.repeats.get(entry.sha256, 1) + 1
            else:
                seen.add(short)
    plan.lost = tuple(lost)
    return plan


def check_space(plan: Plan, target: bytes, fd: int, batches: Callable[[], Iterator[Batch]], reader: BlobReader) -> None:
    """Raise NoSpace if the file system of `fd` has less room than the plan takes.

    Only where it looks too small the holes of large files are counted, which takes another pass over `batches`.
    """
    found = os.fstatvfs(fd)
    free = found.f_bavail * found.f_frsize
    if plan.space <= free:
        return
    needed = plan.space - (_holes(batches(), reader) if plan.large else 0)
    if needed > free:
        raise NoSpace(
            f"{show_path(target)} needs {needed:,} bytes, and its file system has {free:,} free",
            hint="free some space, or restore to another file system with --target; nothing was written",
        )


def _holes(batches: Iterable[Batch], reader: BlobReader) -> int:
    """Return how many bytes of the large files are in chunks of nothing but zeros."""
    zero = hashlib.sha256(bytes(CHUNK_MAX)).hexdigest()
    raw = bytes.fromhex(zero)
    chunks = 0
    for batch in batches:
        for _, entry, _ in batch.items:
            chunks += entry.blobs.count(zero)
            for list_id in entry.lists:
                try:
                    ids = reader.blob(list_id, batch.places.get(list_id))
                except IntegrityError:
                    continue  # the restore itself reports the file that needs it
                chunks += sum(ids[at : at + 32] == raw for at in range(0, len(ids), 32))
    return chunks * CHUNK_MAX
