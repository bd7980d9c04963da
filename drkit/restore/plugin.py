"""Restoring one plugin: into a directory, or in place of the live one."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Callable, Iterator

from msgspec import Struct

from drkit.errors import IntegrityError, UsageError
from drkit.model import Entry, PluginRow, Snapshot, show_path
from drkit.progress import NullProgress, Progress
from drkit.repo.repository import Repository, SnapshotRef
from drkit.restore.attrs import filling_mode, set_directory
from drkit.restore.build import Built, Job, build
from drkit.restore.check import check_tree
from drkit.restore.dirs import OPEN_DIR
from drkit.restore.plan import check_space, make_plan
from drkit.restore.recover import recover_leftovers
from drkit.restore.report import RestoreReport
from drkit.restore.site import check_apart, open_site, os_errors
from drkit.restore.swap import Stage, staged
from drkit.restore.tree import planned_report, report, restore_into
from drkit.source.globs import Globs

_SHOWN = 10


def restore_plugin(
    repo: Repository,
    ref: SnapshotRef,
    row: PluginRow,
    *,
    target: bytes | None = None,
    in_place_source: bytes | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    now: Callable[[], float] = time.monotonic,
    random: Callable[[int], bytes] = os.urandom,
) -> RestoreReport:
    """Restore a plugin's content directly into `target`, or, without one, in place below a source directory.

    `in_place_source` is that directory, the snapshot's own source by default. In place, the plugin's directory is
    replaced as a whole and read back once more through its live name; the old one comes back if that fails.
    Missing directories above it are made as the manifest has them. IntegrityError if a part of the plugin is lost:
    the live one then stays as it is. UsageError if it holds paths that the snapshot's excludes left out.
    """
    snapshot = repo.load(ref)
    job = Job(repo, snapshot, row.tree_sha256, row.files, below=row.raw_path)
    progress = progress or NullProgress()
    if target is not None:
        return restore_into(
            job,
            ref,
            target,
            delete=False,
            replace_option="",
            dry_run=dry_run,
            progress=progress,
            now=now,
            random=random,
        )
    started = now()
    source = os.path.realpath(snapshot.raw_source if in_place_source is None else in_place_source)
    live = os.path.join(source, job.below) if job.below else source
    check_apart(live, repo.location())
    plan = make_plan(job.batches())
    with os_errors(live):
        if dry_run:
            _refuse_excluded(snapshot, source, live)
            return planned_report(job, ref, plan, now() - started)
        if not os.path.isdir(source):
            raise UsageError(
                f"the source {show_path(source)} is not there", hint="name another with --source, or use --target"
            )
        recover_leftovers(os.path.dirname(live))
        recover_leftovers(live)
        _refuse_excluded(snapshot, source, live)
        with _parents(job, source) as parents:
            site = open_site(os.dup(parents.fd), os.path.basename(live), live)
            try:
                check_space(plan, live, site.dir_fd, job.batches(places=True), repo)
                with staged(site, random) as stage:
                    with stage.open() as fd:
                        built = build(job, plan, site, fd, progress)
                    _refuse_losses(built, live)
                    method = stage.swap()
                    _check_live(job, stage, built)
                    note = stage.finish()
                parents.settle(built)
            finally:
                site.close()
    return report(ref, built, method, note, now() - started)


def _refuse_excluded(snapshot: Snapshot, source: bytes, live: bytes) -> None:
    """Refuse to replace a directory that holds what was left out of the snapshot: nothing could bring it back."""
    globs = Globs(snapshot.excludes)
    if not globs or os.path.islink(live) or not os.path.isdir(live):
        return
    below = os.path.relpath(live, source) if live != source else b""
    found = [show_path(path) for path in itertools.islice(_matching(globs, source, below), _SHOWN)]
    if found:
        raise UsageError(
            f"{show_path(live)} holds what the snapshot does not, because it was excluded: {', '.join(found)}",
            hint="move it away first, or restore with --target",
        )


def _matching(globs: Globs, source: bytes, below: bytes) -> Iterator[bytes]:
    """Yield the paths below a directory of the source that are matched, relative to the source, tops only."""
    waiting = [below]
    while waiting:
        directory = waiting.pop()
        with os.scandir(os.path.join(source, directory)) as entries:
            for entry in entries:
                path = os.path.join(directory, entry.name)
                if globs.match(path):
                    yield path
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(path)


def _refuse_losses(built: Built, live: bytes) -> None:
    lost = [f"{one.path} ({one.reason})" for one in built.outcome.all_lost()]
    lost += [f"{show_path(path)} (a device, which takes root)" for path in sorted(built.outcome.skipped)]
    if lost:
        raise IntegrityError(
            f"{show_path(live)} was left as it is, because {len(lost)} paths are lost: {'; '.join(lost[:_SHOWN])}",
            hint="restore what there is with 'drkit restore-plugin PLUGIN --target DIR', or from another snapshot",
        )


def _check_live(job: Job, stage: Stage, built: Built) -> None:
    """Read the tree once more, through its live name. What we could not read ourselves was compared in the stage."""
    if built.outcome.late:
        return
    with stage.site.open_live() as fd:
        check_tree(fd, job.batches(), built.host, built.outcome, spare=stage.spare, final=True)


class _Parents(Struct):
    """The directories from the source down to the one that a plugin lies in; `made` are those that were missing."""

    fd: int
    made: list[tuple[int, bytes, Entry]]  # descriptor, name, entry

    def settle(self, built: Built) -> None:
        """Give the new directories what the manifest says, the deepest first."""
        for fd, name, entry in reversed(self.made):
            set_directory(fd, name, entry, built.host, built.outcome)
            os.fsync(fd)


@contextlib.contextmanager
def _parents(job: Job, source: bytes) -> Iterator[_Parents]:
    """Open the directory above the plugin, below `source` without following links; make what is missing.

    If the block fails, what was made is removed again.
    """
    if not job.below:
        source, steps = os.path.dirname(source), []
    else:
        steps = job.below.split(b"/")[:-1]
    opened = [os.open(source, OPEN_DIR)]
    parents = _Parents(opened[0], [])
    try:
        for depth, name in enumerate(steps, 1):
            try:
                fd = os.open(name, OPEN_DIR, dir_fd=parents.fd)
            except FileNotFoundError:
                entry = _entry(job, b"/".join(steps[:depth]))
                os.mkdir(name, filling_mode(entry), dir_fd=parents.fd)
                fd = os.open(name, OPEN_DIR, dir_fd=parents.fd)
                parents.made.append((fd, name, entry))
                os.fsync(parents.fd)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                where = show_path(os.path.join(source, *steps[:depth]))
                raise UsageError(f"{where} is a link or no directory", hint="restore with --target instead") from error
            opened.append(fd)
            parents.fd = fd
        yield parents
    except BaseException:
        for fd, name, _ in reversed(parents.made):
            above = opened[opened.index(fd) - 1]
            with contextlib.suppress(OSError):  # somebody else put something there
                os.rmdir(name, dir_fd=above)
        raise
    finally:
        for fd in opened:
            os.close(fd)


def _entry(job: Job, path: bytes) -> Entry:
    """Return the manifest's entry of a directory; a made-up one if that part of the manifest is lost."""
    for segment in job.repo.segments(job.snapshot, below=path):
        for entry in segment.entries:
            if entry.raw_path == path:
                return entry
    return Entry(type="d")
