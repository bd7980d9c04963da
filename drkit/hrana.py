"""A client of Turso and other libSQL servers: Hrana 3 over HTTP, one request for each transaction.

The vendor's own client sends two requests for each statement, waits without end, and holds the interpreter while it
waits: a server that is slow would stop a backup, and Ctrl-C with it. This one sends a transaction as one batch, in a
stream that ends with it, and gives up after `timeout` seconds. Nothing is left to be continued: a stream that expired,
or an answer that was lost, costs one transaction, which is sent again.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from drkit.errors import StoreError, StoreUnavailable, UsageError
from drkit.libsql import Value, clean

Statement = tuple[str, Sequence[Value]]
Rows = list[tuple[Any, ...]]

TIMEOUT_S = 10.0
_ANSWER_MAX = 64 << 20


class TooLarge(StoreError):
    """The server does not give so long an answer, or take so long a request."""


class Hrana:
    """A database by URL and token. Errors are StoreErrors with the `hint`; none of them holds the token."""

    def __init__(self, url: str, token: str, *, hint: str, timeout: float = TIMEOUT_S) -> None:
        scheme, self._host, self._port = _parse(url)
        self.name = f"{scheme}://{self._host}" + (f":{self._port}" if self._port else "")
        self.requests = 0
        self._secure = _SCHEMES[scheme]
        self._token = token.strip()
        if not (self._token.isascii() and self._token.isprintable()):
            raise UsageError("the token of Turso has characters that no token has", hint="check TURSO_AUTH_TOKEN")
        self._hint = hint
        self._timeout = timeout
        self._connection: Any = None

    def transaction(self, statements: Sequence[Statement], *, reading: bool = False) -> list[Rows]:
        """Run all statements in one transaction and return the rows of each: all of it happened, or none.

        With `reading` the statements only read, and wait for no writer. StoreUnavailable means that nobody knows
        whether it happened, TooLarge that it did not.
        """
        begin = "BEGIN" if reading else "BEGIN IMMEDIATE"
        steps: list[dict[str, Any]] = [{"stmt": {"sql": begin, "want_rows": False}}]
        for sql, values in statements:
            stmt = {"sql": sql, "args": [_to_wire(value) for value in values], "want_rows": True}
            steps.append({"stmt": stmt, "condition": {"type": "ok", "step": len(steps) - 1}})
        commit = len(steps)
        for sql, condition in (
            ("COMMIT", {"type": "ok", "step": commit - 1}),
            ("ROLLBACK", {"type": "not", "cond": {"type": "ok", "step": commit}}),
        ):
            steps.append({"stmt": {"sql": sql, "want_rows": False}, "condition": condition})
        requests = [{"type": "batch", "batch": {"steps": steps}}, {"type": "close"}]
        answer = self._post(msgspec.json.encode({"baton": None, "requests": requests}))
        try:
            return self._rows(answer["results"][0], commit)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise StoreError(f"{self.name} gave an answer that is none of Hrana 3", hint=self._hint) from error

    def close(self) -> None:
        """Close the connection. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _rows(self, result: dict[str, Any], commit: int) -> list[Rows]:
        if result["type"] != "ok":
            raise self._error(result["error"])
        outcome = result["response"]["result"]
        for error in outcome["step_errors"][: commit + 1]:
            if error is not None:
                raise self._error(error)
        if outcome["step_results"][commit] is None:
            raise StoreError(f"{self.name} did not commit", hint=self._hint)
        return [[tuple(map(_from_wire, row)) for row in step["rows"]] for step in outcome["step_results"][1:commit]]

    def _error(self, error: dict[str, Any]) -> StoreError:
        code = error.get("code") or ""
        return _KINDS.get(code, StoreError)(f"{self.name}: {error['message']}", hint=self._hint)

    def _post(self, body: bytes) -> Any:
        import http.client

        try:
            status, data = self._exchange(body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            why = str(error) or type(error).__name__
            raise StoreUnavailable(f"{self.name} cannot be reached: {why}", hint=self._hint) from error
        if status in {401, 403}:
            raise StoreError(f"{self.name} refuses the token ({status})", hint="check TURSO_AUTH_TOKEN")
        if status != 200:
            raise _kind(status, data)(f"{self.name} answered {status}: {_excerpt(data)}", hint=self._hint)
        try:
            return msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise StoreError(f"{self.name} answered with what is not JSON", hint=self._hint) from error

    def _exchange(self, body: bytes) -> tuple[int, bytes]:
        import http.client

        if self._connection is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            self._connection = kind(self._host, self._port, timeout=self._timeout)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        self.requests += 1
        self._connection.request("POST", "/v3/pipeline", body, headers)
        response = self._connection.getresponse()
        try:
            data = response.read(_ANSWER_MAX)
        except BaseException:
            response.close()
            raise
        if response.will_close:
            response.close()  # which the connection forgets where the answer says that it is the last
            self.close()
        return response.status, data


_SCHEMES = {"libsql": True, "https": True, "wss": True, "http": False, "ws": False}
"""What a URL may begin with, and whether that means TLS."""


def _parse(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port. Nothing else of a URL goes into a message: it could be a secret."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:
        host, port = "", None
    if not host or parts.scheme not in _SCHEMES:
        raise UsageError("what is named as Turso's URL is none", hint="give libsql://HOST")
    return parts.scheme, host, port


_KINDS = {
    "RESPONSE_TOO_LARGE": TooLarge,
    "STREAM_EXPIRED": StoreUnavailable,
    "SQLITE_BUSY": StoreUnavailable,
}
"""What the codes of errors mean that are not simply refusals."""


def _kind(status: int, data: bytes) -> type[StoreError]:
    if status == 413:
        return TooLarge
    if status == 429 or status >= 500:
        return StoreUnavailable
    return next((kind for code, kind in _KINDS.items() if f'"{code}"'.encode() in data), StoreError)


def _excerpt(data: bytes) -> str:
    text = " ".join(data[:200].decode("utf-8", "replace").split())
    return text or "nothing"


def _to_wire(value: Value) -> dict[str, Any]:
    if value is None:
        return {"type": "null"}
    if isinstance(value, int):
        return {"type": "integer", "value": str(int(value))}
    if isinstance(value, float):
        return {"type": "float", "value": value}
    if isinstance(value, bytes):
        return {"type": "blob", "base64": base64.b64encode(value).decode().rstrip("=")}
    return {"type": "text", "value": clean(value)}


def _from_wire(value: dict[str, Any]) -> Any:
    kind = value["type"]
    if kind == "null":
        return None
    if kind == "integer":
        return int(value["value"])
    if kind == "blob":
        text = value["base64"]
        return base64.b64decode(text + "=" * (-len(text) % 4))
    return float(value["value"]) if kind == "float" else value["value"]
