"""A source, a repository and a stat cache to back up with, and everything that a snapshot holds in one value."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from drkit.backup import BackupOptions, BackupReport, backup
from drkit.format import settings
from drkit.format.manifest import encode_line
from drkit.format.settings import ChunkerSettings
from drkit.model import PluginRow, Snapshot
from drkit.progress import NullProgress
from drkit.repo import Repository, Segment
from drkit.repo.index import load_index
from drkit.repo.lock import condemned_packs
from drkit.store import MemoryStore
from drkit.store.base import Store
from tests.support.mini_repo import Entry, Record, named, raw, scan, tree_hash

SMALL_CHUNKS = ChunkerSettings(threshold=2048, min=256, avg=512, max=1024)
"""With these a file of 40 KB has more chunks than an entry names by itself."""

_COARSE_CLOCK = 5
"""CLOCK_REALTIME_COARSE of Linux: file systems stamp with it, in steps of up to 10 ms."""

MARKER = ".claude-plugin/plugin.json"


@contextmanager
def many_segments() -> Iterator[None]:
    """Cut after every few entries, so that a small tree has several levels of lists and several cache blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drkit.format.nodes.SEGMENT_CUT", 3)
        patch.setattr("drkit.format.nodes.LIST_CUT", 3)
        patch.setattr("drkit.format.nodes.NODE_ENTRIES", 6)
        patch.setattr("drkit.repo.treewriter.ROOT_CHILDREN", 3)
        patch.setattr("drkit.backup.statcache._BLOCK_SEGMENTS", 3)
        yield


class Image(NamedTuple):
    """All of a snapshot that depends on the source alone, and nothing that depends on when and where it was taken."""

    lines: list[bytes]
    segments: list[str]
    lists: list[str]
    roots: list[list[str]]
    plugins: list[PluginRow]
    tree_sha256: str
    counts: tuple[int, ...]


class Bench:
    """A source directory, a repository and a cache directory below `home`, with a clock of their own.

    The clock goes a minute ahead of the machine's, so that the files' stats are trusted at once.
    """

    def __init__(self, home: Path, store: Store | None = None, chunker: ChunkerSettings | None = None) -> None:
        self.home = home
        self.root = home / "source"
        self.root.mkdir(exist_ok=True)
        self.cache = os.fsencode(home / "cache")
        self.ahead = timedelta(minutes=1)
        self.store = store or MemoryStore()
        created = Repository.create(self.store, now=self.now())
        if chunker is not None:
            config = msgspec.structs.replace(created.config, chunker=chunker)
            for name in ("drkit.json", "drkit-copy.json"):
                self.store.put(name, settings.encode(config), overwrite=True)

    def beside(self, store: Store, cache: Path) -> Bench:
        """Return a bench with the same source, another store and another cache."""
        other = copy.copy(self)
        other.store, other.cache = store, os.fsencode(cache)
        return other

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    @property
    def source(self) -> bytes:
        return os.fsencode(self.root)

    def open(self) -> Repository:
        return Repository.open(self.store)

    def take(self, *, cache: bool = True, source: bytes | None = None, **options: Any) -> BackupReport:
        """Back up, as a new process would. What changes afterwards has a later ctime, even by a coarse clock."""
        report = backup(
            self.open(),
            self.source if source is None else source,
            options=BackupOptions(**options),
            progress=NullProgress(),
            now=self.now,
            cache_dir=self.cache if cache else None,
        )
        next_tick()
        return report

    def fresh(self, **options: Any) -> Image:
        """Return what a backup into a new repository, without a cache, gives."""
        repository = Repository(MemoryStore(), self.open().config, [])
        report = backup(
            repository,
            self.source,
            options=BackupOptions(**options),
            progress=NullProgress(),
            now=self.now,
            cache_dir=None,
        )
        assert report.warnings == ()
        return image(repository, report.snapshot)

    def image(self, report: BackupReport) -> Image:
        return image(self.open(), report.snapshot)

    def write(self, path: str | bytes, data: bytes = b"x") -> Path:
        """Write a file, with the directories above it."""
        full = self.root / os.fsdecode(path)
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(data)
        return full

    def paths(self, report: BackupReport) -> list[bytes]:
        return [raw(json.loads(line), "path") for line in self.image(report).lines]

    def cache_file(self) -> Path:
        (found,) = (path for path in Path(os.fsdecode(self.cache)).rglob("*") if path.is_file())
        return found


def next_tick() -> None:
    """Wait until the clock that file systems stamp with has moved on: some milliseconds at most."""
    before = time.clock_gettime_ns(_COARSE_CLOCK)
    for _ in range(1000):
        if time.clock_gettime_ns(_COARSE_CLOCK) != before:
            return
        time.sleep(0.0005)
    raise AssertionError("the clock stands still")


def image(repository: Repository, snapshot_id: str) -> Image:
    """Read a snapshot; everything in it must be readable."""
    snap = repository.load(repository.resolve(snapshot_id))
    lists: list[str] = []
    lines: list[bytes] = []
    segments: list[str] = []
    for segment in repository.segments(snap, passed=lists.append):
        assert not segment.lost, segment
        segments.append(segment.id)
        lines += map(encode_line, segment.entries)
    table = [node.id for node in repository.leaves(repository.reader(), snap.plugin_table, passed=lists.append)]
    return Image(
        lines,
        segments,
        lists + table,
        [[child.id for child in root.children] for root in (snap.manifest, snap.plugin_table)],
        list(repository.plugins(snap)),
        snap.tree_sha256,
        (snap.files, snap.dirs, snap.others, snap.plugins, snap.bytes),
    )


def content(repository: Repository, snap: Snapshot) -> list[Entry]:
    """Return every entry as a record, as `scan` gives it, with its content read back from the repository."""
    reader = repository.reader()
    found = []
    for segment in repository.segments(snap):
        assert not segment.lost, segment
        for entry in segment.entries:
            record: Record = json.loads(encode_line(entry))
            data = entry.raw_target if entry.type == "l" else b"".join(reader.content(entry, segment.places))
            for key in ("size", "sha256", "blobs", "lists", "target", "target_b64"):
                record.pop(key, None)
            assert entry.size == (len(data) if entry.type == "f" else 0)
            found.append((record, data))
    return found


def plugin_rows(entries: list[Entry], source: Path, markers: tuple[str, ...] = (MARKER,)) -> list[Record]:
    """The plugin table of scanned entries, straight from its definition."""
    files = {raw(record, "path"): data for record, data in entries if record["type"] == "f"}
    directories = [b"", *(raw(record, "path") for record, _ in entries if record["type"] == "d")]
    rows = []
    for directory in directories:
        prefix = directory + b"/" if directory else b""
        if not any(prefix + marker.encode() in files for marker in markers):
            continue
        try:
            found = json.loads(files.get(prefix + MARKER.encode(), b""))
        except ValueError:
            found = None
        said = {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}
        inside = [data for path, data in files.items() if path.startswith(prefix)]
        base = os.path.basename(directory or os.fsencode(source)).decode("utf-8", "backslashreplace")
        row = {
            **(named("path", directory) if directory else {}),
            "name": said.get("name") or base,
            "version": said.get("version", ""),
            "files": len(inside),
            "bytes": sum(map(len, inside)),
            "tree_sha256": tree_hash(entries, directory),
        }
        rows.append({key: value for key, value in row.items() if value or key == "name"})
    return rows


def check_against_source(bench: Bench, report: BackupReport, markers: tuple[str, ...] = (MARKER,)) -> None:
    """The snapshot is the source as it stands on disk: entries, content, counts, hashes and plugins."""
    repository = bench.open()
    snap = repository.load(repository.resolve(report.snapshot))
    expected = scan(bench.root)
    assert content(repository, snap) == expected
    assert snap.tree_sha256 == report.tree_sha256 == tree_hash(expected)
    kinds = [record["type"] for record, _ in expected]
    sizes = sum(len(data) for record, data in expected if record["type"] == "f")
    assert (snap.files, snap.dirs, snap.bytes) == (kinds.count("f"), kinds.count("d"), sizes)
    assert snap.others == len(kinds) - snap.files - snap.dirs
    rows = [msgspec.to_builtins(row) for row in repository.plugins(snap)]
    assert rows == plugin_rows(expected, bench.root, markers)
    assert snap.plugins == len(rows)


def reachable(repository: Repository, snap: Snapshot) -> set[bytes]:
    """The ids of all blobs that the snapshot needs, nodes included."""
    needed: set[str] = set()
    reader = repository.reader()
    for segment in repository.segments(snap, passed=needed.add):
        needed.add(segment.id)
        for entry in segment.entries:
            needed.update(entry.lists or entry.blobs or ([entry.sha256] if entry.size else []))
            for list_id in entry.lists:
                data = reader.blob(list_id, None)
                needed.update(data[at : at + 32].hex() for at in range(0, len(data), 32))
    for node in repository.leaves(reader, snap.plugin_table, passed=needed.add):
        assert not isinstance(node, Segment)
        needed.add(node.id)
    return {bytes.fromhex(blob) for blob in needed}


def check_whole(bench: Bench, report: BackupReport) -> None:
    """Everything that the snapshot needs lies in packs that are there, of the right size, and not condemned."""
    repository = bench.open()
    snap = repository.load(repository.resolve(report.snapshot))
    loaded = load_index(bench.store, without=frozenset().union(*condemned_packs(bench.store).values()))
    assert [blob.hex() for blob in reachable(repository, snap) if blob not in loaded.index] == []
