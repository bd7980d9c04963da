"""Restoring a whole snapshot, or some of its paths, into a directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from drkit.errors import UsageError
from drkit.model import show_path
from drkit.progress import NullProgress, Progress
from drkit.repo.repository import Repository, SnapshotRef
from drkit.restore.build import Built, Job, build
from drkit.restore.plan import Plan, check_space, make_plan
from drkit.restore.recover import recover_leftovers
from drkit.restore.report import RestoreReport
from drkit.restore.site import Site, check_apart, is_empty, open_target, os_errors
from drkit.restore.swap import staged


def restore_tree(
    repo: Repository,
    ref: SnapshotRef,
    target: bytes,
    *,
    include: tuple[str, ...] = (),
    delete: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    now: Callable[[], float] = time.monotonic,
    random: Callable[[int], bytes] = os.urandom,
) -> RestoreReport:
    """Restore the source's content directly into `target`, all of it or what matches one of the globs `include`.

    The tree is staged beside the target, made durable, read back and compared, and takes its place only then, in
    one step where the system can. `delete` lets it replace what a target holds; without it that is a UsageError.
    `dry_run` writes nothing and reports counts. UsageError for a target that is, holds, or lies in the repository.
    What is lost is left out and listed in the report.
    """
    if include and delete:
        raise UsageError(
            "--delete makes the target equal to the whole snapshot", hint="leave out --include or --delete"
        )
    snapshot = repo.load(ref)
    job = Job(repo, snapshot, snapshot.tree_sha256, snapshot.files, include=include)
    return restore_into(
        job,
        ref,
        target,
        delete=delete,
        replace_option="--delete",
        dry_run=dry_run,
        progress=progress or NullProgress(),
        now=now,
        random=random,
    )


def restore_into(
    job: Job,
    ref: SnapshotRef,
    target: bytes,
    *,
    delete: bool,
    replace_option: str,
    dry_run: bool,
    progress: Progress,
    now: Callable[[], float],
    random: Callable[[int], bytes],
) -> RestoreReport:
    """Restore a job into a directory as `restore_tree` does; `replace_option` is named where it is not empty."""
    started = now()
    whole = job.snapshot
    plan = make_plan(job.batches(), expected=whole.files + whole.dirs + whole.others)
    if not plan.entries and job.include:
        raise UsageError(
            f"nothing in this snapshot matches {' '.join(job.include)}", hint="see what it has with 'drkit ls'"
        )
    with os_errors(target):
        path = os.path.realpath(target)
        check_apart(path, job.repo.location())
        if not dry_run:
            recover_leftovers(os.path.dirname(path))
            recover_leftovers(path)
        site = open_target(path, make_parents=not dry_run)
        if site is None:
            return planned_report(job, ref, plan, now() - started)
        try:
            if not delete:
                _refuse_content(site, replace_option)
            check_space(plan, path, site.dir_fd, job.batches(places=True), job.repo)
            if dry_run:
                return planned_report(job, ref, plan, now() - started)
            with staged(site, random) as stage:
                with stage.open() as fd:
                    built = build(job, plan, site, fd, progress)
                if not delete:  # somebody may have put something there meanwhile
                    _refuse_content(site, replace_option, stage.spare)
                method = stage.swap()
                note = stage.finish()
        finally:
            site.close()
    return report(ref, built, method, note, now() - started)


def _refuse_content(site: Site, option: str, spare: frozenset[bytes] = frozenset()) -> None:
    found = site.live_stat()
    if found is None:
        return
    with site.open_live() as fd:
        if not is_empty(fd, spare):
            hint = f"name an empty or new directory, or give {option} to replace what is there"
            raise UsageError(
                f"{show_path(site.path)} is not empty",
                hint=hint if option else "name an empty or new directory",
            )


def planned_report(job: Job, ref: SnapshotRef, plan: Plan, duration: float) -> RestoreReport:
    """Return what a dry run reports; the tree hash is the recorded one, if all of it would be restored."""
    whole = not plan.lost and not job.include
    return RestoreReport(
        snapshot=ref.id,
        files=plan.files,
        dirs=plan.dirs,
        links=plan.links,
        others=plan.others,
        bytes=plan.bytes,
        tree_sha256=job.tree_sha256 if whole else "",
        lost=plan.lost,
        duration_s=duration,
        method="",
        notes=(),
    )


def report(ref: SnapshotRef, built: Built, method: str, note: str, duration: float) -> RestoreReport:
    """Return the report of a tree that took its place."""
    checked = built.checked
    return RestoreReport(
        snapshot=ref.id,
        files=checked.files,
        dirs=checked.dirs,
        links=checked.links,
        others=checked.others,
        bytes=checked.bytes,
        tree_sha256=checked.tree_sha256,
        lost=built.outcome.all_lost(),
        duration_s=duration,
        method=method,
        notes=built.outcome.notes() + ((note,) if note else ()),
    )
