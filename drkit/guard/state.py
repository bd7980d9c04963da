"""The directory that all users of a machine share for what the guard must not keep in a source: locks and journals.

Anybody may put files into it. So nothing there is trusted for its name: no link is followed, and only a regular file
with one name, for journals also of this user and closed to all others, is taken for one of ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat

from drkit.config import state_dir
from drkit.errors import StoreError
from drkit.model import show_path

_MODE = 0o1777


def open_state_dir(path: bytes | None = None) -> int:
    """Open the shared directory and return its descriptor; it is made if it is not there.

    StoreError if it is a link or no directory, or if others may remove what is ours from it.
    """
    path = path or state_dir()
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            os.chmod(path, _MODE)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _unfit(path, error.strerror or str(error)) from error
    mode = os.fstat(fd).st_mode
    if mode & 0o022 and not mode & stat.S_ISVTX:
        os.close(fd)
        raise _unfit(path, "everybody may remove what others put there")
    return fd


def _unfit(path: bytes, why: str) -> StoreError:
    return StoreError(
        f"the guard cannot keep its locks and journals in {show_path(path)}: {why}",
        hint=f"have 'mkdir -m 1777 {show_path(path)}' done, or set DRKIT_STATE_DIR to a directory that all users share",
    )


def key(kind: str, path: bytes) -> bytes:
    """Return the part of a file's name that stands for a real path."""
    return hashlib.sha256(f"drkit guard {kind}\0".encode() + path).hexdigest()[:40].encode()
