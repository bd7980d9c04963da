"""Building a tree in a stage: written, made durable, read back and compared."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from msgspec import Struct

from drkit import osutil
from drkit.errors import RestoreMismatch
from drkit.format.limits import KIB
from drkit.model import Entry, Snapshot
from drkit.progress import Progress
from drkit.repo.repository import Repository
from drkit.restore.attrs import Host, probe, set_directory, set_mode
from drkit.restore.check import Checked, check_tree
from drkit.restore.feed import Feed
from drkit.restore.halves import write_halves
from drkit.restore.mirror import copy_attributes
from drkit.restore.plan import Plan
from drkit.restore.report import Outcome
from drkit.restore.select import Batch, select
from drkit.restore.site import Site
from drkit.restore.writer import Writer
from drkit.store.parallel import is_remote

_SYNC_EACH = 64
_FEW = 1000
_SMALL = 64 * KIB
"""With files of this size on average, it pays to decode on a thread while others are written."""
_APART = 5000
"""From this many files on, a second process that writes half of them, or reads them back, is worth its start."""


class Job(Struct):
    """What to restore: of a snapshot everything, or what lies below a path, or what some patterns match.

    `tree_sha256` is what all of it must hash to, `files` how many files it has, by what the snapshot says.
    """

    repo: Repository
    snapshot: Snapshot
    tree_sha256: str
    files: int
    below: bytes = b""
    include: tuple[str, ...] = ()
    kept: list[Batch] | None = None

    def batches(self, *, again: bool = False, places: bool = False) -> Iterator[Batch]:
        """Read the manifest and yield what is selected; `again` trusts what an earlier pass has checked.

        The manifest of few files is kept in memory: a cold remote store is asked for it only once.
        """
        if self.kept is not None:
            return iter(self.kept)
        if self.files < _FEW and not again:
            return self._read_and_keep()
        return self._read(again=again, places=places)

    def _read_and_keep(self) -> Iterator[Batch]:
        kept: list[Batch] = []
        left = 4 * _FEW  # whatever the snapshot says
        for batch in self._read(again=False, places=True):
            left -= len(batch.items)
            if left >= 0:
                kept.append(batch)
            else:
                kept.clear()
            yield batch
        if left >= 0:
            self.kept = kept

    def _read(self, *, again: bool, places: bool) -> Iterator[Batch]:
        segments = self.repo.segments(self.snapshot, below=self.below, again=again, places=places)
        return select(segments, below=self.below, include=self.include, again=again)


class Built(Struct, frozen=True):
    """A tree that was written and read back: what was found, what could not be done, and where."""

    checked: Checked
    outcome: Outcome
    host: Host


def build(job: Job, plan: Plan, site: Site, stage_fd: int, progress: Progress) -> Built:
    """Write the job's tree into the empty directory `stage_fd`, make it durable, read it back, compare it.

    RestoreMismatch if anything differs from the manifest, or the whole from the recorded tree hash; OSError if the
    file system fails. What is lost is in the outcome.
    """
    host = probe(stage_fd)
    outcome = Outcome()
    few = plan.files <= _SYNC_EACH and plan.dirs <= _SYNC_EACH
    progress.start(plan.entries, plan.bytes, "restoring")
    # Where each file is a few short calls, two threads would spend more on taking turns than they gain.
    ahead = is_remote(job.repo.store) or plan.bytes >= _SMALL * plan.files
    again = not plan.lost  # what could not be read then was not checked either
    root: Entry | None = None
    many = plan.files >= _APART and not (ahead or job.include or job.below)
    if not many or not write_halves(job.repo, job.snapshot, plan, stage_fd, host, outcome, progress):
        writer = Writer(stage_fd, host, outcome, progress, sync_each=few)
        with Feed(job.batches(again=again, places=True), job.repo.reader(), plan.repeats, ahead=ahead) as feed:
            root = writer.run(feed)
    if root is not None:
        set_directory(stage_fd, b"", root, host, outcome)
    else:
        _like_the_old(site, stage_fd, host)
    sync = _Sync(stage_fd, few=few)
    try:
        progress.start(plan.entries, plan.bytes, "reading back")
        checked = check_tree(
            stage_fd, job.batches(again=again), host, outcome, apart=plan.files >= _APART, progress=progress
        )
    finally:
        sync.join()
    sync.raise_error()
    _compare_hash(job, outcome, checked)
    if outcome.late:
        _set_late(stage_fd, outcome)
        osutil.syncfs(stage_fd)
    return Built(checked, outcome, host)


def _like_the_old(site: Site, stage_fd: int, host: Host) -> None:
    """Give the top directory, of which the manifest says nothing, what it has now, or what a new one gets."""
    found = site.live_stat()
    if found is None:
        os.fchmod(stage_fd, 0o777 & ~host.umask)
        return
    with site.open_live() as live:
        copy_attributes(live, stage_fd)


def _compare_hash(job: Job, outcome: Outcome, checked: Checked) -> None:
    """Compare the tree hash where everything that goes into it was restored."""
    comparable = outcome.whole and not job.include and not outcome.stripped and "mode" not in outcome.unset
    if comparable and checked.tree_sha256 != job.tree_sha256:
        raise RestoreMismatch(
            f"the restored tree hashes to {checked.tree_sha256}, but {job.tree_sha256} was backed up",
            hint="each entry is as the manifest says, so the snapshot does not fit its manifest: restore another one",
        )


def _set_late(stage_fd: int, outcome: Outcome) -> None:
    """Set the modes that would have kept us from reading the tree back, each directory's after what it holds."""
    for path, mode in outcome.late:
        if path:
            os.chmod(path, mode, dir_fd=stage_fd)
        else:
            set_mode(mode, outcome, stage_fd)


class _Sync:
    """Makes the file system durable while the tree is read back. With few files each was synced already."""

    def __init__(self, fd: int, *, few: bool) -> None:
        self._fd = fd
        self._error: OSError | None = None
        self._thread: threading.Thread | None = None
        if few:
            os.fsync(fd)
        else:
            self._thread = threading.Thread(target=self._run, name="drkit-restore-sync", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            osutil.syncfs(self._fd)
        except OSError as error:
            self._error = error

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error
