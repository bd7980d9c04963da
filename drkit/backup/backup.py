"""The backup verb: packs → index → snapshot, under a lock, with what a prune may do at the same time in mind."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import datetime, timedelta
from time import monotonic

from drkit import __version__
from drkit.backup.files import EntryReader
from drkit.backup.previous import from_manifest
from drkit.backup.recorder import Recorder
from drkit.backup.report import BackupOptions, BackupReport
from drkit.backup.scan import Scan
from drkit.backup.statcache import CacheWriter, Previous, cache_path, read_cache
from drkit.errors import IntegrityError, StoreError, UsageError
from drkit.format import snapshot as snapshot_format
from drkit.format.limits import INDEX_LIVE, INDEX_PACKS
from drkit.format.manifest import encode_line, text_or_b64
from drkit.format.nodes import cuts_segment, is_full
from drkit.model import FormatVersion, PackId, PluginRow, Snapshot, show_path
from drkit.progress import Progress
from drkit.repo import Repository, SnapshotRef
from drkit.repo.index import LoadedIndex, load_index, write_index
from drkit.repo.lock import BackupLock, condemned_packs
from drkit.repo.packer import Packer
from drkit.repo.treewriter import NodeQueue, TreeWriter
from drkit.source.globs import Globs
from drkit.source.walk import Walker

_SLACK_NS = 2_000_000_000
"""A file written this shortly before the scan may be written again and look the same: FAT keeps two seconds."""
_CHECKPOINT = timedelta(minutes=5)
_PARENTS = 200
"""How many snapshots are looked at, newest first, for one of the same source."""


def backup(
    repo: Repository,
    source: bytes,
    *,
    options: BackupOptions,
    progress: Progress,
    now: Callable[[], datetime],
    cache_dir: bytes | None,
) -> BackupReport:
    """Back up a directory and return what was done. The snapshot is there, durable, or an error was raised.

    Paths that could not be read, or changed while they were, become warnings; everything else is stored.
    UsageError: the source is missing, empty, no directory, or lies in the repository (or it in the source).
    StoreError: the store failed, or a prune took the lock or a pack that was relied on. What was stored by then is
    reused by the next backup.
    """
    began = monotonic()
    source = os.path.realpath(source)
    leave_out = check_source(repo, source, options)
    repo.check_writable()
    job = _Job(repo, source, options, progress, now, cache_dir, leave_out)
    if options.dry_run:
        report = job.run(None)
    else:
        with BackupLock(repo.store, now) as lock:
            repo.store.clean_leftovers()
            report = job.run(lock)
    return report(monotonic() - began)


def check_source(repo: Repository, source: bytes, options: BackupOptions) -> frozenset[tuple[int, int]]:
    """Refuse a source that cannot be what was meant; return the (device, inode) of a repository to leave out of it."""
    shown = show_path(source)
    try:
        with os.scandir(source) as entries:
            empty = next(entries, None) is None
    except FileNotFoundError:
        raise UsageError(
            f"the source {shown} does not exist", hint="check the path, and whether its disk is mounted"
        ) from None
    except NotADirectoryError:
        raise UsageError(f"the source {shown} is not a directory", hint="name the directory that holds it") from None
    except OSError as error:
        raise UsageError(f"cannot read the source {shown}: {error.strerror}", hint="check its permissions") from error
    if empty:
        raise UsageError(f"the source {shown} is empty", hint="check the path, and whether its disk is mounted")
    location = repo.location()
    if location is None:
        return frozenset()
    if location == source or source.startswith(location.rstrip(b"/") + b"/"):
        raise UsageError(
            f"the source {shown} lies inside the repository", hint="name the tree to protect, not its backup"
        )
    if location.startswith(source.rstrip(b"/") + b"/"):
        inside = location[len(source.rstrip(b"/")) + 1 :]
        if not Globs(options.excludes).match(inside):
            raise UsageError(
                f"the repository lies inside the source, at {show_path(inside)}",
                hint=f"keep it elsewhere, or leave it out with --exclude '/{show_path(inside)}'",
            )
        status = os.stat(location)
        return frozenset({(status.st_dev, status.st_ino)})
    return frozenset()


class _Job:
    """One backup under way."""

    def __init__(
        self,
        repo: Repository,
        source: bytes,
        options: BackupOptions,
        progress: Progress,
        now: Callable[[], datetime],
        cache_dir: bytes | None,
        leave_out: frozenset[tuple[int, int]],
    ) -> None:
        self._repo = repo
        self._source = source
        self._options = options
        self._progress = progress
        self._now = now
        self._host = options.host or socket.gethostname()
        self._leave_out = leave_out
        self._cache = cache_path(cache_dir, repo.config.repository_id, source) if cache_dir else None
        self._warnings: list[str] = []
        self._skipped = 0
        self._bytes_added = 0
        self._indexed = 0

    def run(self, lock: BackupLock | None) -> Callable[[float], BackupReport]:
        """Scan, store, commit; without a lock nothing is written. The report only lacks its duration."""
        repo, options = self._repo, self._options
        condemned = condemned_packs(repo.store)
        loaded = load_index(repo.store, without=frozenset().union(*condemned.values()))
        refs = repo.snapshots()
        parent = self._parent(refs)
        self._progress.start(None, None, "backing up")
        started = self._now()
        dry_run = lock is None
        with Packer(repo.store, loaded.index, repo.config, level=options.level, dry_run=dry_run) as packer:
            queue = NodeQueue(packer)
            files = TreeWriter(queue, packer)
            with CacheWriter(None if dry_run else self._cache, packer.workers) as cache:
                recorder = Recorder(files, packer, cache)
                scan = Scan(
                    self._source,
                    self._previous(parent),
                    reader=EntryReader(self._source, packer, queue, repo.config.chunker, self._warn),
                    recorder=recorder,
                    packer=packer,
                    horizon_ns=int(started.timestamp() * 1e9) - _SLACK_NS,
                    progress=self._progress,
                    tick=self._ticker(lock, packer, loaded, started),
                )
                scan.run(self._walker())
                table = _write_plugin_table(scan.rows, queue, packer)
                queue.drain()
                roots = [(tree, *tree.write_lists()) for tree in (files, table)]
                packer.finish()
                self._write_index(packer, loaded, dry_run=dry_run)
                manifest, plugin_table = (tree.root(level, children) for tree, level, children in roots)
                clock = self._now()
                taken = Snapshot(
                    format=FormatVersion(),
                    repository_id=repo.config.repository_id,
                    time=snapshot_format.time_after(clock, refs[-1].time if refs else None),
                    clock=clock.isoformat(),
                    host=self._host,
                    manifest=manifest,
                    plugin_table=plugin_table,
                    tree_sha256=recorder.hash.hexdigest(),
                    program=f"drkit {__version__}",
                    scope="whole",
                    **dict(zip(("source", "source_b64"), text_or_b64(self._source), strict=True)),
                    parent=parent[0].id if parent else None,
                    tags=options.tags,
                    excludes=options.excludes,
                    files=scan.files,
                    dirs=scan.dirs,
                    others=scan.others,
                    plugins=len(scan.rows),
                    bytes=scan.bytes,
                    skipped=self._skipped,
                )
                name, data = snapshot_format.encode(taken)
                if lock is not None:
                    self._commit(lock, name, data, condemned)
                    self._save_cache(cache, scan.rows)
        return lambda duration: BackupReport(
            snapshot="" if dry_run else snapshot_format.parse_name(name)[1],
            parent=taken.parent,
            files=scan.files,
            dirs=scan.dirs,
            others=scan.others,
            plugins=len(scan.rows),
            bytes_source=scan.bytes,
            bytes_added=packer.bytes_added + self._bytes_added + len(data),
            files_unchanged=scan.unchanged,
            packs=len(packer.new_packs),
            duration_s=round(duration, 3),
            tree_sha256=taken.tree_sha256,
            warnings=tuple(self._warnings),
            dry_run=dry_run,
        )

    def _parent(self, refs: list[SnapshotRef]) -> tuple[SnapshotRef, Snapshot] | None:
        for ref in refs[: -_PARENTS - 1 : -1]:
            try:
                loaded = self._repo.load(ref)
            except (IntegrityError, StoreError) as error:
                self._warnings.append(f"{ref.name}: {error}; the backup goes on without it")
                continue
            if loaded.host == self._host and loaded.raw_source == self._source and "rejected" not in loaded.tags:
                return ref, loaded
        return None

    def _previous(self, parent: tuple[SnapshotRef, Snapshot] | None) -> Previous:
        previous = read_cache(self._cache) if self._cache else None
        if previous is None and parent is not None:
            previous = from_manifest(self._repo, parent[1])
        return previous or Previous(iter(()), {})

    def _walker(self) -> Walker:
        return Walker(
            self._source,
            excludes=Globs(self._options.excludes),
            rules=self._options.rules,
            problem=lambda path, error: self._warn(path, error.strerror or str(error)),
            leave_out=self._leave_out,
        )

    def _warn(self, path: bytes, what: str) -> None:
        self._warnings.append(f"{show_path(path)}: {what}")
        if what != "changed while it was read":
            self._skipped += 1

    def _ticker(
        self, lock: BackupLock | None, packer: Packer, loaded: LoadedIndex, started: datetime
    ) -> Callable[[], None]:
        checkpoint = started

        def tick() -> None:
            nonlocal checkpoint
            if lock is None:
                return
            lock.refresh()
            waiting = len(packer.new_packs) - self._indexed
            if waiting >= INDEX_PACKS or (waiting and self._now() - checkpoint >= _CHECKPOINT):
                checkpoint = self._now()
                self._write_index(packer, loaded, dry_run=False)

        return tick

    def _write_index(self, packer: Packer, loaded: LoadedIndex, *, dry_run: bool) -> None:
        """Store an index object for the packs that have none yet; merge the live ones if they have become many."""
        packs = packer.new_packs[self._indexed :]
        self._indexed = len(packer.new_packs)
        packs += [loaded.index.packs[pack_id] for pack_id in loaded.unindexed]
        loaded.unindexed = []
        if dry_run or not packs:
            return
        supersedes = tuple(loaded.objects)
        if len(supersedes) >= INDEX_LIVE:
            loaded.objects = write_index(self._repo.store, loaded.index.packs.values(), supersedes)
        else:
            loaded.objects += write_index(self._repo.store, packs)

    def _commit(self, lock: BackupLock, name: str, data: bytes, condemned: dict[str, frozenset[PackId]]) -> None:
        """Put the snapshot, then look whether a prune has meanwhile condemned what it stands on.

        Both sides write first and read second, so one of them sees the other.
        """
        store = self._repo.store
        if not lock.held():
            raise _overtaken("the backup's lock was taken away")
        store.put(name, data)
        after = condemned_packs(store)
        why = "" if lock.held() else "the backup's lock was taken away"
        if not why and after != condemned:
            now_condemned = frozenset().union(*after.values()) - frozenset().union(*condemned.values())
            if now_condemned and self._uses(name, data, now_condemned):
                why = "a prune condemned packs that the snapshot needs"
        if why:
            store.delete(name)
            raise _overtaken(why)

    def _uses(self, name: str, data: bytes, packs: frozenset[PackId]) -> bool:
        """Whether a snapshot is no longer whole without these packs."""
        from drkit.repo.reach import missing_blobs

        index = load_index(self._repo.store, without=packs).index
        return bool(missing_blobs(self._repo, snapshot_format.decode(name, data), index))

    def _save_cache(self, cache: CacheWriter, rows: list[PluginRow]) -> None:
        try:
            cache.commit(rows)
        except OSError as error:
            self._warnings.append(
                f"the stat cache could not be written ({error.strerror}): the next backup reads all files"
            )


def _overtaken(why: str) -> StoreError:
    return StoreError(f"{why}; the snapshot was not kept", hint="run the backup again: what it stored is reused")


def _write_plugin_table(rows: list[PluginRow], queue: NodeQueue, packer: Packer) -> TreeWriter:
    table = TreeWriter(queue, packer)
    lines: list[bytes] = []
    first = b""
    for row in rows:
        path = row.raw_path
        if not lines:
            first = path
        lines.append(encode_line(row))
        if cuts_segment(path) or is_full(len(lines), sum(map(len, lines))):
            table.segment(first, b"".join(lines), ())
            lines = []
    if lines:
        table.segment(first, b"".join(lines), ())
    return table
