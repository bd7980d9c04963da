"""Reading what a walk meets: directories and small files come out ready to be recorded, in columns.

What takes a closer look, because it is large, or something else than a file, or may be a database, or did not hold
still, comes out as the walk saw it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256

from msgspec import Struct, field

from drkit.source.read import read_into, read_xattrs
from drkit.source.stats import Status
from drkit.source.walk import BESIDE, MAGIC, Position, Seen

BATCH = 256
"""Paths of a batch, at most."""
SLOT = 1 << 20
"""Bytes of memory for the content of a batch's files. A file that does not fit into it takes a closer look."""
ROW = struct.Struct("<qqqQIIIi32s")
"""size, mtime_ns, ctime_ns, inode, mode, owner, group; of a file the place of its content in the memory, and its
SHA-256; of a directory -1."""


class Closer(Seen, array_like=True, gc=False):
    """A path that takes a closer look, or where a plugin begins or ends, in a form that can be sent."""

    stat: Status
    ready: bool = False
    """Whether the path has a row, too."""


class Batch(Struct, array_like=True):
    """Some paths that follow each other in the walk.

    Those that are ready have rows. Each event comes before the row of its number, or behind the last.
    """

    paths: list[bytes] = field(default_factory=list)
    rows: bytearray = field(default_factory=bytearray)
    xattrs: dict[int, dict[str, str]] = field(default_factory=dict)
    """Extended attributes of the rows that have any."""
    events: list[tuple[int, Closer]] = field(default_factory=list)
    after: Position | None = None
    """How far the walk has come with this."""

    def __len__(self) -> int:
        return len(self.paths) + len(self.events)


class Preparer:
    """Reads directories, and files of fewer than `limit` bytes that are none of those `in_use` (device and inode).

    `slot` gives memory of SLOT bytes for the content of one batch.
    """

    def __init__(
        self, root: bytes, *, limit: int, in_use: frozenset[tuple[int, int]], slot: Callable[[], memoryview]
    ) -> None:
        self._prefix = root.rstrip(b"/") + b"/"
        self._limit = min(limit, SLOT)
        self._in_use = in_use
        self._slot = slot
        self._memory: memoryview | None = None
        self._used = 0
        self._left_out: list[str] = []

    def batches(self, walk: Iterable[Seen], after: Position | None = None) -> Iterator[tuple[Batch, memoryview]]:
        """Yield all that a walk sees, each batch with its memory, which holds until the next one is asked for.

        The last batch may be empty. `after` is where the walk begins.
        """
        batch = Batch()
        plugins = list(after.plugins) if after else []
        last: Seen | None = None
        for seen in walk:
            size = seen.stat.st_size
            if len(batch) >= BATCH or (self._used + size >= SLOT and seen.kind == "f" and size < self._limit):
                yield self._finish(batch, last, plugins)
                batch = Batch()
            ready = not seen.closes and self._prepare(seen, batch)
            if not ready or seen.plugin:
                batch.events.append((len(batch.paths) - ready, _closer(seen, ready=ready)))
                if seen.closes:
                    plugins.remove(seen.path)
                elif seen.plugin:
                    plugins.append(seen.path)
            last = seen
        yield self._finish(batch, last, plugins)

    def _finish(self, batch: Batch, last: Seen | None, plugins: list[bytes]) -> tuple[Batch, memoryview]:
        if last is not None:
            batch.after = Position(last.path, last.kind == "d" and not last.closes, frozenset(plugins))
        memory, self._memory, self._used = self._memory, None, 0
        return batch, memory if memory is not None else memoryview(b"")

    def _prepare(self, seen: Seen, batch: Batch) -> bool:
        """Make a path's row, if it does not take a closer look."""
        path, kind, status = seen.path, seen.kind, seen.stat
        digest = b""
        size = place = -1
        if kind == "d":
            xattrs = read_xattrs(self._prefix + path, self._left_out)
        elif kind == "f" and status.st_nlink == 1 and not seen.database and not path.endswith(BESIDE):
            size = status.st_size
            if size >= self._limit or (self._in_use and (status.st_dev, status.st_ino) in self._in_use):
                return False
            if self._memory is None:
                self._memory = self._slot()
            place = self._used
            content = self._memory[place : place + size + 1]  # a byte more, to see that it has not grown
            try:
                still, xattrs = read_into(content, self._prefix + path, status, self._left_out)
            except OSError:
                return False
            if not still or (size >= len(MAGIC) and content[: len(MAGIC)] == MAGIC):
                self._left_out.clear()
                return False
            digest = sha256(content[:size]).digest()
        else:
            return False
        if self._left_out:  # and what to say of these
            self._left_out.clear()
            return False
        try:
            batch.rows += ROW.pack(
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
                status.st_ino,
                status.st_mode,
                status.st_uid,
                status.st_gid,
                place,
                digest,
            )
        except struct.error:  # a time that has no place in 64 bits
            return False
        if xattrs:
            batch.xattrs[len(batch.paths)] = xattrs
        batch.paths.append(path)
        if kind == "f":
            self._used += size
        return True


def _closer(seen: Seen, *, ready: bool) -> Closer:
    status = seen.stat
    return Closer(
        seen.path,
        Status(
            status.st_mode,
            status.st_ino,
            status.st_dev,
            status.st_nlink,
            status.st_uid,
            status.st_gid,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_rdev,
        ),
        seen.kind,
        seen.plugin,
        seen.closes,
        seen.whole,
        seen.database,
        ready,
    )
