"""A plugin as it would be: live files with repairs and a merged proposal on top. Nothing here touches the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from drkit.errors import UsageError
from enhance.fix import Edit, Move
from enhance.model import Plugin
from enhance.pipeline.diff3 import Hunk
from enhance.pipeline.merge import merge
from enhance.validators import Contents

RESERVED = (b".claude-plugin", b".git")
"""Directories of a plugin in which nothing is ever proposed."""


class Draft(Struct, frozen=True):
    """What is to be done to a plugin, relative to it: first the moves, then the writes.

    `proposal` is what the generator would have had, before merging. `before` maps each path that is written to the
    SHA-256 of the live content that it was made from, empty where there was none: should it differ when the permit
    is there, the draft is stale.
    """

    writes: Mapping[bytes, bytes] = {}
    moves: tuple[tuple[bytes, bytes], ...] = ()
    proposal: Mapping[bytes, bytes] = {}
    before: Mapping[bytes, str] = {}
    conflicts: tuple[Hunk, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing is to be done."""
        return not self.writes and not self.moves


class Overlay:
    """The files of a plugin with changes on top, by path relative to it."""

    def __init__(self, live: Contents) -> None:
        self.live = live
        self.files: dict[bytes, bytes | Callable[[], bytes]] = dict(live)
        self.writes: dict[bytes, bytes] = {}
        self.moves: list[tuple[bytes, bytes]] = []

    def read(self, path: bytes) -> bytes | None:
        """Return a file's content as it would be, None if there is none. OSError as the file system gives it."""
        found = self.files.get(path)
        return found() if callable(found) else found

    def write(self, path: bytes, data: bytes) -> None:
        """Have a file hold this."""
        if self.read(path) != data:
            self.files[path] = self.writes[path] = data

    def move(self, old: bytes, new: bytes) -> None:
        """Move a file, or a directory with all that is in it."""
        moved = {path: _moved(path, old, new) for path in self.files}
        if all(path == now for path, now in moved.items()):
            raise UsageError(f"a repair would move {old!r}, which is not there")
        self.files = {moved[path]: content for path, content in self.files.items()}
        self.writes = {_moved(path, old, new): data for path, data in self.writes.items()}
        self.moves.append((old, new))

    def edit(self, edits: Iterable[Edit]) -> None:
        """Make some repairs, in their order."""
        for one in edits:
            if isinstance(one, Move):
                self.move(one.old, one.new)
            else:
                self.write(one.path, one.data)

    def draft(self, proposal: Mapping[bytes, bytes] | None = None, conflicts: Iterable[Hunk] = ()) -> Draft:
        """Return what makes the live files these."""
        before = {path: sha256(self.origin(path)) for path in self.writes}
        return Draft(dict(self.writes), tuple(self.moves), dict(proposal or {}), before, tuple(conflicts))

    def origin(self, path: bytes) -> bytes | None:
        """Return what the live file holds that is now at a path, None if there is none."""
        for old, new in reversed(self.moves):
            path = _moved(path, new, old)
        found = self.live.get(path)
        return found() if callable(found) else found


def effects(draft: Draft, live: Contents) -> dict[bytes, str]:
    """Return the paths that a draft changes, with the SHA-256 of what they will hold, empty where nothing will be."""
    overlay = Overlay(live)
    for old, new in draft.moves:
        overlay.move(old, new)
    gone = {path: "" for path in live if path not in overlay.files}
    come = {path: sha256(overlay.read(path)) for path in overlay.files if path not in live}
    return {**gone, **come, **{path: sha256(data) for path, data in draft.writes.items()}}


def _moved(path: bytes, old: bytes, new: bytes) -> bytes:
    if path == old:
        return new
    return new + path[len(old) :] if path.startswith(old + b"/") else path


def sha256(data: bytes | None) -> str:
    """Return the SHA-256 of a content in hexadecimal, empty of none."""
    return "" if data is None else hashlib.sha256(data).hexdigest()


def misplaced(paths: Iterable[bytes], plugin: Plugin, nested: Iterable[bytes], links: Iterable[bytes]) -> list[str]:
    """Say what is wrong with where a proposal wants to write. `nested` and `links` are relative to the plugin."""
    found = []
    closed = (*RESERVED, *nested, *links)
    for path in paths:
        parts = path.split(b"/")
        if not path or b"\0" in path or {b"", b".", b".."} & set(parts):
            found.append(f"{path!r} is not a path inside of {plugin.name}")
        elif any(path == one or path.startswith(one + b"/") for one in closed):
            found.append(f"{path!r} is not {plugin.name}'s to write")
    return found


def merge_proposal(
    overlay: Overlay, proposal: Mapping[bytes, bytes], base: Callable[[bytes, bytes | None], bytes | None]
) -> list[Hunk]:
    """Write a proposal into an overlay, merged with what is there; return what of it was not taken.

    `base` gives the merge's base of a path, from the path and what it holds.
    """
    conflicts: list[Hunk] = []
    for path, theirs in sorted(proposal.items()):
        mine = overlay.read(path)
        merged = merge(path, base=base(path, mine), mine=mine, theirs=theirs)
        conflicts += merged.conflicts
        if merged.data is not None:
            overlay.write(path, merged.data)
    return conflicts
