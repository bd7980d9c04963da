"""A libSQL database as a store: a Turso database, or a file. Its tables are described in docs/copies.md.

Objects are cut into rows of at most 1 MiB, which go in requests of at most 2 MiB, one at a time: a server has little
memory for answers, and all its clients share it. There are no transactions over several requests, so the row of
`objects` comes last and makes the object visible; everything that reads begins there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from msgspec import Struct

from drkit.errors import EndsBefore, ObjectExists, ObjectNotFound, StoreCorrupt, StoreError, UsageError
from drkit.hrana import Rows, Statement, TooLarge
from drkit.store.base import ObjectInfo
from drkit.store.checks import check_name, check_prefix, check_range
from drkit.store.database import Database, Unprepared, open_database

_MIB = 1 << 20
_LARGEST = 2**31 - 1
"""What an object may have: greater integers are not bound without loss everywhere."""
_SMALLEST_REQUEST = 4096
_PAGE = 4_000
_RESTARTS = 5
LEFTOVER_S = 86_400
"""For how long rows that belong to no object may be those of a writer at work."""

_NOW = "(julianday('now') - 2440587.5) * 86400.0"
_TABLES = (
    """CREATE TABLE IF NOT EXISTS objects (name TEXT PRIMARY KEY, size INTEGER NOT NULL, chunks INTEGER NOT NULL,
        chunk_size INTEGER NOT NULL, sha256 TEXT NOT NULL, modified REAL NOT NULL, writer TEXT NOT NULL)
        WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS chunks (name TEXT NOT NULL, sha256 TEXT NOT NULL, n INTEGER NOT NULL,
        data BLOB NOT NULL, at REAL NOT NULL, UNIQUE (name, sha256, n))""",
)
# Each value is cast: a database takes text for numbers, and one that is damaged has them.
_COLUMNS = "max(CAST(size AS INTEGER), 0), CAST(chunk_size AS INTEGER), CAST(sha256 AS TEXT), CAST(modified AS REAL)"
_INFO = f"SELECT {_COLUMNS} FROM objects WHERE name = ?"  # noqa: S608
_RANGE = """SELECT substr(CAST(c.data AS BLOB), max(?2 - c.n * o.chunk_size, 0) + 1,
        min(?3, (c.n + 1) * o.chunk_size) - max(?2, c.n * o.chunk_size))
    FROM objects AS o JOIN chunks AS c ON c.name = o.name AND c.sha256 = o.sha256
    WHERE o.name = ?1 AND c.n >= ?2 / o.chunk_size AND c.n <= (?3 - 1) / o.chunk_size ORDER BY c.n"""
_LIST = """SELECT name, max(CAST(size AS INTEGER), 0), CAST(modified AS REAL) FROM objects
    WHERE name > ? AND name >= ? AND name < ? ORDER BY name LIMIT ?"""
_UPSERT = "ON CONFLICT (name, sha256, n) DO UPDATE SET data = excluded.data, at = excluded.at"
_IF_NEW = "AND NOT EXISTS (SELECT 1 FROM objects WHERE name = ?1)"
_CLEAR = "DELETE FROM chunks WHERE name = ?1 AND sha256 = ?2"
_REPLACE_CHUNK = f"INSERT INTO chunks SELECT ?1, ?2, ?3, ?4, {_NOW} WHERE true {_UPSERT}"
_ADD_CHUNK = f"INSERT INTO chunks SELECT ?1, ?2, ?3, ?4, {_NOW} WHERE true {_IF_NEW} {_UPSERT}"
_PUBLISH = f"""INSERT INTO objects SELECT ?1, ?2, ?3, ?4, ?5, {_NOW}, ?6
    WHERE (SELECT count(*) FROM chunks WHERE name = ?1 AND sha256 = ?5) = ?3
    AND (SELECT coalesce(sum(length(data)), 0) FROM chunks WHERE name = ?1 AND sha256 = ?5) = ?2
    ON CONFLICT (name) DO """  # noqa: S608
_OVER = """UPDATE SET size = excluded.size, chunks = excluded.chunks, chunk_size = excluded.chunk_size,
    sha256 = excluded.sha256, modified = excluded.modified, writer = excluded.writer"""
_UNUSED = """FROM chunks WHERE name = ? AND sha256 <> coalesce((SELECT sha256 FROM objects WHERE name = ?), '')"""
_LEFT = f"""SELECT DISTINCT name, sha256 FROM chunks AS c
    WHERE NOT EXISTS (SELECT 1 FROM objects AS o WHERE o.name = c.name AND o.sha256 = c.sha256)
    AND NOT EXISTS (SELECT 1 FROM chunks AS y WHERE y.name = c.name AND y.sha256 = c.sha256
        AND y.at > {_NOW} - ?)"""  # noqa: S608


class Limits(Struct, frozen=True):
    """How large a row and what a request carries may be, in bytes; how many requests may be under way."""

    row: int = _MIB
    request: int = 2 * _MIB
    in_flight: int = 1


class _Object(Struct, frozen=True):
    size: int
    chunk_size: int
    sha256: str
    modified: float


class _Put(Struct, frozen=True):
    """An object to be written. `writer` tells this put from others, also where its answer was lost."""

    name: str
    view: memoryview
    sha256: str
    writer: str
    overwrite: bool


class LibsqlStore:
    """The tables `objects` and `chunks` of a database as a store.

    `get` compares what it returns with the SHA-256 that was stored with the object: StoreCorrupt if it is not that.
    `get_range` gives what the rows have.
    """

    def __init__(self, database: Database, limits: Limits | None = None) -> None:
        self._database = database
        self._limits = limits or Limits()
        if min(self._limits.row, self._limits.request, self._limits.in_flight) < 1:
            raise UsageError("the limits of a store in a database are at least 1")
        self._request = self._limits.request
        """Halved whenever the server says that something was too large."""

    @property
    def url(self) -> str:
        """`turso://HOST` or `libsql-file:/path`; never with a token."""
        return self._database.url

    @property
    def directory(self) -> None:
        """No directory."""
        return

    def prepare(self) -> None:
        """Make the tables, and a file if it is one."""
        self._database.make()
        self._database.transaction([(sql, ()) for sql in _TABLES])

    def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
        """Store `data`; what a killed writer left of the same bytes is used. StoreError before `prepare`."""
        check_name(name)
        view = memoryview(data).cast("B")
        if len(view) > _LARGEST:
            raise UsageError(f"{name} has {len(view)} bytes: an object in {self.url} has at most {_LARGEST}")
        job = _Put(name, view, hashlib.sha256(view).hexdigest(), os.urandom(8).hex(), overwrite)
        self._shrinking(lambda: self._put(job))

    def get(self, name: str) -> bytes:
        """Return the whole object."""
        for _ in range(_RESTARTS):
            found, data = self._read(name, 0, _LARGEST)
            if data is None:
                continue  # it was replaced while it was read
            if hashlib.sha256(data).hexdigest() != found.sha256:
                raise StoreCorrupt(f"{name} in {self.url} is not what was stored there")
            return data
        raise StoreError(f"{name} in {self.url} is replaced faster than it can be read")

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return the bytes of [offset, offset+length). StoreCorrupt if the object ends before that."""
        check_range(offset, length)
        for _ in range(_RESTARTS):
            found, data = self._read(name, min(offset, _LARGEST), min(offset + length, _LARGEST))
            if data is not None and offset + length > found.size:
                message = f"{name} in {self.url} has {found.size} bytes, not {length} at offset {offset}"
                raise EndsBefore(message, data=data)
            if data is not None:
                return data
        raise StoreError(f"{name} in {self.url} is replaced faster than it can be read")

    def stat(self, name: str) -> ObjectInfo:
        """Return size and stamp, by the server's clock."""
        check_name(name)
        with self._missing(name):
            rows = self._database.transaction([(_INFO, (name,))], reading=True).rows
        found = self._found(name, rows[0])
        return ObjectInfo(name, found.size, found.modified)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects in order of names, some thousands for each request."""
        check_prefix(prefix)
        return self._pages(prefix, after)

    def delete(self, name: str) -> None:
        """Remove the object and its rows."""
        check_name(name)
        own = "DELETE FROM chunks WHERE name = ?1 AND sha256 = (SELECT sha256 FROM objects WHERE name = ?1)"
        statements: list[Statement] = [(own, (name,)), ("DELETE FROM objects WHERE name = ? RETURNING 1", (name,))]
        with self._missing(name):
            answer = self._database.transaction(statements)
        if not (answer.rows[1] or answer.repeated):  # the first answer may have been lost
            raise self._absent(name)

    def clean_leftovers(self) -> int:
        """Remove rows that belong to no object and are a day old; return of how many puts they were."""
        try:
            left = self._database.transaction([(_LEFT, (LEFTOVER_S,))], reading=True).rows[0]
        except Unprepared:
            return 0
        for key in left:
            self._database.transaction([(_CLEAR, key)])
        return len(left)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    # Writing

    def _put(self, job: _Put) -> None:
        chunk_size = min(self._limits.row, self._request)
        have: set[int] = set()
        if len(job.view) > self._request:
            chunk_size, have = self._begun(job, chunk_size)
        count = -(-len(job.view) // chunk_size)
        batch: list[Statement] = []
        if len(job.view) <= self._request:  # what was left of it may be in rows of another size
            batch.append((_CLEAR if job.overwrite else f"{_CLEAR} {_IF_NEW}", (job.name, job.sha256)))
        size = 0
        for n in range(count):
            if n in have:
                continue
            piece = bytes(job.view[n * chunk_size : (n + 1) * chunk_size])
            if size and size + len(piece) > self._request:
                self._database.transaction(batch)
                batch, size = [], 0
            sql = _REPLACE_CHUNK if job.overwrite else _ADD_CHUNK
            batch.append((sql, (job.name, job.sha256, n, piece)))
            size += len(piece)
        self._publish(job, batch, count, chunk_size)

    def _begun(self, job: _Put, chunk_size: int) -> tuple[int, set[int]]:
        """Look what there is of a large object: return the size of its rows, and those that need not be sent."""
        rows = "SELECT n, length(data) FROM chunks WHERE name = ? AND sha256 = ?"
        statements: list[Statement] = [(_INFO, (job.name,)), (rows, (job.name, job.sha256))]
        visible, chunks = self._database.transaction(statements, reading=True).rows
        if visible and not job.overwrite:
            raise self._exists(job.name)
        if visible and visible[0][1:3] == (chunk_size, job.sha256):
            return chunk_size, set()  # the same bytes: each row that is damaged heals in its place
        size = len(job.view)
        if all(length == min(chunk_size, size - n * chunk_size) for n, length in chunks):
            return chunk_size, {n for n, _ in chunks}
        self._database.transaction([(_CLEAR, (job.name, job.sha256))])
        return chunk_size, set()

    def _publish(self, job: _Put, batch: Sequence[Statement], count: int, chunk_size: int) -> None:
        """Send the last rows together with the row that makes the object visible."""
        name = job.name
        publish = _PUBLISH + (_OVER if job.overwrite else "NOTHING")
        values = (name, len(job.view), count, chunk_size, job.sha256, job.writer)
        statements = [*batch, (publish, values), ("SELECT writer FROM objects WHERE name = ?", (name,))]
        if job.overwrite:
            statements.insert(-1, (f"DELETE {_UNUSED}", (name, name)))  # of the object that was there before
        writer = self._database.transaction(statements).rows[-1]
        if writer and writer[0][0] == job.writer:
            return
        self._database.transaction([(f"DELETE {_UNUSED} AND sha256 = ?", (name, name, job.sha256))])
        if writer and not job.overwrite:
            raise self._exists(name)
        raise StoreError(f"rows of {name} were taken out of {self.url} while it was written")

    # Reading

    def _read(self, name: str, begin: int, end: int) -> tuple[_Object, bytes | None]:
        """Return an object and its bytes of [begin, end), as far as it has them; None if it changed meanwhile."""
        check_name(name)
        found: _Object | None = None
        pieces: list[bytes] = []
        at = begin
        while found is None or at < min(end, found.size):
            until, request = min(end, at + self._request), self._request
            try:
                with self._missing(name):
                    answer = self._database.transaction([(_INFO, (name,)), (_RANGE, (name, at, until))], reading=True)
            except TooLarge as error:
                self._shrink(request, error)
                continue
            before, found = found, self._found(name, answer.rows[0])
            if before is not None and (before.sha256, before.chunk_size) != (found.sha256, found.chunk_size):
                return found, None
            data = b"".join(row[0] or b"" for row in answer.rows[1])  # substr of nothing is NULL
            if len(data) != max(min(until, found.size) - at, 0):
                raise StoreCorrupt(f"rows of {name} in {self.url} are missing or too short")
            pieces.append(data)
            at += len(data)
        return found, b"".join(pieces)

    def _pages(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        while True:
            # Names are of printable ASCII: what begins with the prefix is less than the prefix and DEL.
            values = (after, prefix, prefix + "\x7f", _PAGE)
            rows = self._database.transaction([(_LIST, values)], reading=True).rows[0]
            for name, size, modified in rows:
                yield ObjectInfo(name, size, modified)
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    # What both need

    def _shrinking(self, work: Callable[[], None]) -> None:
        while True:
            request = self._request
            try:
                return work()
            except TooLarge as error:
                self._shrink(request, error)

    def _shrink(self, request: int, error: TooLarge) -> None:
        """Halve what goes into a request, unless another thread has done so since `request` was read."""
        if request <= _SMALLEST_REQUEST:
            raise error
        self._request = min(self._request, max(request // 2, _SMALLEST_REQUEST))

    @contextmanager
    def _missing(self, name: str) -> Iterator[None]:
        try:
            yield
        except Unprepared as error:
            raise self._absent(name) from error

    def _found(self, name: str, rows: Rows) -> _Object:
        if not rows:
            raise self._absent(name)
        return _Object(*rows[0])

    def _absent(self, name: str) -> ObjectNotFound:
        return ObjectNotFound(f"there is no object {name} in {self.url}")

    def _exists(self, name: str) -> ObjectExists:
        return ObjectExists(f"{name} is already in {self.url}")


def open_libsql(url: str) -> LibsqlStore:
    """Return the store that a URL of `drkit.store.url.DATABASES` names. UsageError if it is none."""
    database, limits = open_database(url)
    return LibsqlStore(database, Limits(**limits))
