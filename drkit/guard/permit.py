"""The edit permit: what its holder may do to one plugin, staged until the block ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from msgspec import Struct

from drkit.errors import GuardRefused
from drkit.guard.staging import Changes, Staging
from drkit.model import sort_key

SEAL = object()
"""What only `protect` hands to a permit."""


class Change(Struct, frozen=True):
    """A path, relative to the source, that an edit changed; never a directory.

    The hashes are SHA-256 of a file's content, or of a link's target; empty where nothing was or is. Where they are
    equal the mode or the type changed.
    """

    path: bytes
    old_sha256: str
    new_sha256: str
    kind: Literal["added", "removed", "modified"]


class StagedPlugin:
    """The plugin as it would be, for validators: it can only be read. Paths are relative to the plugin.

    `plugin` is its path in the source, `changes` what the edit would do.
    """

    def __init__(self, plugin: bytes, staging: Staging, changes: tuple[Change, ...]) -> None:
        self.plugin = plugin
        self.changes = changes
        self._staging = staging

    def files(self) -> list[bytes]:
        """Return the paths of all regular files that snapshots would have, in manifest order."""
        return self._staging.paths()

    def read(self, path: bytes) -> bytes:
        """Return a file's content. FileNotFoundError, IsADirectoryError; GuardRefused for what is no regular file."""
        return self._staging.read(path)


Validator = Callable[[StagedPlugin], Sequence[str]]
"""Looks at the staged result and returns what is wrong with it; anything rejects the edit."""


class EditPermit:
    """The right to change one plugin, proved restorable as it is. Only `protect` makes one.

    Paths are relative to the plugin. Nothing is written before the block ends: then everything is, or nothing.
    GuardRefused for paths that lead out of the plugin or through a link, or that no snapshot has. In a fork's
    child, and after the block, every method raises GuardRefused.
    """

    def __init__(self, plugin: bytes, snapshot: str, tree_sha256: str, staging: Staging, seal: object) -> None:
        if seal is not SEAL:
            raise TypeError("only drkit.guard.protect makes a permit")
        self.plugin = plugin
        self.snapshot = snapshot
        self.tree_sha256 = tree_sha256
        self.changes: tuple[Change, ...] = ()
        """What was changed; empty until the block has ended well."""
        self._staging = staging
        self._pid = os.getpid()
        self._open = True

    def read(self, path: bytes) -> bytes:
        """Return a file's content as it will be. FileNotFoundError, IsADirectoryError."""
        with self._checked() as staging:
            return staging.read(path)

    def write(self, path: bytes, data: bytes, *, mode: int | None = None) -> None:
        """Give a file this content; parents are made. By default an existing file keeps its mode, a new one has 644.

        IsADirectoryError, NotADirectoryError.
        """
        with self._checked() as staging:
            staging.write(path, bytes(data), mode)

    def move(self, old: bytes, new: bytes) -> None:
        """Give a file, or a directory with all that it holds, another path; times, owners and attributes stay.

        FileNotFoundError; FileExistsError if something is at `new`.
        """
        with self._checked() as staging:
            staging.move(old, new)

    def delete(self, path: bytes) -> None:
        """Remove a file, or a directory with all that it holds. FileNotFoundError."""
        with self._checked() as staging:
            staging.delete(path)

    @property
    def here(self) -> bool:
        """Whether this is the process that got the permit, not a child that it forked."""
        return self._pid == os.getpid()

    def close(self) -> None:
        """End the permit: from here on nothing more is staged."""
        self._open = False

    @contextmanager
    def _checked(self) -> Iterator[Staging]:
        if not self._open:
            raise GuardRefused("the edit permit has ended", hint="ask for a new one with protect()")
        if not self.here:
            raise GuardRefused("an edit permit does not pass to a child process", hint="ask for one with protect()")
        yield self._staging


def told(plugin: bytes, changes: Changes) -> tuple[Change, ...]:
    """Return an edit's changes as its holder is told: relative to the source, no directories, nothing excluded."""
    found = []
    for change in changes.paths:
        old = change.old if change.old is not None and change.old.type != "d" else None
        new = change.new if change.new is not None and change.new.type != "d" else None
        if change.opaque or old == new:
            continue
        kind: Literal["added", "removed", "modified"] = (
            "added" if old is None else "removed" if new is None else "modified"
        )
        path = plugin + b"/" + change.path if plugin else change.path
        found.append(Change(path, old.sha256 if old else "", new.sha256 if new else "", kind))
    return tuple(sorted(found, key=lambda one: sort_key(one.path)))
