"""The Turso database that an inventory is kept in step with."""

from __future__ import annotations

from drkit.hrana import TIMEOUT_S, Hrana, Rows, Statement

__all__ = ["Rows", "Statement", "Turso"]


class Turso(Hrana):
    """A database by URL and token. Errors are StoreErrors; none of them holds the token."""

    def __init__(self, url: str, token: str, *, timeout: float = TIMEOUT_S) -> None:
        hint = "what was not sent stays in the outbox; send it with 'drkit inventory push'"
        super().__init__(url, token, hint=hint, timeout=timeout)
