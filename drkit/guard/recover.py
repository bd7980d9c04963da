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

_ROUNDS = 10


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
    for journal in Journal.left(source):
        try:
            result = _recover(journal, source, site, waiting or (site.waiting if site else None))
        except BaseException:
            journal.close()
            raise
        journal.abandon()
        if result is not None:
            done.append(result)
            if site is not None:
                _audit(site, result)
    return done


@contextmanager
def recovered(lock: TreeLock, source: bytes, *, site: Site | None = None) -> Iterator[list[Recovered]]:
    """Hold a lock of a source for a block, after everything that was left there has been put back."""
    done: list[Recovered] = []
    for _ in range(_ROUNDS):
        done += recover(source, site=site, waiting=lock.waiting)
        with lock:
            if not _any_left(source):
                yield done
                return
    raise LockedError(f"commands on {show_path(source)} die faster than they can be put back")


def _any_left(source: bytes) -> bool:
    left = Journal.left(source)
    for journal in left:
        journal.close()
    return bool(left)


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
