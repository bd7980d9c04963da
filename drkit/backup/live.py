"""SQLite databases in a source: at rest they are files like any other, live ones are read through SQLite itself.

A database is live when a `-wal` or `-journal` with content lies beside it, or when it changed, or its writer had it
locked, while it was read. What its file alone holds is then not what its owner would find. One that nobody has open
is copied aside with all that lies beside it, and the copy is opened: SQLite would write to the original, or leave
files next to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from msgspec import Struct

from drkit.errors import DrkitError
from drkit.format.limits import MIB
from drkit.source.read import open_file, same_file
from drkit.source.stats import AnyStatus
from drkit.source.walk import MAGIC, Seen

if TYPE_CHECKING:
    import sqlite3

HEADER = 100
"""Length of a database's header; without a write-ahead log every transaction changes it."""
_WITH_CONTENT = (b"-wal", b"-journal")
_BESIDE = (*_WITH_CONTENT, b"-shm")
_WAL_VERSION = 2
_ATTEMPTS = 3
_WAIT_S = 0.01
_WAITS = 500
"""How long SQLite may wait for a lock, and how often: in longer waits it looks too rarely for a busy writer's gaps."""
_SHARED = 0x40000002, 510
"""Where in a database's file a reader has its lock, and who writes to the file locks all others out."""


class InUse(Struct, frozen=True):
    """A database that this very process has open.

    To open its file in any other way would drop the locks that other processes trust. `dump` writes all of it, as
    one database, to a path where nothing is yet.
    """

    path: bytes
    dump: Callable[[bytes], None]


class NotCopied(Exception):
    """SQLite did not give the database; says why."""


class Databases:
    """What a backup knows of the databases it meets. In `scratch` their copies lie for as long as they are read."""

    def __init__(self, source: bytes, in_use: Sequence[InUse] = (), scratch: bytes | None = None) -> None:
        self._prefix = source.rstrip(b"/") + b"/"
        self._scratch = scratch
        self._in_use = tuple(in_use)
        self._open_here: dict[tuple[int, int], InUse] = {}
        for database in self._in_use:
            with contextlib.suppress(FileNotFoundError):  # then the walk does not meet it either
                status = os.stat(database.path)
                self._open_here[status.st_dev, status.st_ino] = database
        self._whole: set[bytes] = set()
        self._at_rest: set[bytes] = set()

    @property
    def open_here(self) -> frozenset[tuple[int, int]]:
        """(device, inode) of the databases that this process has open."""
        return frozenset(self._open_here)

    def is_open_here(self, status: AnyStatus) -> bool:
        """Whether this process has the database open: then its file must not be touched."""
        return bool(self._open_here) and (status.st_dev, status.st_ino) in self._open_here

    def is_live(self, full: bytes) -> bool:
        """Whether it is a database with something beside it that its file lacks."""
        return _has_content_beside(full) and _header(full).startswith(MAGIC)

    def rests(self, path: bytes, header: bytes) -> bool:
        """Whether a database that held still while it was read, and began with `header`, is at rest even now."""
        full = self._prefix + path
        if _has_content_beside(full) or _header(full) != header or _is_locked(full, fcntl.F_RDLCK):
            return False
        self._at_rest.add(path)
        return True

    def unchanged(self, seen: Seen) -> bool:
        """Whether a path may be trusted to be what it was if its stat is, although there is a database about."""
        if seen.path == seen.database:
            if _has_content_beside(self._prefix + seen.path):
                return False
            self._at_rest.add(seen.path)
        return True

    def leaves_out(self, seen: Seen) -> bool:
        """Whether a path lies beside a database that was stored without it.

        That is: beside one that was stored whole, or it has got content only since its database was read at rest.
        """
        if seen.path == seen.database:
            return False
        if seen.database in self._whole or self._is_beside_open_here(seen.stat):
            return True
        try:
            return seen.database in self._at_rest and self.is_live(self._prefix + seen.database)
        except OSError:
            return False  # its database is gone: then it is a file like any other

    @contextlib.contextmanager
    def copied(self, path: bytes, status: AnyStatus) -> Iterator[bytes]:
        """Return where all of a live database lies, as one file, for as long as the block runs.

        NotCopied if that cannot be had.
        """
        import tempfile

        # Named like a stage, so that no walk ever takes it for a part of a source.
        directory = os.path.join(self._scratch or tempfile.gettempdirb(), f".drkit-{os.urandom(8).hex()}".encode())
        try:
            os.mkdir(directory, 0o700)
            copy = os.path.join(directory, b"copy")
            open_here = self._open_here.get((status.st_dev, status.st_ino))
            if open_here is not None:
                self._whole.add(path)  # even if it fails: what lies beside it is not to be touched
                open_here.dump(copy)
            else:
                _dump(self._prefix + path, copy, os.path.join(directory, b"aside"))
                self._whole.add(path)
        except (OSError, DrkitError) as error:
            shutil.rmtree(directory, ignore_errors=True)
            raise NotCopied(str(error)) from error
        except NotCopied:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        try:
            yield copy
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _is_beside_open_here(self, status: AnyStatus) -> bool:
        for database in self._in_use:
            for suffix in _BESIDE:
                with contextlib.suppress(FileNotFoundError):
                    if same_file(os.stat(os.path.realpath(database.path) + suffix), status):
                        return True
        return False


def _has_content_beside(full: bytes) -> bool:
    for suffix in _WITH_CONTENT:
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(full + suffix)
            if stat.S_ISREG(status.st_mode) and status.st_size > 0:
                return True
    return False


def _header(full: bytes) -> bytes:
    fd, _ = open_file(full)
    try:
        return os.read(fd, HEADER)
    finally:
        os.close(fd)


def _dump(full: bytes, copy: bytes, aside: bytes) -> None:
    """Write a database that others may be writing to, as one of its transactions left it, to `copy`."""
    import sqlite3

    why, locked = "", False
    for _ in range(_ATTEMPTS):
        # One that nobody has open is as its owner left it; so is a locked one with all that undoes what is half done.
        apart = _has_content_beside(full) if locked else not is_open(full)
        still = apart and _copy_aside(full, aside)
        # With a write-ahead log, the last to leave must be able to clear it away: it may be we.
        writable = still or _header(full)[18:19] == bytes([_WAL_VERSION])
        try:
            _read_through(aside if still else full, copy, writable=writable)
            return
        except sqlite3.Error as error:
            why = str(error)
            locked = locked or _is_busy(error)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)
    raise NotCopied(why)


def _read_through(full: bytes, copy: bytes, *, writable: bool) -> None:
    """Copy a database with SQLite's backup interface, in one transaction."""
    import sqlite3
    from urllib.parse import quote

    uri = f"file://{quote(full)}?mode={'rw' if writable else 'ro'}"
    with (
        contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_S, isolation_level=None)) as database,
        contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as target,
    ):
        database.execute("PRAGMA query_only=1")
        # Begun here, where the wait is bounded: the backup itself would wait for a busy database for ever.
        database.execute("BEGIN")
        for left in reversed(range(_WAITS)):
            try:
                database.execute("PRAGMA schema_version").fetchone()
                break
            except sqlite3.Error as error:
                if not left or not _is_busy(error):
                    raise
        target.execute("PRAGMA synchronous=OFF")
        database.backup(target)
        database.execute("COMMIT")


def _is_busy(error: sqlite3.Error) -> bool:
    import sqlite3

    return bool(getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY)


def _copy_aside(full: bytes, aside: bytes) -> bool:
    """Copy a database and what lies beside it; whether there was a moment when it was all like this.

    There was if a second reading finds the same. Stats would not tell: they stand still for milliseconds.
    """
    for suffix in (b"", *_WITH_CONTENT):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside + suffix)
        with _opened(full + suffix) as file:
            if file is not None:
                with open(aside + suffix, "xb") as target:
                    shutil.copyfileobj(file, target, MIB)
    return all(_equal(full + suffix, aside + suffix) for suffix in (b"", *_WITH_CONTENT))


def _equal(one: bytes, other: bytes) -> bool:
    with _opened(one) as first, _opened(other) as second:
        if first is None or second is None:
            return first is second
        while piece := first.read(MIB):
            if piece != second.read(MIB):
                return False
        return not second.read(1)


@contextlib.contextmanager
def _opened(full: bytes) -> Iterator[BinaryIO | None]:
    try:
        fd, _ = open_file(full)
    except FileNotFoundError:
        yield None
        return
    with open(fd, "rb") as file:
        yield file


def is_open(full: bytes) -> bool:
    """Whether another process reads or writes; with a write-ahead log, all that are connected count as readers."""
    return _is_locked(full, fcntl.F_WRLCK)


def _is_locked(full: bytes, kind: int) -> bool:
    """Whether another process has a lock that keeps others from reading (F_RDLCK), or from writing (F_WRLCK)."""
    start, length = _SHARED
    linux = sys.platform == "linux"
    layout = struct.Struct("hhqqi4x" if linux else "qqihh4x")
    asked = (kind, os.SEEK_SET, start, length, 0) if linux else (start, length, 0, kind, os.SEEK_SET)
    fd, _ = open_file(full)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, layout.pack(*asked))
    finally:
        os.close(fd)
    return bool(layout.unpack(answer)[0 if linux else 3] != fcntl.F_UNLCK)
