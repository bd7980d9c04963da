"""What must hold of a source before anything is read or written."""

from __future__ import annotations

import os

from drkit.errors import RepositoryNotFound, UsageError
from drkit.model import show_path
from drkit.repo import Repository
from drkit.source.globs import Globs
from drkit.source.walk import Nested


def check_source(repo: Repository, source: bytes, excludes: Globs) -> tuple[int, int] | None:
    """Refuse a source that cannot be what was meant; return the repository's (device, inode) if it has one."""
    shown = show_path(source)
    try:
        with os.scandir(source) as entries:
            empty = next(entries, None) is None
    except FileNotFoundError:
        raise UsageError(
            f"the source {shown} does not exist", hint="check the path, and whether its disk is mounted"
        ) from None
    except NotADirectoryError:
        raise UsageError(f"the source {shown} is not a directory", hint="name the directory that holds it") from None
    except OSError as error:
        raise unreadable(source, error) from error
    location = repo.location()
    if location is not None and (location == source or source.startswith(location.rstrip(b"/") + b"/")):
        raise UsageError(
            f"the source {shown} lies inside the repository", hint="name the tree to protect, not its backup"
        )
    if empty:
        raise UsageError(f"the source {shown} is empty", hint="check the path, and whether its disk is mounted")
    if location is None:
        return None
    if location.startswith(source.rstrip(b"/") + b"/"):
        inside = location[len(source.rstrip(b"/")) + 1 :]
        if not excludes.match(inside):
            raise Nested(inside)
    try:
        status = os.stat(location)
    except FileNotFoundError:
        raise RepositoryNotFound(
            f"the repository is not in {show_path(location)} any more",
            hint="bring it back to where it was, then run the command again",
        ) from None
    return status.st_dev, status.st_ino


def unreadable(source: bytes, error: OSError) -> UsageError:
    """Return the error for a source of which nothing can be read."""
    return UsageError(
        f"cannot read the source {show_path(source)}: {error.strerror}",
        hint="check its permissions, and whether its disk is mounted",
    )
