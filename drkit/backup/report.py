"""What a backup takes and what it tells."""

from __future__ import annotations

from msgspec import Struct

from drkit.model import PackId, PluginRow, Snapshot
from drkit.repo import SnapshotRef
from drkit.source.walk import PluginRules


class BackupOptions(Struct, frozen=True):
    """How to back up. `level` overrides the repository's zstd levels; `host` is written into the snapshot."""

    tags: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    rules: PluginRules = PluginRules()
    level: int | None = None
    host: str = ""
    dry_run: bool = False


class BackupReport(Struct, frozen=True):
    """What a backup did. `bytes_added` is what the repository grew by; a dry run names no snapshot."""

    snapshot: str
    parent: str | None
    files: int
    dirs: int
    others: int
    plugins: int
    bytes_source: int
    bytes_added: int
    files_unchanged: int
    packs: int
    duration_s: float
    tree_sha256: str
    warnings: tuple[str, ...]
    dry_run: bool = False


class Committed(Struct, frozen=True):
    """A snapshot that was just put, its plugins, and, where there are new packs, the sizes of all in the store."""

    ref: SnapshotRef
    snapshot: Snapshot
    plugins: list[PluginRow]
    packs: dict[PackId, int]
