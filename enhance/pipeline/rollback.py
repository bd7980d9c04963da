"""Taking back what a run did, plugin by plugin, each through the guard like any other edit."""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Iterable
from typing import Any

from msgspec import Struct

from drkit.errors import UsageError
from drkit.guard import Change, EditPermit, differences, in_use_paths, protect, take_snapshot
from drkit.inventory import EnhancementRecord, RunRecord
from drkit.model import Entry, show_path
from drkit.repo import BlobReader, SnapshotRef
from enhance.discover import Discovery, join
from enhance.model import Status
from enhance.pipeline.applying import disk_sha256
from enhance.pipeline.job import RollbackReport, RunJob
from enhance.pipeline.running import find, only_run
from enhance.pipeline.select import named
from enhance.pipeline.staging import sha256
from enhance.pipeline.statuses import path_of


def rollback(job: RunJob, run: str, plugins: tuple[bytes, ...] = (), *, force: bool = False) -> RollbackReport:
    """Put back what a run (its id, the beginning of one, `latest`) changed: of all its plugins, or of some.

    Exactly the paths that the run changed get the type, mode and content that they had; directories that it made
    are removed. A plugin that somebody changed since is a conflict and is left alone; with `force` its paths are put
    back too. The present state is stored as a snapshot first, so nothing is lost by that. What was rolled back
    already is passed over. UsageError for a run of another source; errors of the guard end it.
    """
    began = job.site.monotonic()
    record = job.records.run(run)
    if record.source != job.site.source or record.repository != job.repo_id:
        hint = "name the source and the repository that the run worked with"
        raise UsageError(f"{record.run} was a run on {show_path(record.source)}", hint=hint)
    with only_run(job.site):
        discovery = find(job).discovery
        before = take_snapshot(job.site, tags=("enhance-rollback",)).snapshot
        changed = _changed_since(job, record, before)
        changes: list[Change] = []
        conflicts: list[bytes] = []
        count = 0
        for row in _rows(job, record, discovery, plugins):
            if not force and _is_conflict(job, row, discovery, changed):
                conflicts.append(row.plugin_path)
                continue
            changes += _put_back(job, record, row)
            count += 1
        job.flush()
    return RollbackReport(
        run=record.run,
        plugins=count,
        files_changed=tuple(sorted({one.path for one in changes})),
        conflicts=tuple(conflicts),
        snapshot_before=before,
        duration_s=round(job.site.monotonic() - began, 3),
    )


def _rows(job: RunJob, record: RunRecord, discovery: Discovery, plugins: tuple[bytes, ...]) -> list[EnhancementRecord]:
    """Return the plugins of a run that it changed something of, those inside of others first."""
    rows = job.records.statuses(record.run)
    if plugins:
        paths = {row.plugin_path for row in rows}
        wanted = {one if one in paths else named(discovery.plugins, one).path for one in plugins}
        if strange := sorted(wanted - paths):
            raise UsageError(f"{show_path(strange[0])} was not in {record.run}", hint="see 'drkit enhance report'")
        rows = [row for row in rows if row.plugin_path in wanted]
    rows = [row for row in rows if row.status != Status.ROLLED_BACK and _is_on_disk(job, row)]
    return sorted(rows, key=lambda row: row.plugin_path, reverse=True)


def _is_on_disk(job: RunJob, row: EnhancementRecord) -> bool:
    """Whether a row tells of changes that were made, not only meant: a run that was killed notes both alike."""
    changes = _changes(row)
    if row.status in {Status.VERIFIED, Status.APPLIED} or not changes:
        return bool(changes)
    now = {path: disk_sha256(job.site.source, join(row.plugin_path, path)) for path in changes}
    return any(now[path] == new != old for path, (old, new) in changes.items())


def _changes(row: EnhancementRecord) -> dict[bytes, tuple[str, str]]:
    return {path_of(key): (old, new) for key, (old, new) in row.detail.get("changes", {}).items()}


def _changed_since(job: RunJob, record: RunRecord, now: str) -> Collection[bytes]:
    """Return the paths that differ between a run's last snapshot and this one; none where it came to no last one."""
    if not record.snapshot_after:
        return ()
    repo = job.site.repo
    found = differences(repo, repo.resolve(record.snapshot_after), repo.resolve(now), spare=in_use_paths(job.site))
    return {one.path for one in found}


def _is_conflict(job: RunJob, row: EnhancementRecord, discovery: Discovery, changed: Iterable[bytes]) -> bool:
    """Whether somebody changed a plugin since the run: a file of its own, or anything that the run wrote."""
    plugin = row.plugin_path
    inner = [one.path for one in discovery.plugins if one.path != plugin and _is_below(one.path, plugin)]
    for path in changed:
        if _is_below(path, plugin) and not any(_is_below(path, one) for one in inner):
            return True
    return any(disk_sha256(job.site.source, join(plugin, path)) != new for path, (_, new) in _changes(row).items())


def _is_below(path: bytes, directory: bytes) -> bool:
    return not directory or path == directory or path.startswith(directory + b"/")


# Putting back


class _Old(Struct, frozen=True):
    """How files of a plugin were, from the snapshot that its edit began with."""

    reader: BlobReader
    entries: dict[bytes, tuple[Entry, Any]]

    def content(self, path: bytes) -> bytes:
        entry, places = self.entries[path]
        return b"".join(self.reader.content(entry, places))


def _old(job: RunJob, ref: SnapshotRef, plugin: bytes, paths: Collection[bytes]) -> _Old:
    repo = job.site.repo
    entries: dict[bytes, tuple[Entry, Any]] = {}
    for segment in repo.segments(repo.load(ref), below=plugin):
        for path, entry in zip(segment.paths, segment.entries, strict=True):
            own = path[len(plugin) + 1 :] if plugin else path
            if own in paths and _is_below(path, plugin):
                entries[own] = (entry, segment.places)
    return _Old(repo.reader(), entries)


def _put_back(job: RunJob, record: RunRecord, row: EnhancementRecord) -> tuple[Change, ...]:
    plugin, changes = row.plugin_path, _changes(row)
    ref = job.site.repo.resolve(row.snapshot or record.snapshot_before)
    old = _old(job, ref, plugin, [path for path, (before, _) in changes.items() if before])
    with protect(plugin, job.site, job.policy, tags=("enhance-rollback", record.run)) as permit:
        moved = [(path_of(one), path_of(other)) for one, other in row.detail.get("moves", [])]
        for before, now in reversed(moved):
            if _is_free(job, plugin, before) and not _is_free(job, plugin, now):
                permit.move(now, before)
        for path, (before_sha, _) in sorted(changes.items()):
            _put_back_one(permit, path, before_sha, old)
        for path in reversed([path_of(one) for one in row.detail.get("dirs", [])]):
            if _will_be_empty(job, plugin, path, changes):
                permit.delete(path)
    _forget(job, record, row, changes)
    return permit.changes


def _put_back_one(permit: EditPermit, path: bytes, wanted: str, old: _Old) -> None:
    try:
        found = sha256(permit.read(path))
    except FileNotFoundError:
        found = ""
    if not wanted:
        if found:
            permit.delete(path)
    elif found != wanted:
        permit.write(path, old.content(path), mode=old.entries[path][0].mode)


def _is_free(job: RunJob, plugin: bytes, path: bytes) -> bool:
    return not os.path.lexists(join(job.site.source, join(plugin, path)))


def _will_be_empty(job: RunJob, plugin: bytes, path: bytes, changes: dict[bytes, tuple[str, str]]) -> bool:
    """Whether a directory that the run made holds nothing but what it put there."""
    top = join(job.site.source, plugin)
    if not os.path.isdir(join(top, path)):
        return False
    own = {one for one, (before, _) in changes.items() if not before}
    for where, dirs, names in os.walk(join(top, path)):
        below = where[len(top) + 1 :]
        links = [name for name in dirs if os.path.islink(join(where, name))]
        if any(join(below, name) not in own for name in (*names, *links)):
            return False
    return True


def _forget(job: RunJob, record: RunRecord, row: EnhancementRecord, changes: dict[bytes, tuple[str, str]]) -> None:
    """Record that what was proposed and written stands no more, and what stands again in its place."""
    bases = {path_of(key): base64.b64decode(text) for key, text in row.detail.get("bases", {}).items()}
    where: dict[str, Any] = {"run": record.run, "repo_id": job.repo_id, "plugin_path": row.plugin_path}
    source = job.site.source
    proposed = [
        path for path in changes if job.records.proposal(row.plugin_path, path, repo_id=job.repo_id, source=source)
    ]
    if proposed:
        job.records.store_proposal(
            **where, cache_key=row.cache_key, files={path: bases.get(path, b"") for path in proposed}
        )
    written = job.records.written(row.plugin_path, repo_id=job.repo_id, source=source)
    gone = {path: (changes[path][0] if bases.get(path) else "") for path in written if path in changes}
    if gone:
        job.records.store_written(**where, files=gone)
    input_sha256, cache_key = row.detail.get("before", ("", ""))
    job.records.set_status(
        **where,
        plugin_name=row.plugin_name,
        enhancement_type=row.enhancement_type,
        status=Status.ROLLED_BACK,
        reason="taken back by 'drkit enhance rollback'",
        input_sha256=input_sha256,
        cache_key=cache_key,
        detail={**row.detail, "unless_named": True},
    )
