"""Verifying a bench at each level, damaging what its store holds, and finding out by reading what is lost by it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from drkit.model import Kind, Level, PackId
from drkit.progress import NullProgress
from drkit.repo import BlobLost
from drkit.repo.index import read_pack_table, stored_packs
from drkit.repo.names import pack_name
from drkit.verify import VerifyReport, verify
from tests.support.backups import MARKER, Bench

ALL = (Level.EXISTS, Level.PACKS, Level.CONTENT, Level.RESTORE)


def fill(bench: Bench) -> None:
    """Two snapshots, two packs, two plugins, a file in several chunks and one with a blob list."""
    for plugin in ("one", "two"):
        bench.write(f"{plugin}/{MARKER}", json.dumps({"name": plugin}).encode())
        for number in range(20):
            bench.write(f"{plugin}/{number}", os.urandom(200))
    bench.write("chunks", os.urandom(5000))
    bench.write("list", os.urandom(60_000))
    bench.take()
    bench.write("later/new", os.urandom(300))
    bench.write("two/7", b"changed")
    bench.take()


def check(bench: Bench, level: Level, *, latest: bool = False, **options: object) -> VerifyReport:
    """Verify all snapshots or the latest. A report that contradicts itself, or scratch that is left, is an error."""
    repository = bench.open()
    refs = repository.snapshots()[-1:] if latest else repository.snapshots()
    scratch = bench.home / "scratch"
    scratch.mkdir(exist_ok=True)
    report = verify(
        repository,
        refs,
        level=level,
        scratch=os.fsencode(scratch),
        progress=NullProgress(),
        **options,  # type: ignore[arg-type]
    )
    assert list(scratch.iterdir()) == []
    assert report.ok == (not report.findings)
    assert all(finding.code and finding.object and finding.message and finding.repair for finding in report.findings)
    assert len(set(report.findings)) == len(report.findings)
    return report


def codes(report: VerifyReport) -> set[str]:
    return {finding.code for finding in report.findings}


def found_from(bench: Bench, level: Level, code: str, *, latest: bool = False) -> VerifyReport:
    """The finding comes at this level and above, and nothing comes below."""
    for each in ALL:
        report = check(bench, each, latest=latest)
        if each < level:
            assert report.findings == (), each
        else:
            assert code in codes(report), (each, report.findings)
    return check(bench, level, latest=latest)


def lost(bench: Bench) -> set[str]:
    """Snapshot and path of every file that cannot be read, found by reading them all."""
    repository = bench.open()
    reader = repository.reader()
    names = set()
    for ref in repository.snapshots():
        for segment in repository.segments(repository.load(ref)):
            for entry in segment.entries:
                try:
                    list(reader.content(entry, segment.places))
                except BlobLost:
                    names.add(f"{ref.name} {entry.path}")
    return names


def named(report: VerifyReport) -> set[str]:
    return {finding.object for finding in report.findings if finding.code == "file-lost"}


def alter(bench: Bench, name: str, change: Callable[[bytes], bytes]) -> None:
    bench.store.put(name, change(bench.store.get(name)), overwrite=True)


def flip(at: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= 0x10
        return bytes(changed)

    return change


def frames_of(bench: Bench, pack: PackId, kind: Kind) -> list[tuple[int, int]]:
    """Offset and length of the frames of a pack that hold blobs of a kind."""
    table = read_pack_table(bench.store, pack, bench.store.stat(pack_name(pack)).size)
    starts = [(at, length) for at, length, _ in table.offsets()]
    return [starts[frame] for frame in sorted({row[0] for row in table.rows() if row[1] == kind})]


def largest(bench: Bench) -> PackId:
    sizes = stored_packs(bench.store)
    return max(sizes, key=lambda pack: sizes[pack])
