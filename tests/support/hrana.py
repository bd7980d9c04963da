"""A double of a Turso server: Hrana 3 over HTTP, with SQLite behind it and faults to order.

It answers what clients send: `describe`, `execute`, `batch`, `sequence`, `get_autocommit`, `close`, and cursors, in
streams that a baton continues. Each stream is a connection of its own to one database in a file.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

TOKEN = "open-sesame"
STREAM_LOST = {"message": "the stream has expired due to inactivity", "code": "STREAM_EXPIRED"}


class Closable(Protocol):
    """What can be closed."""

    def close(self) -> None: ...


class Hrana:
    """The server: its database, how many requests it has answered, and the faults still to happen.

    Kinds of faults: "401" and "500" answer so; "cut" closes the connection before the request is looked at, "lost"
    after it has been carried out; "expired" forgets every stream and says so; "full" has no room for what is written;
    "slow" waits for `delay` seconds first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests = 0
        self.delay = 0.2
        self.hit: list[str] = []
        self.url = ""
        self.statements: list[str] = []
        self.faults: list[tuple[int, str]] = []
        self.streams: dict[str, sqlite3.Connection] = {}
        self.lock = threading.Lock()
        self.clients: list[Closable] = []
        """Closed with the server."""
        self.request_max = 1 << 30
        """Bytes of a request; a larger one is answered with 413."""
        self.answer_max = 1 << 30
        """Bytes of values in the rows of one answer; a larger one is an error."""
        self.largest = (0, 0)
        """Bytes of the largest request, and of the largest answer."""
        self._batons = 0

    def fail(self, kind: str, *, after: int = 0, times: int = 1) -> None:
        """Let the next request, but for `after`, fail in this way."""
        with self.lock:
            self.faults += [(self.requests + after + 1 + number, kind) for number in range(times)]

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """Return what the database has in a table, in order of its key."""
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
        finally:
            connection.close()

    def planned(self) -> str:
        """Count a request; return the fault that is planned for it."""
        with self.lock:
            self.requests += 1
            for planned in self.faults:
                if planned[0] == self.requests:
                    self.faults.remove(planned)
                    self.hit.append(planned[1])
                    return planned[1]
        return ""

    def stream(self, baton: str | None) -> sqlite3.Connection | None:
        """Return the connection of a stream, a new one without a baton, None for a stream that is unknown."""
        with self.lock:
            if baton is None:
                return sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5)
            return self.streams.pop(baton, None)

    def keep(self, connection: sqlite3.Connection) -> str:
        """Keep a stream for its next request; return the baton."""
        with self.lock:
            self._batons += 1
            baton = f"baton-{self._batons}"
            self.streams[baton] = connection
            return baton

    def forget(self) -> None:
        """Close every stream; what was not committed is rolled back."""
        with self.lock:
            for connection in self.streams.values():
                connection.close()
            self.streams.clear()

    def answer(self, connection: sqlite3.Connection, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request of a stream."""
        kind = request["type"]
        try:
            if kind == "execute":
                result: Any = self._execute(connection, request["stmt"])
            elif kind == "batch":
                result = self._batch(connection, request["batch"]["steps"])
            elif kind == "sequence":
                connection.executescript(request["sql"])
                result = None
            elif kind == "describe":
                result = self._describe(connection, request["sql"])
            elif kind == "get_autocommit":
                return {"type": "ok", "response": {"type": kind, "is_autocommit": not connection.in_transaction}}
            elif kind == "close":
                result = None
            else:
                return {"type": "error", "error": {"message": f"no {kind} here", "code": "UNKNOWN"}}
        except sqlite3.Error as error:
            return {"type": "error", "error": _error(error)}
        return {"type": "ok", "response": {"type": kind, **({"result": result} if result is not None else {})}}

    def cursor(self, connection: sqlite3.Connection, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Carry out a batch, and yield the lines of the answer of a cursor."""
        result = self._batch(connection, body["batch"]["steps"])
        for number, (done, error) in enumerate(zip(result["step_results"], result["step_errors"], strict=True)):
            if error is not None:
                yield {"type": "step_error", "step": number, "error": error}
            elif done is not None:
                yield {"type": "step_begin", "step": number, "cols": done["cols"]}
                for row in done["rows"]:
                    yield {"type": "row", "row": row}
                counts = {key: done[key] for key in ("affected_row_count", "last_insert_rowid")}
                yield {"type": "step_end", **counts}

    def _execute(self, connection: sqlite3.Connection, statement: dict[str, Any]) -> dict[str, Any]:
        self.statements.append(statement["sql"])
        cursor = connection.execute(statement["sql"], [_from_wire(value) for value in statement.get("args", [])])
        rows = cursor.fetchall()
        if sum(len(value) for row in rows for value in row if isinstance(value, bytes)) > self.answer_max:
            raise Oversize("Response is too large")
        return {
            "cols": [{"name": column[0], "decltype": None} for column in cursor.description or ()],
            "rows": [[_to_wire(value) for value in row] for row in rows],
            "affected_row_count": max(cursor.rowcount, 0),
            "last_insert_rowid": str(cursor.lastrowid) if cursor.lastrowid else None,
            "rows_read": 0,
            "rows_written": 0,
            "query_duration_ms": 0,
        }

    def _batch(self, connection: sqlite3.Connection, steps: list[dict[str, Any]]) -> dict[str, Any]:
        results: list[Any] = []
        errors: list[Any] = []
        for step in steps:
            results.append(None)
            errors.append(None)
            if not _holds(step.get("condition"), results, errors, connection):
                continue
            try:
                results[-1] = self._execute(connection, step["stmt"])
            except sqlite3.Error as error:
                errors[-1] = _error(error)
        return {"step_results": results, "step_errors": errors}

    def _describe(self, connection: sqlite3.Connection, sql: str) -> dict[str, Any]:
        marks = sql.count("?")  # the statements of the tests have none in texts
        words = sql.split(None, 1)[0].upper()
        explained = connection.execute(f"EXPLAIN {sql}", [None] * marks).description is not None
        return {
            "params": [{"name": None}] * marks,
            "cols": [{"name": "x", "decltype": None}] if words in {"SELECT", "PRAGMA"} and explained else [],
            "is_explain": False,
            "is_readonly": words == "SELECT",
        }


def _holds(condition: Any, results: list[Any], errors: list[Any], connection: sqlite3.Connection) -> bool:
    if condition is None:
        return True
    kind = condition["type"]
    if kind == "ok":
        return results[condition["step"]] is not None
    if kind == "error":
        return errors[condition["step"]] is not None
    if kind == "not":
        return not _holds(condition["cond"], results, errors, connection)
    if kind in {"and", "or"}:
        found = [_holds(one, results, errors, connection) for one in condition["conds"]]
        return all(found) if kind == "and" else any(found)
    if kind == "is_autocommit":
        return not connection.in_transaction
    raise AssertionError(f"unknown condition {kind}")


class Oversize(sqlite3.Error):
    """What a server says instead of an answer that is too large."""

    sqlite_errorname = "RESPONSE_TOO_LARGE"


def _error(error: sqlite3.Error) -> dict[str, Any]:
    return {"message": f"SQLite error: {error}", "code": getattr(error, "sqlite_errorname", "SQLITE_ERROR")}


def _from_wire(value: dict[str, Any]) -> Any:
    kind = value["type"]
    if kind == "null":
        return None
    if kind == "integer":
        return int(value["value"])
    if kind == "blob":
        text = value["base64"]
        return base64.b64decode(text + "=" * (-len(text) % 4))
    return value["value"]


def _to_wire(value: Any) -> dict[str, Any]:
    if value is None:
        return {"type": "null"}
    if isinstance(value, int):
        return {"type": "integer", "value": str(value)}
    if isinstance(value, float):
        return {"type": "float", "value": value}
    if isinstance(value, bytes):
        return {"type": "blob", "base64": base64.b64encode(value).decode().rstrip("=")}
    return {"type": "text", "value": value}


def _handler(server: Hrana) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10
        wbufsize = -1  # headers and body in one packet
        disable_nagle_algorithm = True  # else a part of an answer waits for the one before to be acknowledged

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            self._send(200 if self.path.startswith("/v3") else 404, {})

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(length))
            server.largest = (max(server.largest[0], length), server.largest[1])
            fault = server.planned()
            if length > server.request_max:
                self._send(413, {"error": "payload too large"})
                return
            if fault == "cut":
                self.close_connection = True
                return
            if fault == "slow":
                time.sleep(server.delay)
            if fault == "500":
                self._send(500, {"error": "internal error"})
                return
            if fault == "401" or self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._send(401, {"error": "Unauthorized: `The JWT is invalid`"})
                return
            connection = server.stream(body.get("baton"))
            if fault == "expired" or connection is None:
                server.forget()
                self._send(400, STREAM_LOST)
                return
            if fault == "full":
                connection.execute("PRAGMA max_page_count=1")  # SQLite makes it what there is already
            if self.path == "/v3/cursor":
                lines = [{"baton": server.keep(connection), "base_url": None}, *server.cursor(connection, body)]
                if fault == "lost":
                    self.close_connection = True
                else:
                    self._send(200, *lines)
                return
            results = [server.answer(connection, request) for request in body.get("requests", ())]
            if any(request["type"] == "close" for request in body.get("requests", ())):
                connection.close()
                baton = None
            else:
                baton = server.keep(connection)
            if fault == "lost":
                self.close_connection = True
                return
            self._send(200, {"baton": baton, "base_url": None, "results": results})

        def _send(self, status: int, *values: Any) -> None:
            data = b"\n".join(json.dumps(value).encode() for value in values)
            server.largest = (server.largest[0], max(server.largest[1], len(data)))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client that was out of patience
                self.wfile.write(data)
                self.wfile.flush()

    return Handler


@contextmanager
def serving(path: Path) -> Iterator[Hrana]:
    """Serve an empty database on loopback for as long as the block runs."""
    server = Hrana(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # as the real one: readers and a writer do not wait
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        for client in server.clients:
            client.close()
        http.shutdown()
        http.server_close()
        thread.join(10)
        server.forget()
