"""The backup verb: packs → index → snapshot, under a lock, with what a prune may do at the same time in mind."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from time import monotonic

from msgspec import structs

from drkit import __version__
from drkit.backup.checks import check_source, unreadable
from drkit.backup.commit import IndexWriter, commit
from drkit.backup.files import EntryReader
from drkit.backup.gather import Gatherer
from drkit.backup.glance import glance
from drkit.backup.live import Databases, InUse
from drkit.backup.plugins import write_plugin_table
from drkit.backup.previous import from_manifest
from drkit.backup.recorder import Recorder
from drkit.backup.report import BackupOptions, BackupReport, Committed
from drkit.backup.scan import Scan
from drkit.backup.statcache import CacheWriter, Previous, Summary, cache_path, read_cache
from drkit.backup.tally import Tally
from drkit.errors import IntegrityError, ObjectNotFound, StoreError, UsageError
from drkit.format import snapshot as snapshot_format
from drkit.format.limits import INDEX_PACKS
from drkit.format.manifest import text_or_b64
from drkit.model import FormatVersion, PackId, PluginRow, Root, Snapshot, show_path
from drkit.progress import Progress
from drkit.repo import Repository, SnapshotRef
from drkit.repo.index import LoadedIndex, load_index, stored_packs
from drkit.repo.lock import BackupLock, condemned_packs
from drkit.repo.newest import write_newest
from drkit.repo.packer import Packer
from drkit.repo.treewriter import NodeQueue, TreeWriter
from drkit.source.ahead import Task, read_ahead
from drkit.source.globs import Globs
from drkit.source.stats import NEVER, stat_of
from drkit.store.parallel import soon

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
    in_use: Sequence[InUse] = (),
    judge: Callable[[Snapshot], Sequence[str]] | None = None,
    committed: Callable[[BackupReport, Committed], object] | None = None,
) -> BackupReport:
    """Back up a directory and return what was done. The snapshot is there, durable, or an error was raised.

    Paths that could not be read, or changed while they were, become warnings; everything else is stored. `in_use` are
    databases that this process has open: where they lie in the source they are never opened, but dumped. `judge` is
    shown the snapshot when all that it names can be read, just before its commit, and says which tags it gets besides;
    `committed` is told of it when it is there, while the lock is taken away, so that nobody has to ask a store far away
    for what is known here.
    UsageError: the source is missing, empty, no directory, or lies in the repository (or it in the source).
    StoreError: the store failed, or a prune took the lock or a pack that was relied on. What was stored by then is
    reused by the next backup.
    """
    began = monotonic()
    if not source:  # which realpath would take for the working directory
        raise UsageError("no source is named", hint="name the directory to back up")
    source = os.path.realpath(source)
    location = check_source(repo, source, Globs(options.excludes))
    repo.check_writable()
    job = _Job(repo, source, options, progress, now, cache_dir, location, in_use, judge)
    if options.dry_run:
        report = structs.replace(job.run(None), duration_s=round(monotonic() - began, 3))
    else:
        job.look_back()
        with BackupLock(repo.store, now) as lock:
            job.look_around()
            repo.store.clean_leftovers()
            report = structs.replace(job.run(lock), duration_s=round(monotonic() - began, 3))
            lock.release()
            if committed is not None and job.made is not None:
                committed(report, job.made)
    return report


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
        location: tuple[int, int] | None,
        in_use: Sequence[InUse],
        judge: Callable[[Snapshot], Sequence[str]] | None,
    ) -> None:
        self.made: Committed | None = None
        self._repo = repo
        self._source = source
        self._options = options
        self._progress = progress
        self._now = now
        self._host = _text(options.host or os.uname().nodename)
        self._location = location
        self._judge = judge
        self._databases = Databases(source, in_use)
        self._cache = cache_path(cache_dir, repo.config.repository_id, source) if cache_dir else None
        self._warnings: list[str] = []
        self._skipped = 0
        self._parents: Callable[[], tuple[list[SnapshotRef], tuple[SnapshotRef, Snapshot] | None]] = self._find_parent
        self._records: Callable[[], dict[str, frozenset[PackId]]] = partial(condemned_packs, repo.store)
        self._stored: Callable[[], dict[PackId, int]] = partial(stored_packs, repo.store)
        self._condemned: dict[str, frozenset[PackId]] = {}
        self._absent: frozenset[PackId] = frozenset()
        self._loaded: LoadedIndex | None = None
        self._newest: Callable[[], None] = _nothing
        self._index_writer = IndexWriter(repo.store, self._load)

    def look_back(self) -> None:
        """Begin to look for the parent, which the lock does not protect: it only says what to compare with."""
        self._parents = soon(self._repo.store, self._find_parent)

    def look_around(self) -> None:
        """Begin to read what a prune has condemned, and which packs there are.

        Not before the lock is there: a pruner that does not see it yet puts its record first.
        """
        self._records = soon(self._repo.store, self._records)
        self._stored = soon(self._repo.store, self._stored)

    def run(self, lock: BackupLock | None) -> BackupReport:
        """Scan, store, commit; without a lock nothing is written. The report lacks only its duration."""
        repo = self._repo
        self._condemned = self._records()
        self._absent = frozenset().union(*self._condemned.values())
        refs, parent = self._parents()
        previous = self._previous(parent)
        self._progress.start(None, None, "backing up")
        dry_run = lock is None
        with Packer(
            repo.store,
            lambda: self._load().index,
            repo.config,
            level=self._options.level,
            condemned=self._absent,
            dry_run=dry_run,
        ) as packer:
            queue = NodeQueue(packer)
            tree = TreeWriter(queue, packer)
            with CacheWriter(None if dry_run else self._cache, packer.workers) as cache:
                recorder = Recorder(tree, packer, cache, Gatherer(self._source, packer))
                started = self._now()
                horizon_ns = int(started.timestamp() * 1e9) - _SLACK_NS
                tick = self._ticker(lock, packer, started)
                complete = self._complete(previous)
                root = stat_of(os.lstat(self._source))
                scan = Scan(
                    self._source,
                    previous,
                    reader=EntryReader(
                        self._source, packer, queue, repo.config.chunker, self._warn, tick, self._databases
                    ),
                    databases=self._databases,
                    marked=glance(previous, self._source, root, self._rules()) if complete else None,
                    recorder=recorder,
                    packer=packer,
                    complete=complete,
                    blobs=repo.reader(),
                    horizon_ns=horizon_ns,
                    tally=Tally(self._progress, tick),
                )
                self._scan(scan, previous)
                roots = self._same_roots(scan, previous, parent) or self._write_trees(scan, queue, tree, packer)
                if lock is not None and self._loaded is not None:
                    self._index_writer.write(packer)
                taken = self._snapshot(scan, recorder, roots, refs, parent)
                if self._judge is not None:
                    taken = structs.replace(taken, tags=(*taken.tags, *self._judge(taken)))
                name, data = snapshot_format.encode(taken)
                if lock is not None:
                    newest = soon(repo.store, self._newest)
                    commit(repo, lock, name, data, self._condemned)
                    newest()
                    self.made = self._committed(name, taken, scan.rows, packer)
                    summary = Summary(
                        snapshot_format.parse_name(name)[1],
                        scan.rows,
                        self._packs(previous),
                        root if max(root[1:3]) < horizon_ns else NEVER,
                        "" if self._warnings else self._rules(),
                    )
                    self._save_cache(cache, summary)
        return BackupReport(
            snapshot="" if dry_run else snapshot_format.parse_name(name)[1],
            parent=taken.parent,
            files=scan.tally.files,
            dirs=scan.tally.dirs,
            others=scan.tally.others,
            plugins=len(scan.rows),
            bytes_source=scan.tally.bytes,
            bytes_added=packer.bytes_added + self._index_writer.bytes_added + len(data),
            files_unchanged=scan.tally.unchanged,
            packs=len(packer.new_packs),
            duration_s=0,
            tree_sha256=taken.tree_sha256,
            warnings=tuple(self._warnings),
            dry_run=dry_run,
        )

    def _snapshot(
        self,
        scan: Scan,
        recorder: Recorder,
        roots: tuple[Root, Root],
        refs: list[SnapshotRef],
        parent: tuple[SnapshotRef, Snapshot] | None,
    ) -> Snapshot:
        clock = self._now()
        return Snapshot(
            format=FormatVersion(),
            repository_id=self._repo.config.repository_id,
            time=snapshot_format.time_after(clock, refs[-1].time if refs else None),
            clock=clock.isoformat(),
            host=self._host,
            manifest=roots[0],
            plugin_table=roots[1],
            tree_sha256=recorder.hash.hexdigest(),
            program=f"drkit {__version__}",
            scope="whole",
            **dict(zip(("source", "source_b64"), text_or_b64(self._source), strict=True)),
            parent=parent[0].id if parent else None,
            tags=tuple(map(_text, self._options.tags)),
            excludes=tuple(map(_text, self._options.excludes)),
            files=scan.tally.files,
            dirs=scan.tally.dirs,
            others=scan.tally.others,
            plugins=len(scan.rows),
            bytes=scan.tally.bytes,
            skipped=self._skipped,
        )

    def _committed(self, name: str, taken: Snapshot, plugins: list[PluginRow], packer: Packer) -> Committed:
        time, snapshot_id = snapshot_format.parse_name(name)
        packs = self._stored() if packer.new_packs else {}
        packs |= {pack.id: pack.size for pack in packer.new_packs}
        return Committed(SnapshotRef(name, snapshot_id, time), taken, plugins, packs)

    def _load(self) -> LoadedIndex:
        if self._loaded is None:
            self._loaded = load_index(self._repo.store, without=self._absent, listed=self._stored)
        return self._loaded

    def _find_parent(self) -> tuple[list[SnapshotRef], tuple[SnapshotRef, Snapshot] | None]:
        """Return all snapshots, and the newest of them of this source."""
        refs = self._repo.snapshots()
        for ref in refs[: -_PARENTS - 1 : -1]:
            try:
                loaded = self._repo.load(ref)
            except ObjectNotFound:
                continue  # it was forgotten since it was listed
            except (IntegrityError, StoreError) as error:
                self._warnings.append(f"{ref.name}: {error}; the backup goes on without it")
                continue
            if loaded.host == self._host and loaded.raw_source == self._source and "rejected" not in loaded.tags:
                return refs, (ref, loaded)
        return refs, None

    def _previous(self, parent: tuple[SnapshotRef, Snapshot] | None) -> Previous:
        previous = read_cache(self._cache) if self._cache else None
        if previous is None and parent is not None:
            previous = from_manifest(self._repo, parent[1])
        return previous or Previous(iter(()), {})

    def _complete(self, previous: Previous) -> bool:
        """Whether every pack is there that was when the cache was made: then so is all that it speaks of."""
        if previous.summary is None:
            return False
        stored, absent = self._stored(), self._absent
        packs = previous.summary.packs.items()
        return all(stored.get(PackId(pack)) == size and pack not in absent for pack, size in packs)

    def _same_roots(
        self, scan: Scan, previous: Previous, parent: tuple[SnapshotRef, Snapshot] | None
    ) -> tuple[Root, Root] | None:
        """Return the parent's roots if nothing has changed since and all of it is there."""
        summary = previous.summary
        if scan.changed or parent is None or summary is None or summary.snapshot != parent[0].id:
            return None
        if not scan.complete or scan.rows != summary.plugins:
            return None
        return parent[1].manifest, parent[1].plugin_table

    def _write_trees(self, scan: Scan, queue: NodeQueue, tree: TreeWriter, packer: Packer) -> tuple[Root, Root]:
        packer.submit_data()  # while this thread goes on with the trees
        table = TreeWriter(queue, packer, keep=self._repo.store.directory is None)
        write_plugin_table(scan.rows, table)
        queue.drain()
        tops = [(each, *each.write_lists()) for each in (tree, table)]
        packer.finish()
        manifest, plugin_table = (each.root(level, children) for each, level, children in tops)
        if self._repo.store.directory is None:  # what is near has no need of it
            roots = [node_id for _, _, children in tops for _, node_id in children]
            nodes = [*table.lists, *tree.lists, *table.segments]
            self._newest = partial(write_newest, self._repo.store, roots, nodes, packer.index.find)
        return manifest, plugin_table

    def _scan(self, scan: Scan, previous: Previous) -> None:
        options = self._options
        task = Task(
            self._source,
            tuple(map(os.fsencode, options.excludes)),
            tuple(map(os.fsencode, options.rules.markers)),
            tuple(map(os.fsencode, options.rules.globs)),
            self._location,
            self._repo.config.chunker.threshold,
            self._databases.open_here,
        )
        walker = task.walker(self._problem)
        if previous.summary is not None:  # hardly anything will be read
            scan.run(walker)
            return
        with contextlib.closing(read_ahead(task, self._problem)) as batches:
            scan.run_ready(walker, batches)

    def _problem(self, path: bytes, error: OSError) -> None:
        if not path:
            raise unreadable(self._source, error)
        self._warn(path, error.strerror or str(error))

    def _warn(self, path: bytes, what: str, *, lost: bool = True) -> None:
        self._warnings.append(f"{show_path(path)}: {what}")
        self._skipped += lost

    def _ticker(self, lock: BackupLock | None, packer: Packer, started: datetime) -> Callable[[], None]:
        checkpoint = started

        def tick() -> None:
            nonlocal checkpoint
            if lock is None:
                return
            lock.refresh()
            waiting = self._index_writer.waiting(packer)
            if waiting >= INDEX_PACKS or (waiting and self._now() - checkpoint >= _CHECKPOINT):
                checkpoint = self._now()
                self._index_writer.write(packer)

        return tick

    def _rules(self) -> str:
        """Return a name for all that decides which paths are taken, and which are plugins."""
        return hashlib.sha256(repr((self._options.excludes, self._options.rules, self._location)).encode()).hexdigest()

    def _packs(self, previous: Previous) -> dict[bytes, int]:
        if self._loaded is not None:
            return {bytes(pack.id): pack.size for pack in self._loaded.index.packs.values()}
        return previous.summary.packs if previous.summary else {}

    def _save_cache(self, cache: CacheWriter, summary: Summary) -> None:
        try:
            cache.commit(summary)
        except OSError as error:
            self._warnings.append(
                f"the stat cache could not be written ({error.strerror}): the next backup reads all files"
            )


def _text(argument: str) -> str:
    """Return an argument as JSON can hold it: arguments that were no UTF-8 have surrogates in them."""
    return os.fsencode(argument).decode("utf-8", "backslashreplace")


def _nothing() -> None:
    """What there is to do where nothing has changed, or nothing is far away."""
