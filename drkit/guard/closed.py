"""What nobody can store: directories and files that their own user may not read."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

from drkit.guard.site import Site
from drkit.source.globs import Globs
from drkit.source.walk import STAGE


def closed(site: Site, ignored: Callable[[bytes], bool], *, opening: bool = False) -> list[bytes]:
    """Return the directories and files of a source that this process may not read; what is `ignored` is left out.

    With `opening` their owner gets the right to: then what lies in them is looked at, too.
    """
    excludes = Globs(site.options.excludes)
    found: list[bytes] = []
    waiting = [b""]
    while waiting:
        above = waiting.pop()
        for name, mode in _entries(os.path.join(site.source, above)):
            path = os.path.join(above, name)
            if excludes.match(path) or ignored(path) or STAGE.fullmatch(name):
                continue
            full = os.path.join(site.source, path)
            wanted = stat.S_IRUSR | stat.S_IXUSR if stat.S_ISDIR(mode) else stat.S_IRUSR
            readable = os.access(full, os.R_OK | os.X_OK if stat.S_ISDIR(mode) else os.R_OK, effective_ids=True)
            if not readable:
                found.append(path)
                if opening:
                    with contextlib.suppress(OSError):  # somebody else's: it stays as it is
                        os.chmod(full, stat.S_IMODE(mode) | wanted)
                        readable = True
            if readable and stat.S_ISDIR(mode):
                waiting.append(path)
    return found


def _entries(directory: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the names and modes of the directories and files in a directory; none if it cannot be listed."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    mode = entry.stat(follow_symlinks=False).st_mode
                    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                        yield entry.name, mode
    except OSError:
        return
