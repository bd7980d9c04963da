"""What an interrupted edit or command left of a source: ended, put back, and told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from msgspec import Struct

from drkit.errors import DrkitError, GuardRefused, LockedError, StoreError
from drkit.guard.apply import Applier
from drkit.guard.journal import Command, Edit, Journal
from drkit.guard.lock import TreeLock, Waiting
from drkit.guard.site import Site
from drkit.guard.tree import open_dir
from drkit.model import show_path

_STEP_S = 0.02


class Recovered(Struct, frozen=True):
    """What was done about something interrupted.

    `put back`: the plugins are as they were before; `finished`: all was done, only leftovers were removed. `paths`
    (relative to the source) were left alone: they are neither as before nor as was intended, but somebody's later work.
    `snapshot` is what was taken before, `rejected` the snapshot of what was found, where there is one.
    """

    kind: Literal["edit", "command"]
    done: Literal["put back", "finished"]
    plugins: tuple[bytes, ...]
    snapshot: str
    paths: tuple[bytes, ...] = ()
    rejected: str = ""


def recover(source: bytes, *, site: Site | None = None, waiting: Waiting | None = None) -> list[Recovered]:
    """End and put back what processes of this user that died have left of a source; [] if there is nothing.

    `source` is an absolute real path. With a `site` the audit is told. LockedError if others work there for too
    long, StoreError or GuardRefused if it cannot be put back: then it stays for the next time.
    """
    done = []
    left = Journal.left(source)
    try:
        for journal in left:
            result = _recover(journal, source, site, waiting or (site.waiting if site else None))
            journal.abandon()
            if result is not None:
                done.append(result)
                if site is not None:
                    _audit(site, result)
    finally:
        for journal in left:
            journal.close()
    return done


@contextmanager
def recovered(lock: TreeLock, source: bytes, *, site: Site | None = None) -> Iterator[list[Recovered]]:
    """Hold a lock of a source for a block, after everything that was left there has been put back."""
    waiting = lock.waiting
    until = waiting.monotonic() + waiting.timeout_s
    done: list[Recovered] = []
    while True:
        done += recover(source, site=site, waiting=waiting)
        with lock:
            if not _any_left(source, lock):
                yield done
                return
        left_s = until - waiting.monotonic()
        if left_s <= 0:
            raise LockedError(f"somebody else is putting back what was interrupted in {show_path(source)}")
        waiting.sleep(min(_STEP_S, left_s))


def _any_left(source: bytes, lock: TreeLock) -> bool:
    """Whether there is something to put back by now, or somebody is at it and waits for the lock that is held here.

    Who writes below a lock's path has a lock that excludes it: so every journal about that is a dead one's.
    """
    journals = Journal.opened(source)
    try:
        return any(locked or _concerns(journal.read(), lock) for journal, locked in journals)
    finally:
        for journal, _ in journals:
            journal.close()


def _concerns(record: Edit | Command | None, lock: TreeLock) -> bool:
    if isinstance(record, Edit):
        edited = os.path.join(record.source, record.plugin) if record.plugin else record.source
        return any(_lies_in(path, edited) or _lies_in(edited, path) for path in lock.paths)
    return record is not None


def _lies_in(path: bytes, directory: bytes) -> bool:
    return (path + b"/").startswith(directory.rstrip(b"/") + b"/")


def _recover(journal: Journal, source: bytes, site: Site | None, waiting: Waiting | None) -> Recovered | None:
    record = journal.read()
    if record is None or record.source != source:
        return None  # it died before it began
    if isinstance(record, Command):
        from drkit.guard.undo import recover_command

        return recover_command(journal, record, site=site, waiting=waiting)
    with TreeLock.plugin(source, record.plugin, waiting):
        return _recover_edit(record)


def _recover_edit(edit: Edit) -> Recovered:
    try:
        root_fd = open_dir(edit.source, edit.plugin)
    except GuardRefused:
        # The whole plugin was removed or replaced since, and with it the stage: somebody's later work.
        return Recovered("edit", "finished", (edit.plugin,), edit.snapshot, (edit.plugin,))
    except FileNotFoundError as error:
        raise StoreError(f"{show_path(edit.source)} is not there", hint="mount it, then run it again") from error
    try:
        applier = Applier(root_fd, edit)
        if edit.state == "done":
            applier.finish()
            return Recovered("edit", "finished", (edit.plugin,), edit.snapshot)
        alone = applier.put_back()
        paths = tuple(os.path.join(edit.plugin, path) for path in alone)
        return Recovered("edit", "put back", (edit.plugin,), edit.snapshot, paths)
    except OSError as error:
        raise StoreError(
            f"an interrupted edit of {show_path(edit.plugin)} cannot be put back: {error.strerror}",
            hint="mend the cause, then run 'drkit guard recover --source DIR'",
        ) from error
    finally:
        os.close(root_fd)


def _audit(site: Site, result: Recovered) -> None:
    detail = {
        "what": result.kind,
        "done": result.done,
        "plugins": [show_path(plugin) for plugin in result.plugins],
        "snapshot": result.snapshot,
        "left_alone": [show_path(path) for path in result.paths],
    }
    try:
        site.inventory.record("guard-recovered", detail, {}, repo_id=site.repo.config.repository_id)
    except DrkitError:
        return  # what was put back is put back
