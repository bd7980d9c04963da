"""What the tests of restoring share: repositories in memory, made by hand or by a backup, and hostile manifests."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from drkit.backup import BackupOptions, backup
from drkit.clock import utc_now
from drkit.model import Entry, FormatVersion, Place, PluginRow, Root, Snapshot, SnapshotId
from drkit.progress import NullProgress
from drkit.repo import BlobLost, Repository, Segment, SnapshotRef
from drkit.restore import build as build_module
from drkit.store.memory import MemoryStore
from tests.support.trees import Node, build

REF = SnapshotRef("snapshots/made-up", SnapshotId("0" * 64), "20250101T000000.000000Z")
STAGE = ".drkit-0123456789abcdef"


@pytest.fixture(autouse=True, params=["one thread", "a thread ahead"])
def small_files_ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are decoded by the thread that writes them, large ones ahead: everything is tried both ways."""
    if request.param == "a thread ahead":
        monkeypatch.setattr(build_module, "_SMALL", 0)


def one_of_each(path: Path) -> Path:
    """Build a small tree with one entry of each kind; return its path."""
    build(
        path,
        Node(
            "d",
            mode=0o755,
            children={
                b"README.md": Node("f", size=5, seed=1),
                b"empty": Node("f"),
                b"same": Node("f", size=5, seed=1),
                b"skills": Node(
                    "d",
                    mode=0o2755,
                    children={
                        b"SKILL.md": Node("f", mode=0o4755, size=3000, seed=2),
                        b"link": Node("l", target=b"../README.md"),
                        b"pipe": Node("p", mode=0o620),
                    },
                ),
                b"two": Node("h"),
                b"void": Node("d", mode=0o500),
            },
        ),
    )
    return path


def back_up(
    source: Path | bytes, repo: Repository | None = None, *, excludes: tuple[str, ...] = ()
) -> tuple[Repository, SnapshotRef]:
    """Back a directory up into a repository, one in memory by default."""
    repo = repo or Repository.create(MemoryStore(), now=utc_now())
    options = BackupOptions(excludes=excludes)
    backup(repo, os.fsencode(source), options=options, progress=NullProgress(), now=utc_now, cache_dir=None)
    return repo, repo.resolve("latest")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file(path: str, content: bytes = b"content", **more: Any) -> Entry:
    """A file's entry; its content is looked up by hash in FakeRepository.blobs."""
    return _owned(path=path, type="f", size=len(content), sha256=sha(content), **{"mode": 0o644, **more})


def folder(path: str, **more: Any) -> Entry:
    return _owned(path=path, type="d", **{"mode": 0o755, **more})


def link(path: str, target: str, **more: Any) -> Entry:
    return _owned(path=path, type="l", target=target, mode=0, **more)


def pipe(path: str, **more: Any) -> Entry:
    return _owned(path=path, type="p", **{"mode": 0o644, **more})


def _owned(**fields: Any) -> Entry:
    return Entry(**{"uid": os.geteuid(), "gid": os.getegid(), "mtime_ns": 1_600_000_000_000_000_007, **fields})


def segment(*entries: Entry) -> Segment:
    paths = [entry.raw_path for entry in entries]
    return Segment(list(entries), {}, first=paths[0], paths=paths)


class FakeReader:
    """Blobs from a dict; what is not in it is lost."""

    def __init__(self, blobs: Mapping[str, bytes]) -> None:
        self.blobs = blobs

    def blob(self, blob_id: str, place: Place | None) -> bytes:
        try:
            return self.blobs[blob_id]
        except KeyError:
            raise BlobLost(f"the blob {blob_id[:16]}… is lost: no pack holds it") from None

    def content(self, entry: Entry, places: Mapping[str, Place]) -> Iterator[bytes]:
        ids = entry.blobs
        for list_id in entry.lists:
            raw = self.blob(list_id, None)
            ids += tuple(raw[at : at + 32].hex() for at in range(0, len(raw), 32))
        for blob_id in ids:
            yield self.blob(blob_id, None)


class FakeIndex:
    """Knows the blobs of a dict."""

    def __init__(self, blobs: Mapping[str, bytes]) -> None:
        self.blobs = blobs

    def lengths(self, ids: Iterable[bytes]) -> list[int | None]:
        return [len(self.blobs[name.hex()]) if name.hex() in self.blobs else None for name in ids]


class FakeRepository(Repository):
    """A repository that hands out any manifest, checked by nobody: a hostile one, or one that is half lost.

    Segments are lists of entries, or a string: why that segment is lost.
    """

    def __init__(self, *segments: list[Entry] | str, blobs: list[bytes] | None = None, tree: str = "") -> None:
        self.store = MemoryStore()
        self.parts = segments
        self.blobs = {sha(blob): blob for blob in (blobs if blobs is not None else [b"content"])}
        self.tree = tree or tree_hash([entry for part in segments if isinstance(part, list) for entry in part])

    def location(self) -> None:
        return None

    def load(self, ref: SnapshotRef) -> Snapshot:
        return Snapshot(
            format=FormatVersion(),
            repository_id="0" * 32,
            time=ref.time,
            clock=ref.time,
            host="here",
            manifest=Root(0, ()),
            plugin_table=Root(0, ()),
            tree_sha256=self.tree,
            files=1_000_000,  # so many that each pass reads the manifest again
            program="test",
            source="/nowhere",
        )

    def segments(self, snap: Snapshot, *, below: bytes = b"", **_: Any) -> Iterator[Segment]:
        for part in self.parts:
            if isinstance(part, str):
                yield Segment([], {}, lost=part)
            else:
                yield segment(*part)

    def reader(self, *_: int) -> Any:
        return FakeReader(self.blobs)

    @property
    def index(self) -> Any:
        return FakeIndex(self.blobs)


def tree_hash(entries: list[Entry]) -> str:
    """The tree hash of a manifest, as the format document says; what is odd in it is hashed as it stands."""
    whole = hashlib.sha256()
    for entry in entries:
        content = bytes.fromhex(entry.sha256) if entry.type == "f" else entry.raw_target if entry.type == "l" else b""
        content = str(entry.rdev).encode() if entry.type in ("c", "b") else content
        mode = b"" if entry.type == "l" else b"%o" % entry.mode
        for field in (entry.raw_path, entry.type.encode(), mode, content):
            whole.update(struct.pack("<I", len(field)) + field)
    return whole.hexdigest()


def plugin_row(path: str, tree: str = "") -> PluginRow:
    return PluginRow(path=path, name="plugin", tree_sha256=tree)


def leftovers(directory: Path) -> list[str]:
    """Names of stages, journals and temporary files anywhere below a directory."""
    return [str(path) for path in directory.rglob("*") if path.name.startswith((".drkit-", ".tmp-"))]
