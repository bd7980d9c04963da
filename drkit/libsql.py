"""A connection to an embedded libSQL file: the only place that knows the vendor's module, its errors and its traps.

The traps, and what is done about them here:

* its errors are bare ValueErrors that differ in their text: `translate`;
* integers above 2³¹−1 are bound as floats: they are bound as text, which an INTEGER column turns back;
* text ends at a NUL, and lone surrogates are refused: `clean`;
* waiting for a lock holds the interpreter: the engine's own wait is short, the rest is slept between attempts;
* use after close, or in a fork's child, panics past `except Exception`: `File` refuses it before.

A process that has the file open must not open it in any other way: closing the other descriptor would drop the
engine's locks, and rows that other processes commit would be lost without an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, ClassVar

from drkit.errors import DrkitError, FormatError, IntegrityError, LockedError, NoSpace, StoreError, UsageError

Value = int | float | str | bytes | None

PATIENCE_S = 30.0
"""How long a transaction waits for other processes before it gives up."""
_BUSY_MS = 50
_PAUSE_S = 0.02
_INT_MAX = 2**31 - 1
_VARIABLES = 32_000
"""Just below what the engine takes in one statement."""


class File:
    """A connection for one process, and for one thread at a time. Errors are DrkitErrors that name the file.

    A subclass says what the file is, and what its user does about it.
    """

    what: ClassVar[str] = "database"
    if_damaged: ClassVar[str]
    if_closed: ClassVar[str]
    """What to do where the file cannot be opened or written."""
    if_else: ClassVar[str] = "run 'drkit doctor'"
    if_unnamed: ClassVar[str]
    """What to do where the path is not UTF-8."""

    def __init__(self, path: bytes, *, sleep: Callable[[float], None]) -> None:
        self.path = path
        self.sleep = sleep
        self._pid = os.getpid()
        self._name = os.fsdecode(path)
        try:
            self._name.encode()
        except UnicodeEncodeError:
            raise UsageError(f"the {self.what}'s path is not UTF-8", hint=self.if_unnamed) from None
        self._connection = self._connect()
        try:
            for pragma in (f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=FULL"):
                self.execute(f"PRAGMA {pragma}")
        except BaseException:
            self.close()
            raise

    def execute(self, sql: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        return self.query(sql, values)[1]

    def query(self, sql: str, values: Sequence[Value] = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run one statement and return the names of its columns, and its rows.

        Outside of a transaction it waits while other processes hold the lock, for at most `PATIENCE_S`: LockedError.
        """
        connection = self._usable()
        arguments = tuple(map(bound, values))
        began = monotonic()
        while True:
            try:
                cursor = connection.execute(sql, arguments)
                columns = [column[0] for column in cursor.description or ()]
                return columns, cursor.fetchall() if columns else []
            except ValueError as error:
                told = self.translate(str(error))
                waited = monotonic() - began > PATIENCE_S
                if waited or connection.in_transaction or not isinstance(told, LockedError):
                    raise told from error
            self.sleep(_PAUSE_S)

    def insert(self, sql: str, width: int, rows: Sequence[Sequence[Value]], tail: str = "") -> None:
        """Run `sql` with VALUES of many rows of `width` values at a time, then `tail`."""
        step = _VARIABLES // width
        for begin in range(0, len(rows), step):
            part = rows[begin : begin + step]
            marks = ",".join([f"({','.join('?' * width)})"] * len(part))
            self.execute(f"{sql} VALUES {marks} {tail}", [value for row in part for value in row])

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the write lock for the block: all of it is durable at its end, or none of it happened.

        LockedError if other processes hold the lock for longer than `PATIENCE_S`.
        """
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self._connection is not None and self._connection.in_transaction:
                self.execute("ROLLBACK")
            raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let all statements of the block read the same moment; none of them writes."""
        self.execute("BEGIN")
        try:
            yield
        finally:
            self.execute("ROLLBACK")

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Refuse every statement of the block that would write."""
        self.execute("PRAGMA query_only=1")
        try:
            yield
        finally:
            self.execute("PRAGMA query_only=0")

    def close(self) -> None:
        """Close the connection. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None and self._pid == os.getpid():
            connection.close()

    def _usable(self) -> Any:
        if self._connection is None:
            raise DrkitError(f"the {self.what} {self._name} was closed before it was used")
        if self._pid != os.getpid():
            raise DrkitError(f"the {self.what} {self._name} was opened by the process that this one was forked from")
        return self._connection

    def translate(self, text: str) -> DrkitError:
        """Return the error that the vendor's text means."""
        lower = text.replace(self._name, "").lower()
        name = f"{self.what} {self._name}"
        if "locked" in lower or "busy" in lower:
            return LockedError(f"another process holds the {name}")
        if any(sign in lower for sign in ("malformed", "not a database", "unsupported file format")):
            return IntegrityError(f"the {name} is damaged: {text}", hint=self.if_damaged)
        if "constraint failed" in lower:
            return FormatError(f"a row that the {name} cannot have: {text}")
        if "full" in lower:
            return NoSpace(f"the {name} could not be written: {text}")
        if "readonly" in lower or "unable to open" in lower:
            return StoreError(f"the {name} cannot be opened or written: {text}", hint=self.if_closed)
        return StoreError(f"the {name}: {text}", hint=self.if_else)

    def _connect(self) -> Any:
        try:
            import libsql_experimental as libsql
        except ModuleNotFoundError:
            try:
                import libsql  # its successor, the same by another name, from Python 3.14 on
            except ModuleNotFoundError:
                raise DrkitError(
                    f"the {self.what} needs libsql, which is not installed", hint="install drkit with its dependencies"
                ) from None
        try:
            return libsql.connect(self._name, isolation_level=None)
        except ValueError as error:
            raise self.translate(str(error)) from error


def bound(value: Value) -> Value:
    """Return a value as the engine binds it without loss."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int):  # a bool is one, too
        return int(value) if abs(value) <= _INT_MAX else str(value)
    return value


def clean(text: str) -> str:
    """Return text that the engine stores whole: NULs and lone surrogates come out escaped."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
