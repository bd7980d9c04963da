"""A client of a Turso database: Hrana 3 over HTTP, one request for each transaction.

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

from drkit.errors import StoreError, UsageError
from drkit.inventory.engine import Value, clean

Statement = tuple[str, Sequence[Value]]
Rows = list[tuple[Any, ...]]

TIMEOUT_S = 10.0
_ANSWER_MAX = 64 << 20
_RETRY = "what was not sent stays in the outbox; send it with 'drkit inventory push'"


class Turso:
    """A database by URL and token. Errors are StoreErrors; none of them holds the token."""

    def __init__(self, url: str, token: str, *, timeout: float = TIMEOUT_S) -> None:
        scheme, self._host, self._port = _parse(url)
        self.name = f"{scheme}://{self._host}" + (f":{self._port}" if self._port else "")
        self.requests = 0
        self._secure = _SCHEMES[scheme]
        self._token = token.strip()
        if not (self._token.isascii() and self._token.isprintable()):
            raise UsageError("the token of Turso has characters that no token has", hint="check TURSO_AUTH_TOKEN")
        self._timeout = timeout
        self._connection: Any = None

    def transaction(self, statements: Sequence[Statement]) -> list[Rows]:
        """Run all statements in one transaction and return the rows of each: all of it happened, or none."""
        steps: list[dict[str, Any]] = [{"stmt": {"sql": "BEGIN IMMEDIATE", "want_rows": False}}]
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
            raise StoreError(f"{self.name} gave an answer that is none of Hrana 3", hint=_RETRY) from error

    def close(self) -> None:
        """Close the connection. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _rows(self, result: dict[str, Any], commit: int) -> list[Rows]:
        if result["type"] != "ok":
            raise StoreError(f"{self.name}: {result['error']['message']}", hint=_RETRY)
        outcome = result["response"]["result"]
        for error in outcome["step_errors"][: commit + 1]:
            if error is not None:
                raise StoreError(f"{self.name}: {error['message']}", hint=_RETRY)
        if outcome["step_results"][commit] is None:
            raise StoreError(f"{self.name} did not commit", hint=_RETRY)
        return [[tuple(map(_from_wire, row)) for row in step["rows"]] for step in outcome["step_results"][1:commit]]

    def _post(self, body: bytes) -> Any:
        import http.client

        try:
            status, data = self._exchange(body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            why = str(error) or type(error).__name__
            raise StoreError(f"{self.name} cannot be reached: {why}", hint=_RETRY) from error
        if status in {401, 403}:
            raise StoreError(f"{self.name} refuses the token ({status})", hint="check TURSO_AUTH_TOKEN")
        if status != 200:
            raise StoreError(f"{self.name} answered {status}: {_excerpt(data)}", hint=_RETRY)
        try:
            return msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise StoreError(f"{self.name} answered with what is not JSON", hint=_RETRY) from error

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
            response.close()  # which the connection forgets where the answer said that it would be the last
            raise
        if response.will_close:
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
