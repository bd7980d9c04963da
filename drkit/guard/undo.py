"""Undoing what a command did to a source: its state is stored, then exactly the differing paths are put back.

What is put back is first written into a stage, made durable, read back and compared with the manifest. Only then is
it moved to its place, path by path. Whoever is interrupted begins anew: the state that is then found is stored and
compared, and the rest is put back.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Sequence

from msgspec import Struct, structs

from drkit import osutil
from drkit.backup import BackupOptions
from drkit.backup.live import is_open
from drkit.errors import GuardRefused, StoreError
from drkit.guard.journal import Command, FileState, Journal
from drkit.guard.lock import TreeLock, Waiting
from drkit.guard.look import RECOVER, directories_above, is_leaf, look, refuse_lost, unchanged
from drkit.guard.process import end
from drkit.guard.recover import Recovered
from drkit.guard.site import Site
from drkit.guard.snapshot import find_snapshot
from drkit.guard.tree import parent_of, state_of, walk_down
from drkit.model import Entry, Place, Snapshot, show_path, sort_key
from drkit.progress import NullProgress
from drkit.query.diff import Change
from drkit.query.walk import walk
from drkit.repo.repository import Repository, Segment
from drkit.restore.attrs import set_directory
from drkit.restore.build import Built, Job, build
from drkit.restore.dirs import OPEN_DIR, lstat
from drkit.restore.mirror import make_passable, place
from drkit.restore.plan import make_plan
from drkit.restore.recover import recover_leftovers
from drkit.restore.select import select
from drkit.restore.site import Site as Around
from drkit.restore.swap import Stage
from drkit.source.walk import PluginRules
from drkit.store import open_store

_BESIDE = (b"-wal", b"-journal", b"-shm")
_BUSY_S = 5.0


def recover_command(
    journal: Journal, record: Command, *, site: Site | None, waiting: Waiting | None
) -> Recovered | None:
    """End what still runs of an interrupted `guard exec`, then put back what it did; None if it did nothing.

    GuardRefused without a `site`, which says where such things are recorded; other errors as of `put_back`, `end` and
    a backup.
    """
    if record.state in ("start", "done") or record.process is None:
        return None
    if site is None:
        raise GuardRefused(
            f"a command that worked on {show_path(record.source)} was interrupted",
            hint="run 'drkit guard recover --source DIR' first",
        )
    with TreeLock.exclusive(record.source, waiting), _site_of(site, record) as own:
        end(record.process, sleep=own.sleep)
        before = own.repo.load(find_snapshot(own, record.snapshot))
        if unchanged(own, before):
            undone = record.state == "undo"
            return Recovered("command", "finished", record.plugins, record.snapshot) if undone else None
        journal.write(structs.replace(record, state="undo"))
        seen = look(own, record, before, failed=True)
        left = put_back(own, before, seen.changes)
        paths = tuple(one.path for one in left)
        return Recovered("command", "put back", record.plugins, record.snapshot, paths, seen.snapshot)


@contextlib.contextmanager
def _site_of(site: Site, record: Command) -> Iterator[Site]:
    """Return a site as the command had it, whatever the one is for that found its journal."""
    options = BackupOptions(excludes=record.excludes, rules=PluginRules(record.markers, record.globs))
    own = structs.replace(site, source=record.source, options=options, cache_dir=record.cache_dir)
    if site.repo.config.repository_id == record.repository_id:
        yield own
        return
    store = open_store(record.store_url)
    try:
        repo = Repository.open(store, keys=site.repo.keys)
        if repo.config.repository_id != record.repository_id:
            raise GuardRefused(
                f"the repository at {record.store_url} is not the one that has the snapshot {record.snapshot[:12]}",
                hint="bring it back to where it was, then run 'drkit guard recover --source DIR'",
            )
        yield structs.replace(own, repo=repo, store_url=record.store_url)
    finally:
        store.close()


class Left(Struct, frozen=True):
    """A path that was not put back, and why."""

    path: bytes
    why: str


def put_back(site: Site, before: Snapshot, changes: Sequence[Change]) -> tuple[Left, ...]:
    """Make every path of `changes` what it was; return those that were left alone.

    A path that is neither what it was nor what the comparison found is somebody's later work: it is left alone. Nor is
    a directory removed that holds what was not compared. StoreError if the file system fails: it may be done again.
    """
    if not changes:
        return ()
    source = site.source
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(source)
        for directory in (os.path.dirname(source), source):
            recover_leftovers(directory)
        root_fd = os.open(source, OPEN_DIR)
        try:
            directories, segment = _needed(site, before, changes)
            with _built(site, before, root_fd, segment) as (stage, stage_fd, built):
                putter = _Putter(source, root_fd, stage, stage_fd, built)
                putter.run(changes, directories)
            osutil.syncfs(root_fd)
        finally:
            os.close(root_fd)
    except OSError as error:
        raise StoreError(f"{show_path(source)} could not be put back: {error}", hint=RECOVER) from error
    return tuple(putter.left)


def _needed(site: Site, before: Snapshot, changes: Sequence[Change]) -> tuple[dict[bytes, Entry], Segment]:
    """Return the old directories above all changes, and as one segment what is to be staged, in bare directories."""
    wanted = {change.path for change in changes if change.old is not None}
    above = {path for change in changes for path in directories_above(change.path)}
    directories: dict[bytes, Entry] = {}
    entries: list[Entry] = []
    paths: list[bytes] = []
    places: dict[str, Place] = {}
    lost: list[str] = []
    for path, entry, found in walk(site.repo, before, lost):
        if path not in wanted and (path not in above or entry.type != "d"):
            continue
        if entry.type == "d":
            directories[path] = entry
            entries.append(Entry(path=entry.path, path_b64=entry.path_b64, type="d"))
        else:
            entries.append(entry)
            places.update(found)
        paths.append(path)
    refuse_lost(lost)
    return directories, Segment(entries, places, paths=paths)


@contextlib.contextmanager
def _built(site: Site, before: Snapshot, root_fd: int, segment: Segment) -> Iterator[tuple[Stage, int, Built]]:
    """Stage a segment beside the source, or in it where that is on a file system of its own."""
    parent, name = os.path.split(site.source)
    parent_fd = os.open(parent, OPEN_DIR)
    writable = os.access(b".", os.W_OK | os.X_OK, dir_fd=parent_fd, effective_ids=True)
    if writable and os.fstat(parent_fd).st_dev == os.fstat(root_fd).st_dev:
        around = Around(parent_fd, name, site.source)
    else:
        os.close(parent_fd)
        around = Around(os.dup(root_fd), b"", site.source)
    try:
        stage = Stage.create(around, site.random)
        try:
            # Some paths of a snapshot, as with --include: their hash is none that was recorded.
            job = Job(site.repo, before, "", 0, include=("**",), kept=list(select([segment])))
            with stage.open() as stage_fd:
                yield stage, stage_fd, build(job, make_plan(job.batches()), around, stage_fd, NullProgress())
        finally:
            stage.abandon()
    finally:
        around.close()


class _Putter:
    """Moves what is staged to its place. `left` says what was left alone."""

    def __init__(self, source: bytes, root_fd: int, stage: Stage, stage_fd: int, built: Built) -> None:
        self._source = source
        self._root = root_fd
        self._temporary = stage.name + b".tmp"
        self._stage = stage_fd
        self._built = built
        self._touched: set[bytes] = set()
        self._through_sqlite: set[bytes] = set()
        self.left: list[Left] = []

    def run(self, changes: Sequence[Change], directories: dict[bytes, Entry]) -> None:
        """Remove what is too much, bottom up; put the rest to its place, top down; settle directories; read back."""
        for change in reversed(changes):
            if change.new is not None and (change.old is None or is_leaf(change.old) != is_leaf(change.new)):
                self._remove(change.path, change.new, wanted=change.old is not None)
        for change in changes:
            if change.old is not None:
                self._restore(change.path, change.old, change.new)
        for path in sorted(self._touched, key=sort_key, reverse=True):
            if path in directories:
                self._settle(path, directories[path])
        told = {one.path for one in self.left}
        for change in changes:
            if change.path not in told and not self._is_back(change.path, change.old):
                self._leave(change.path, "it changes while it is put back")

    def _remove(self, path: bytes, new: Entry, *, wanted: bool) -> None:
        with self._parent(path) as (fd, name):
            if fd < 0 or lstat(fd, name) is None:
                return
            if new.type == "d":
                try:
                    os.rmdir(name, dir_fd=fd)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                        raise
                    if wanted:
                        self._leave(path, "a directory is there that holds what is not put back")
            elif new.live or _same(state_of(self._root, path), new):
                os.unlink(name, dir_fd=fd)
                if new.live:
                    _remove_beside(fd, name)
            else:
                self._leave(path, "somebody changed it since")

    def _restore(self, path: bytes, old: Entry, new: Entry | None) -> None:
        with self._parent(path) as (fd, name):
            if fd < 0:
                self._leave(path, "its directory is not there")
                return
            state = state_of(self._root, path)
            if state is not None and state.type == "s":  # no snapshot has it: it is nothing without who listens there
                os.unlink(name, dir_fd=fd)
                state = None
            live = old.live or (new is not None and new.live)
            if state is not None and not live and _same(state, old):
                return
            if old.type == "d":
                if state is None:
                    os.mkdir(name, 0o700, dir_fd=fd)
                self._touched.add(path)
            elif state is not None and not live and (new is None or not _same(state, new)):
                self._leave(path, "somebody changed it since")
            elif live and state is not None:
                self._database(path, fd, name)
            else:
                self._move(path, fd, name)

    def _move(self, path: bytes, fd: int, name: bytes) -> None:
        try:
            with parent_of(self._stage, path) as (staged_fd, staged):
                try:
                    os.rename(staged, name, src_dir_fd=staged_fd, dst_dir_fd=fd)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    found = os.stat(staged, dir_fd=staged_fd, follow_symlinks=False)
                    place(staged_fd, fd, staged, self._temporary, found)
        except (FileNotFoundError, IsADirectoryError) as error:
            reason = self._built.outcome.lost.get(path) or os.strerror(error.errno or 0)
            self._leave(path, reason)

    def _database(self, path: bytes, fd: int, name: bytes) -> None:
        """Put a live database back: as a file if nobody has it open, else through SQLite, so that they see it."""
        full = os.path.join(self._source, path)
        if not is_open(full):
            _remove_beside(fd, name)  # before: with another file these logs would damage it
            self._move(path, fd, name)
            return
        import sqlite3

        staged = b"/proc/self/fd/%d/%s" % (self._stage, path)
        try:
            with (
                contextlib.closing(sqlite3.connect(staged)) as good,
                contextlib.closing(sqlite3.connect(full, timeout=_BUSY_S)) as live,
            ):
                good.backup(live)
            self._through_sqlite.add(path)
        except sqlite3.Error as error:
            self._leave(path, f"the database is in use: {error}")

    def _settle(self, path: bytes, entry: Entry) -> None:
        try:
            fd = walk_down(self._root, path)
        except OSError as error:
            self._leave(path, error.strerror or str(error))
            return
        try:
            outcome = self._built.outcome
            set_directory(fd, path, structs.replace(entry, mtime_ns=None), self._built.host, outcome)
            os.fchmod(fd, outcome.mode(path, entry))
            if entry.mtime_ns is not None:
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _is_back(self, path: bytes, old: Entry | None) -> bool:
        state = state_of(self._root, path)
        if path in self._through_sqlite:
            return True
        if old is None:
            return state is None or state.type == "d"  # a directory that holds what was not compared
        return _same(state, old) or path in self._built.outcome.stripped

    @contextlib.contextmanager
    def _parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Open the directory above a path, so that one can work in it; -1 if it is not there."""
        try:
            fd = walk_down(self._root, path.rpartition(b"/")[0])
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            yield -1, b""
            return
        try:
            make_passable(fd)
            self._touched.add(path.rpartition(b"/")[0])
            yield fd, path.rpartition(b"/")[2]
        finally:
            os.close(fd)

    def _leave(self, path: bytes, why: str) -> None:
        self.left.append(Left(path, why))


def _same(state: FileState | None, entry: Entry) -> bool:
    """Whether what lies there is what a manifest says, as far as a comparison goes."""
    if state is None or state.type != entry.type or (entry.type != "l" and state.mode != entry.mode):
        return False
    if entry.type == "f":
        return state.sha256 == entry.sha256
    if entry.type == "l":
        return state.sha256 == hashlib.sha256(entry.raw_target).hexdigest()
    if entry.type in "cb":
        return state.sha256 == hashlib.sha256(b"%d" % entry.rdev).hexdigest()
    return True


def _remove_beside(fd: int, name: bytes) -> None:
    for suffix in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name + suffix, dir_fd=fd)
