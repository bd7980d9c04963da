"""The first pass over a manifest: what a restore will write, before anything is written."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from drkit.errors import IntegrityError, NoSpace
from drkit.format.limits import CHUNK_MAX, CHUNK_THRESHOLD, POOL_TARGET
from drkit.model import Entry, Place, show_path
from drkit.repo.reader import BlobReader
from drkit.repo.repository import Repository
from drkit.restore.report import Lost
from drkit.restore.select import Batch

_BLOCK = 4096
_Path = bytes
_FIRST = 0.54
"""The first process's share: the second has to start."""


class Plan(Struct):
    """Counts of what was selected, names of a hard-link group included.

    `space` is about what it takes on disk, without holes and by the sizes that the manifest claims. `repeats` counts
    the uses of blobs that are needed more than once. `linked` says that names of hard links are among them. `middle` is
    the first path of the segment at which the work may be halved, `around` that of one so far before it that nothing
    before that shares a frame with what comes after the middle.
    """

    files: int = 0
    dirs: int = 0
    links: int = 0
    others: int = 0
    bytes: int = 0
    space: int = 0
    lost: tuple[Lost, ...] = ()
    repeats: dict[str, int] = {}
    linked: bool = False
    middle: _Path = b""
    around: _Path = b""

    @property
    def entries(self) -> int:
        """How many names will be made."""
        return self.files + self.dirs + self.links + self.others


def make_plan(batches: Iterable[Batch], *, expected: int = 0) -> Plan:
    """Count what the batches hold: `expected` entries, by what the snapshot says."""
    plan = Plan(repeats={})
    lost: list[Lost] = []
    near: deque[tuple[int, bytes]] = deque()
    seen: set[int] = set()  # 60 bits of each blob id: a collision only keeps a blob in memory for nothing
    for batch in batches:
        if batch.lost is not None:
            lost.append(batch.lost)
        if batch.items and not plan.middle:
            near.append((plan.bytes, batch.items[0][0]))
            while plan.bytes - near[0][0] > 2 * POOL_TARGET:
                near.popleft()
            if plan.entries >= _FIRST * expected > 0:
                plan.around, plan.middle = near[0][1], near[-1][1]
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
            if first is not None:
                plan.linked = True
                continue
            if not entry.size:
                continue
            plan.space += _on_disk(entry.size)
            if entry.size > CHUNK_THRESHOLD:
                continue
            short = int(entry.sha256[:15], 16)
            if short in seen:
                plan.repeats[entry.sha256] = plan.repeats.get(entry.sha256, 1) + 1
            else:
                seen.add(short)
    plan.lost = tuple(lost)
    return plan


def check_space(plan: Plan, target: bytes, fd: int, batches: Iterable[Batch], repo: Repository) -> None:
    """Raise NoSpace if the file system of `fd` has less room than the plan takes.

    Only where it looks too small another pass, over `batches`, finds what will not be written.
    """
    found = os.fstatvfs(fd)
    free = found.f_bavail * found.f_frsize
    if plan.space <= free:
        return
    needed = plan.space - _unwritten(batches, repo)
    if needed > free:
        raise NoSpace(
            f"{show_path(target)} needs {needed:,} bytes, and its file system has {free:,} free",
            hint="free some space, or restore to another file system with --target; nothing was written",
        )


def _unwritten(batches: Iterable[Batch], repo: Repository) -> int:
    """Return how many bytes of a plan's space are holes, or files whose blobs do not add up to their size.

    Those are lost, however much they claim to need: the restore itself reports them.
    """
    reader, index = repo.reader(), repo.index
    zero = hashlib.sha256(bytes(CHUNK_MAX)).digest()
    unwritten = 0
    for batch in batches:
        for _, entry, first in batch.items:
            if entry.type != "f" or first is not None or not entry.size:
                continue
            known = holes = 0
            try:
                for ids in _blob_ids(entry, reader, batch.places):
                    known += sum(length or 0 for length in index.lengths(ids))
                    holes += ids.count(zero)
            except IntegrityError:  # a list is lost, and the file with it
                known = 0
            unwritten += holes * CHUNK_MAX if known == entry.size else _on_disk(entry.size)
    return unwritten


def _blob_ids(entry: Entry, reader: BlobReader, places: Mapping[str, Place]) -> Iterator[list[bytes]]:
    """Yield the ids of a file's blobs in order, list by list."""
    if not entry.lists:
        yield [bytes.fromhex(blob_id) for blob_id in entry.blobs or (entry.sha256,)]
    for list_id in entry.lists:
        ids = reader.blob(list_id, places.get(list_id))
        yield [ids[at : at + 32] for at in range(0, len(ids), 32)]


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
