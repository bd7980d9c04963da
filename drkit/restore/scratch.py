"""Where things are restored to only to see that they can be: a directory that goes away again, whatever it holds."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from drkit.restore.dirs import OPEN_DIR, lstat, remove

_PREFIX = b"drkit-scratch-"
_YOUNG_S = 60.0
"""A directory is locked a moment after it was made: so long it is taken to be in use."""


@contextmanager
def scratch(parent: bytes | None) -> Iterator[bytes]:
    """Make an empty directory that only its owner may enter, below `parent` or where the system keeps such things.

    What processes have left there that were killed is removed first: nobody has it locked.
    """
    above = os.open(parent or tempfile.gettempdirb(), OPEN_DIR & ~os.O_NOFOLLOW)
    try:
        with suppress(OSError):
            for name in map(os.fsencode, os.listdir(above)):
                if name.startswith(_PREFIX):
                    _remove_left(above, name)
        path = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        own = os.open(path, OPEN_DIR)
        try:
            with suppress(OSError):  # a file system without locks: nobody else gets one either
                fcntl.flock(own, fcntl.LOCK_EX)
            yield path
        finally:
            with suppress(OSError):  # then the next one removes it
                remove(above, os.path.basename(path))
            os.close(own)
    finally:
        os.close(above)


def _remove_left(above: int, name: bytes) -> None:
    """Remove a directory like ours if it is ours and its process is gone."""
    with suppress(OSError):
        found = lstat(above, name)
        if found is None or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o700:
            return
        if time.time() - found.st_mtime < _YOUNG_S:
            return
        fd = os.open(name, OPEN_DIR, dir_fd=above)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(above, name)
        finally:
            os.close(fd)
