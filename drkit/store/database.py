"""Two ways to the tables of a store in a database: a libSQL file, and a libSQL server such as Turso's."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Generic, Protocol, TypeVar
from urllib.parse import parse_qsl, urlsplit

from drkit.errors import DrkitError, IntegrityError, LockedError, StoreCorrupt, StoreError, StoreUnavailable, UsageError
from drkit.hrana import Hrana, Rows, Statement
from drkit.libsql import File, Value
from drkit.store.url import FILE_SCHEME, file_of

T = TypeVar("T")
TIMEOUT_S = 30.0
ATTEMPTS = 4
_FIRST_PAUSE_S = 0.2


class Unprepared(StoreError):
    """The database has no store's tables, or is not there."""


class Answer:
    """The rows of each statement of a transaction. `repeated`: one before it may have been carried out, too."""

    __slots__ = ("repeated", "rows")

    def __init__(self, rows: list[Rows], *, repeated: bool = False) -> None:
        self.rows = rows
        self.repeated = repeated


class Database(Protocol):
    """Where transactions run: from several threads, each whole or not at all. Errors are StoreErrors."""

    @property
    def url(self) -> str:
        """How a user names the store in it."""
        ...

    def make(self) -> None:
        """Make what the first transaction needs."""
        ...

    def transaction(self, statements: Sequence[Statement], *, reading: bool = False) -> Answer:
        """Run the statements. Unprepared if the tables are not there."""
        ...

    def close(self) -> None:
        """Release what is held open; a transaction opens it again."""
        ...


class Turns(Generic[T]):
    """Things of which each is used by one thread at a time, first come, first served.

    A plain lock may go for ever to the one that let go of it last, a reader in a loop for instance.
    """

    def __init__(self, things: list[T]) -> None:
        self._idle = things
        self._lock = threading.Lock()
        self._waiting: deque[queue.SimpleQueue[T]] = deque()

    @contextmanager
    def turn(self) -> Iterator[T]:
        """Wait for one of the things, and have it for the block."""
        own: queue.SimpleQueue[T] = queue.SimpleQueue()
        with self._lock:
            if self._idle:
                own.put(self._idle.pop())
            else:
                self._waiting.append(own)
        thing = own.get()
        try:
            yield thing
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().put(thing)
                else:
                    self._idle.append(thing)


class Server:
    """A libSQL server. At most `in_flight` requests are under way; one without an answer is sent again."""

    def __init__(
        self, url: str, connect: Callable[[], Hrana], *, in_flight: int, sleep: Callable[[float], object]
    ) -> None:
        self.url = url
        self._sleep = sleep
        self._clients = [connect() for _ in range(in_flight)]
        self._turns = Turns([*self._clients])

    def make(self) -> None:
        """Nothing: who has the URL and the token has a database."""

    def transaction(self, statements: Sequence[Statement], *, reading: bool = False) -> Answer:
        """Run the statements; they must bear being run twice, because an answer may be lost."""
        try:
            with self._turns.turn() as client:
                for attempt in range(ATTEMPTS - 1):
                    try:
                        return Answer(client.transaction(statements, reading=reading), repeated=attempt > 0)
                    except StoreUnavailable:
                        self._sleep(_FIRST_PAUSE_S * 2**attempt)
                return Answer(client.transaction(statements, reading=reading), repeated=True)
        except StoreError as error:
            raise _unprepared(error, self.url) or error from error

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()


class FileDatabase:
    """A libSQL file, opened when it is first needed, and not made by looking."""

    def __init__(self, path: bytes, *, sleep: Callable[[float], None]) -> None:
        self._path = path
        self._sleep = sleep
        self._turns = Turns([None])
        self._file: _File | _Still | None = None

    @property
    def url(self) -> str:
        """`libsql-file:` and the absolute path."""
        return f"{FILE_SCHEME}:{os.fsdecode(self._path)}"

    def make(self) -> None:
        """Make the file and the directory that it is to lie in."""
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the directory of {self.url}: {error.strerror}") from error
        with self._turns.turn(), _translated():
            self._open()

    def transaction(self, statements: Sequence[Statement], *, reading: bool = False) -> Answer:
        """Run the statements, and wait while other processes write."""
        with self._turns.turn():
            if self._file is None and not os.path.exists(self._path):
                raise Unprepared(f"there is no store in {self.url}", hint=_INIT)
            try:
                with _translated():
                    file = self._open()
                    with file.reading() if reading else file.transaction():
                        return Answer([file.execute(sql, values) for sql, values in statements])
            except StoreError as error:
                raise _unprepared(error, self.url) or error from error

    def close(self) -> None:
        """Close the file."""
        with self._turns.turn():
            file, self._file = self._file, None
            if file is not None:
                file.close()

    def _open(self) -> _File | _Still:
        if self._file is None:
            there = os.path.exists(self._path)
            still = there and not all(os.access(path, os.W_OK) for path in (self._path, os.path.dirname(self._path)))
            self._file = _Still(self._path) if still else _File(self._path, sleep=self._sleep)
        return self._file


_INIT = "check the URL, or make a repository there with 'drkit init' or 'drkit copy --to'"


class _File(File):
    what = "store"
    if_damaged = "move the file away, then make it anew from another copy with 'drkit copy --to'"
    if_closed = "check its directory and permissions"
    if_else = "check that its disk is sound and has room, then run the command again"
    if_unnamed = "name a file whose path is UTF-8"


class _Still:
    """A file on a medium that cannot be written, through the standard library: libSQL wants to write beside it."""

    def __init__(self, path: bytes) -> None:
        import sqlite3
        from urllib.parse import quote

        self._name = os.fsdecode(path)
        with suppress(OSError):
            if os.path.getsize(path + b"-wal"):
                raise StoreError(
                    f"the store {self._name} has a log beside it and cannot be written",
                    hint="copy the file and its -wal to a disk that can be written, and use it there",
                )
        with self._translated():
            self._connection = sqlite3.connect(
                f"file:{quote(path)}?mode=ro&immutable=1", uri=True, isolation_level=None, check_same_thread=False
            )

    def execute(self, sql: str, values: Sequence[Value] = ()) -> Rows:
        """Run one statement and return its rows."""
        with self._translated():
            return self._connection.execute(sql, values).fetchall()

    def reading(self) -> AbstractContextManager[None]:
        """Nothing: it does not change."""
        return nullcontext()

    def transaction(self) -> AbstractContextManager[None]:
        """Raise StoreError."""
        raise StoreError(f"the store {self._name} cannot be written", hint=_File.if_closed)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import sqlite3

        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreError(f"the store {self._name}: {error}", hint=_File.if_else) from error
        except sqlite3.DatabaseError as error:
            raise StoreCorrupt(f"the store {self._name} is damaged: {error}", hint=_File.if_damaged) from error


def _unprepared(error: StoreError, url: str) -> Unprepared | None:
    return Unprepared(f"there is no store in {url}", hint=_INIT) if "no such table" in str(error) else None


@contextmanager
def _translated() -> Iterator[None]:
    """Turn errors of a file into those of a store."""
    try:
        yield
    except StoreError:
        raise
    except LockedError as error:
        raise StoreError(str(error), hint=error.hint) from error
    except IntegrityError as error:
        kind = StoreError if "not a database" in str(error) else StoreCorrupt  # perhaps it never was one
        raise kind(str(error), hint=error.hint) from error
    except DrkitError as error:
        raise StoreError(str(error), hint=error.hint) from error


# What a user writes

_PLAIN = frozenset({"http", "ws", "turso+http"})
_RETRY = "check the network and the URL, then run the command again; what was stored so far is used"


def open_database(url: str, *, sleep: Callable[[float], None] = time.sleep) -> tuple[Database, dict[str, int]]:
    """Return the database that a URL names, and the limits that stand in its query.

    `turso://HOST`, the same as `libsql://HOST`; `turso+http://HOST` without TLS; `turso:`, the database that
    TURSO_DATABASE_URL names; `libsql-file:PATH`. The token is that of TURSO_AUTH_TOKEN. UsageError if it is none.
    """
    scheme, _, rest = url.partition(":")
    path = file_of(url)
    if path is not None:
        return FileDatabase(path, sleep=sleep), {}
    if not rest:
        url = os.environ.get("TURSO_DATABASE_URL", "")
        scheme = url.partition(":")[0]
        if not url:
            raise UsageError("no Turso database is named", hint="write turso://HOST, or set TURSO_DATABASE_URL")
    try:
        parts = urlsplit(url)
        where = parts.hostname or ""
        where += f":{parts.port}" if parts.port else ""
        limits = {key: int(value) for key, value in parse_qsl(parts.query, strict_parsing=bool(parts.query))}
    except ValueError:
        where, limits = "", {}
    if not where or parts.username or parts.path.strip("/") or set(limits) - {"row", "request", "in_flight"}:
        # Nothing of it is repeated: it may hold a token.
        raise UsageError(
            "what is named as a store's database is none",
            hint="write turso://HOST, with ?row=BYTES&request=BYTES&in_flight=N if need be; "
            "the token goes into TURSO_AUTH_TOKEN",
        )
    plain = scheme in _PLAIN
    name = f"turso+http://{where}" if plain else f"turso://{where}"
    server = f"{'http' if plain else 'libsql'}://{where}"
    token = os.environ.get("TURSO_AUTH_TOKEN", "")
    return Server(
        name,
        lambda: Hrana(server, token, hint=_RETRY, timeout=TIMEOUT_S),
        in_flight=max(limits.get("in_flight", 1), 1),
        sleep=sleep,
    ), limits
