"""From a draft to the disk, through the guard and in no other way, and the proof that it is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from msgspec import Struct

from drkit.guard import Change, StagedPlugin, protect
from drkit.model import show_path
from enhance.discover import OnDisk, join
from enhance.pipeline.job import RunJob
from enhance.pipeline.staging import Draft, sha256
from enhance.pipeline.statuses import below


class Stale(Exception):
    """The plugin is not as it was when the draft was made. Says where."""


class Applied(Struct, frozen=True):
    """What was changed (paths relative to the source), and the snapshot that it can be put back from."""

    snapshot: str
    changes: tuple[Change, ...]


def apply(
    job: RunJob, run: str, plugin: bytes, draft: Draft, *, check: Callable[[StagedPlugin], Sequence[str]]
) -> Applied:
    """Apply a draft through an edit permit. Stale if somebody changed what it was made from; nothing is written then.

    Errors as of `drkit.guard.protect`.
    """
    tags = ("enhance", run)
    with protect(plugin, job.site, job.policy, validators=(check,), tags=tags) as permit:
        for old, new in draft.moves:
            permit.move(old, new)
        for path, data in sorted(draft.writes.items()):
            try:
                found = sha256(permit.read(path))
            except FileNotFoundError:
                found = ""
            if found != draft.before[path]:
                raise Stale(f"{show_path(join(plugin, path))} was changed meanwhile")
            permit.write(path, data)
    return Applied(permit.snapshot, permit.changes)


def new_dirs(source: bytes, plugin: bytes, draft: Draft) -> tuple[bytes, ...]:
    """Return the directories, relative to the plugin, that applying a draft will make, those above first."""
    wanted = set()
    for path in (*draft.writes, *(new for _, new in draft.moves)):
        parts = path.split(b"/")[:-1]
        wanted |= {b"/".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    moved = {new for _, new in draft.moves}
    gone = {one for one in wanted if any(one == new or one.startswith(new + b"/") for new in moved)}
    return tuple(sorted(one for one in wanted - gone if not os.path.lexists(join(source, join(plugin, one)))))


def missing(source: bytes, changes: Sequence[Change]) -> list[bytes]:
    """Return the paths that are not on the disk as a run left them."""
    return [change.path for change in changes if disk_sha256(source, change.path) != change.new_sha256]


def disk_sha256(source: bytes, path: bytes) -> str:
    """Return the SHA-256 of a file as it is now, empty if there is none that could be read."""
    try:
        return sha256(OnDisk(join(source, path), 0, 0)())
    except OSError:
        return ""


def files_after(files: Sequence[bytes], plugin: bytes, changes: Sequence[Change]) -> tuple[bytes, ...]:
    """Return a plugin's files, relative to it, as they are after some changes."""
    gone = {below(plugin, change.path) for change in changes if change.kind == "removed"}
    added = {below(plugin, change.path) for change in changes if change.kind == "added"}
    return tuple(sorted((set(files) - gone) | added))
