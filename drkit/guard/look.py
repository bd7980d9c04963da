"""What a command has made of a source: stored as a snapshot, and compared with the one before it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from msgspec import Struct, structs

from drkit.errors import IntegrityError, StoreError
from drkit.guard.closed import closed
from drkit.guard.compare import in_use_paths
from drkit.guard.journal import Command
from drkit.guard.site import Site
from drkit.guard.snapshot import back_up, take_snapshot
from drkit.model import Entry, Snapshot, show_path, sort_key
from drkit.query.diff import Change, compare
from drkit.query.walk import walk
from drkit.source.globs import Globs

REJECTED = "rejected"
RECOVER = "mend the cause, then run 'drkit guard recover --source DIR': it puts back what is not yet as it was"


class Seen(Struct, frozen=True):
    """What a command has made of a source. `snapshot` holds it; empty if the source is gone, or empty."""

    snapshot: str
    rejected: bool
    changes: tuple[Change, ...]
    outside: tuple[bytes, ...]

    @property
    def changed(self) -> list[bytes]:
        """The paths for people: directories only where nothing in them differs."""
        return named(self.changes)


def named(changes: Sequence[Change]) -> list[bytes]:
    """Return the paths of changes in manifest order, without directories that say no more than what differs in them."""
    above = {path for change in changes for path in directories_above(change.path)}
    return [one.path for one in changes if one.path not in above or is_leaf(one.old) or is_leaf(one.new)]


def unchanged(site: Site, before: Snapshot) -> bool:
    """Whether the source is as it was in a snapshot, what is ignored included. Nothing is written."""
    if _is_gone(site.source):
        return False
    return back_up(site, dry_run=True).tree_sha256 == before.tree_sha256


def look(site: Site, record: Command, before: Snapshot, *, failed: bool, keep: bool = False) -> Seen:
    """Store the source as it is now, and compare it with `before`.

    The snapshot is tagged `rejected` if the command has failed, or if anything outside of its plugins differs. What
    cannot be read then, which all could be before, is opened to its owner, so that it can be stored and put back;
    not with `keep`, which says that nothing will be.
    """
    ignore, spare = Globs(record.ignore), in_use_paths(site).union(record.spare)
    changes: list[Change] = []
    outside: list[bytes] = []
    shut: list[bytes] = []

    def ignored(path: bytes) -> bool:
        return path in spare or ignore.match(path)

    def counts(change: Change) -> bool:
        path = change.path
        if ignored(path):
            return False
        # A directory of which all content is ignored is the content's own affair.
        return is_leaf(change.old) or is_leaf(change.new) or not ignore.match(path + b"/")

    def judge(taken: Snapshot) -> Sequence[str]:
        changes.extend(filter(counts, compare(site.repo, before, taken)))
        outside.extend(named([one for one in changes if not _inside(one.path, record.plugins)]))
        if taken.skipped:  # none was before, or nothing would have been run
            shut.extend(closed(site, ignored))
            outside.extend({path for path in shut if not _inside(path, record.plugins)}.difference(outside))
            outside.sort(key=sort_key)
        return (REJECTED,) if failed or outside else ()

    if _is_gone(site.source):
        changes.extend(filter(counts, _everything(site, before)))
        outside.extend(named([one for one in changes if not _inside(one.path, record.plugins)]))
        return Seen("", True, tuple(changes), tuple(outside))
    report = take_snapshot(site, judge=judge)
    rejected = failed or bool(outside)
    if rejected and shut and not keep and closed(site, ignored, opening=True):
        again = look(site, record, before, failed=True, keep=True)
        return structs.replace(again, outside=again.outside or tuple(outside))
    return Seen(report.snapshot, rejected, tuple(changes), tuple(outside))


def _inside(path: bytes, plugins: Sequence[bytes]) -> bool:
    return any(not plugin or path == plugin or path.startswith(plugin + b"/") for plugin in plugins)


def _is_gone(source: bytes) -> bool:
    """Whether there is nothing that a snapshot could be taken of."""
    try:
        with os.scandir(source) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True
    except OSError as error:
        raise StoreError(f"{show_path(source)} cannot be read: {error.strerror}", hint=RECOVER) from error


def _everything(site: Site, snapshot: Snapshot) -> Iterator[Change]:
    lost: list[str] = []
    for path, entry, places in walk(site.repo, snapshot, lost):
        yield Change(path, entry, None, places)
    refuse_lost(lost)


def refuse_lost(lost: Sequence[str]) -> None:
    """Raise IntegrityError if a walk over a snapshot found parts of it lost."""
    if lost:
        raise IntegrityError(f"a part of the snapshot is lost: {lost[0]}", hint="run 'drkit verify --level content'")


def directories_above(path: bytes) -> Iterator[bytes]:
    """Yield the directories that a path lies in, the source itself excluded."""
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        yield path


def is_leaf(entry: Entry | None) -> bool:
    """Whether there is something, and no directory."""
    return entry is not None and entry.type != "d"
