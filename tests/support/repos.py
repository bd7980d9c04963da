"""Repositories in memory made by real backups, small packs on demand, and tools that take packs apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drkit.backup import BackupOptions, BackupReport, backup
from drkit.format import frames
from drkit.format import settings as settings_format
from drkit.format.pack import PackTable, encode_tail
from drkit.format.settings import ChunkerSettings, Settings
from drkit.model import Entry, FormatVersion, Kind, PackId, Snapshot
from drkit.progress import NullProgress
from drkit.repo import BlobReader, Repository, Segment
from drkit.repo.index import read_pack_table
from drkit.repo.names import pack_id_of, pack_name
from drkit.store.base import Store
from drkit.store.memory import MemoryStore

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TINY_CHUNKS = ChunkerSettings(min=64, avg=256, max=1024, threshold=2048)


class Bench:
    """A source directory, a repository, and a clock that goes on by a minute with each backup."""

    def __init__(self, root: Path, store: Store | None = None, *, chunker: ChunkerSettings | None = None) -> None:
        self.source = root / "source"
        self.source.mkdir()
        self.store = MemoryStore() if store is None else store
        self.now = START
        self._written = 0
        Repository.create(self.store, now=self.now)
        if chunker is not None:
            made = Settings(FormatVersion(), "0" * 32, "2026-03-01T12:00:00+00:00", chunker=chunker)
            for name in ("drkit.json", "drkit-copy.json"):
                self.store.put(name, settings_format.encode(made), overwrite=True)

    @property
    def repo(self) -> Repository:
        """The repository, newly opened: nothing of it is in memory."""
        return Repository.open(self.store)

    def write(self, path: str, data: bytes = b"x") -> None:
        """Write a file of the source, with the directories above it."""
        full = self.source / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(data)
        # A time of its own: a rewritten file is never mistaken for the one before.
        self._written += 1
        os.utime(full, (1_700_000_000 + self._written, 1_700_000_000 + self._written))

    def plugin(self, path: str, files: int = 10) -> None:
        """Write a plugin whose files all differ."""
        self.write(f"{path}/.claude-plugin/plugin.json", b'{"name":"%s"}' % path.encode())
        for number in range(files):
            noise = hashlib.shake_256(f"{path} {number}".encode()).hexdigest(10 * number)
            self.write(f"{path}/skills/s{number}.md", f"# skill {number} of {path}\n{noise}\n".encode())

    def back_up(self, *, tags: Iterable[str] = ()) -> BackupReport:
        """Back up without a stat cache."""
        self.now += timedelta(minutes=1)
        return backup(
            self.repo,
            os.fsencode(self.source),
            options=BackupOptions(tags=tuple(tags)),
            progress=NullProgress(),
            now=lambda: self.now,
            cache_dir=None,
        )

    def files(self) -> dict[bytes, bytes]:
        """What the source's files hold, by path."""
        return {
            os.fsencode(path.relative_to(self.source)): path.read_bytes()
            for path in self.source.rglob("*")
            if path.is_file() and not path.is_symlink()
        }


def small_packs(monkeypatch: pytest.MonkeyPatch, *, pack: int = 3000, frame: int = 1000, meta: int = 1000) -> None:
    """Let backups write many packs of many frames out of little content."""
    monkeypatch.setattr("drkit.repo.packer.PACK_TARGET", pack)
    monkeypatch.setattr("drkit.repo.packer.FRAME_TARGET", frame)
    monkeypatch.setattr("drkit.repo.packer.POOL_TARGET", 2 * frame)
    monkeypatch.setattr("drkit.repo.packer.META_FRAME_TARGET", meta)
    monkeypatch.setattr("drkit.repo.treewriter.SMALL_BACKUP", frame)


def names(store: Store, prefix: str) -> list[str]:
    """The names of the objects below a prefix."""
    return [info.name for info in store.list(prefix)]


def pack_ids(store: Store) -> list[PackId]:
    """The packs in a store."""
    return [pack_id for name in names(store, "packs/") if (pack_id := pack_id_of(name))]


def latest(repo: Repository) -> Snapshot:
    """The newest snapshot."""
    return repo.load(repo.resolve("latest"))


def whole(repo: Repository, snap: Snapshot | None = None, *, below: bytes = b"") -> list[Segment]:
    """The segments of a snapshot, none of them lost."""
    found = list(repo.segments(snap or latest(repo), below=below))
    assert [segment.lost for segment in found if segment.lost] == []
    return found


def contents(repo: Repository, snap: Snapshot | None = None, *, below: bytes = b"") -> dict[bytes, bytes]:
    """What a snapshot's files hold, by path, read through one reader."""
    reader = repo.reader()
    return {
        path: content(reader, entry, segment)
        for segment in whole(repo, snap, below=below)
        for path, entry in zip(segment.paths, segment.entries, strict=True)
        if entry.type == "f" and (not below or path == below or path.startswith(below + b"/"))
    }


def content(reader: BlobReader, entry: Entry, segment: Segment) -> bytes:
    """A file's content, and proof that it is that of the manifest."""
    data = b"".join(reader.content(entry, segment.places))
    assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.size, entry.sha256)
    return data


Blob = tuple[Kind, bytes, bytes]


def blobs_of(store: Store, pack_id: PackId) -> list[list[Blob]]:
    """Kind, id and content of each blob, frame by frame; hints have the id b""."""
    data = store.get(pack_name(pack_id))
    table = read_pack_table(store, pack_id, len(data))
    plain = [frames.decode(data[at : at + length], size) for at, length, size in table.offsets()]
    found: list[list[Blob]] = [[] for _ in plain]
    for frame, kind, blob_id, offset, length in table.rows():
        found[frame].append((kind, blob_id, plain[frame][offset : offset + length]))
    return found


def put_pack(store: Store, content: list[list[Blob]]) -> PackId:
    """Write a pack of these frames; what its table says of ids is not checked."""
    table, data = PackTable.empty(), bytearray()
    for blobs in content:
        packed = frames.compressor(1).compress(b"".join(blob[2] for blob in blobs))
        table.add(len(packed), [(kind, blob_id, len(plain)) for kind, blob_id, plain in blobs])
        data += packed
    data += encode_tail(table)
    pack_id = PackId(hashlib.sha256(data).digest())
    store.put(pack_name(pack_id), data, overwrite=True)
    return pack_id


def repack(
    store: Store, pack_id: PackId, change: Callable[[list[list[Blob]]], list[list[Blob]]] = lambda content: content
) -> PackId:
    """Replace a pack by one with other frames, as a prune or a mischief-maker would; the index is not touched."""
    content = change(blobs_of(store, pack_id))
    store.delete(pack_name(pack_id))
    return put_pack(store, content)
