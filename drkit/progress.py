"""How services say how far they are; how it looks is the business of `drkit.cli.progress`."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told by a service how far it is: from one thread at a time, and cheap enough for a call per file."""

    def start(self, total_files: int | None, total_bytes: int | None, what: str) -> None:
        """Begin a stage and end the one before; `what` names it ("backing up"), None is a total not known."""
        ...

    def advance(self, files: int, bytes: int) -> None:  # noqa: A002  # the protocol's word
        """Count `files` and `bytes` more as done in the present stage."""
        ...


class NullProgress:
    """Progress that nobody watches."""

    def start(self, total_files: int | None, total_bytes: int | None, what: str) -> None:
        """Do nothing."""

    def advance(self, files: int, bytes: int) -> None:  # noqa: A002
        """Do nothing."""
