"""Verifying packs: that their bytes hash to their names, and that every frame and blob in them is what it should be."""

from __future__ import annotations

import hashlib
from itertools import accumulate, pairwise

from msgspec import Struct

from drkit.errors import FormatError, ObjectNotFound, StoreCorrupt, StoreError
from drkit.format import frames
from drkit.format.indexfile import shorten
from drkit.format.pack import PackTable, read_table
from drkit.model import Finding, Kind, Level, PackId
from drkit.repo.names import pack_name
from drkit.repo.parity import parity_name, parity_problem
from drkit.store.base import Store

REPAIR = (
    "run 'drkit repair --from URL' if there is a copy; or back up again, which stores what the source still has; "
    "restore the rest from another snapshot"
)
_EXCHANGE = (
    "run 'drkit repair', with --from URL if there is a copy; "
    "or move it out of the repository, back up again, which stores what the source still has, "
    "and put it back: what is intact in it is still read"
)
_REBUILD = "run 'drkit repair': it writes the index anew"
_NO_PARITY = "nothing is lost; 'drkit repair' makes the parity anew"


class PackResult(Struct):
    """What reading one pack showed."""

    bytes_read: int
    findings: list[Finding]


def table_digest(table: PackTable) -> bytes:
    """Return a hash over all that the index keeps of a pack's tables."""
    short = shorten(table)
    columns = (short.frame_lengths, short.frame_sizes, short.frame_blobs, short.kinds, short.lengths, short.ids)
    return hashlib.sha256(b"".join(hashlib.sha256(column).digest() for column in columns)).digest()


def verify_pack(store: Store, pack_id: PackId, level: Level, indexed: bytes, *, parity: bool) -> PackResult:
    """Read a pack whole and check it to the level, PACKS or CONTENT, and there against what the index has of it.

    `indexed` is the `table_digest` of that, empty where the index does not have it. With `parity`, a check of the
    content includes the parity of the pack.
    """
    name = pack_name(pack_id)
    try:
        data = store.get(name)
    except ObjectNotFound:
        return PackResult(0, [Finding("pack-missing", name, "the pack is missing", REPAIR)])
    except StoreError as error:
        repair = REPAIR if isinstance(error, StoreCorrupt) else error.hint
        return PackResult(0, [Finding("pack-unreadable", name, str(error), repair)])
    findings = []
    if hashlib.sha256(data).digest() != pack_id:
        findings.append(Finding("pack-damaged", name, "its bytes do not hash to its name", _EXCHANGE))
    if level >= Level.CONTENT:
        findings += _verify_frames(name, data, b"" if findings else indexed)
        findings += verify_parity(store, pack_id) if parity else ()
    return PackResult(len(data), findings)


def verify_parity(store: Store, object_id: bytes) -> list[Finding]:
    """Return a finding if the parity of a pack or snapshot is damaged or missing."""
    if not (problem := parity_problem(store, object_id)):
        return []
    return [Finding("parity-damaged", parity_name(object_id), f"the parity is {problem}", _NO_PARITY)]


def _verify_frames(name: str, data: bytes, indexed: bytes) -> list[Finding]:
    view = memoryview(data)
    try:
        table = read_table(len(data), lambda offset, length: bytes(view[offset : offset + length]))
    except FormatError as error:
        return [Finding("pack-table", name, f"its tables are damaged: {error}", _EXCHANGE)]
    findings = []
    if indexed and indexed != table_digest(table):
        message = "the index does not say of it what its own tables say"
        findings.append(Finding("index-wrong", name, message, _REBUILD))
    first = at = 0
    for number, (offset, length, size) in enumerate(table.offsets()):
        count = table.frame_blobs[number]
        try:
            plain = frames.decode(view[offset : offset + length], size)
        except FormatError as error:
            findings.append(Finding("frame-damaged", name, f"the frame at byte {offset}: {error}", _EXCHANGE))
            plain = b""
        bad, at = _wrong_blobs(table, plain, first, count, at)
        if plain and bad:
            message = f"{bad} blobs of the frame at byte {offset} do not hash to their ids"
            findings.append(Finding("blob-damaged", name, message, _EXCHANGE))
        first += count
    return findings


def _wrong_blobs(table: PackTable, plain: bytes, first: int, count: int, at: int) -> tuple[int, int]:
    """Return (how many blobs of a frame have a wrong hash, where the next frame's ids begin)."""
    sha256 = hashlib.sha256
    view = memoryview(plain)
    ends = accumulate(table.lengths[first : first + count], initial=0)
    kinds = table.kinds[first : first + count]
    found = [
        sha256(view[start:end]).digest()
        for kind, (start, end) in zip(kinds, pairwise(ends), strict=True)
        if kind != Kind.HINTS
    ]
    end_of_ids = at + 32 * len(found)
    if b"".join(found) == table.ids[at:end_of_ids]:
        return 0, end_of_ids
    wrong = sum(digest != table.ids[at + 32 * n : at + 32 * n + 32] for n, digest in enumerate(found))
    return wrong, end_of_ids
