"""`drkit init`: make a repository."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.session import Session
from drkit.clock import utc_now
from drkit.errors import FormatError, UsageError

if TYPE_CHECKING:
    from drkit.format.settings import ParitySettings

EXAMPLES = """
drkit init --repo ~/backups
drkit init --repo /mnt/usb/backups --parity 16+2
"""
KEYS = {"repository": "its id", "url": "where it is"}


def command(
    ctx: typer.Context,
    *,
    parity: Annotated[
        str,
        typer.Option("--parity", metavar="K+M", help="Heal packs without a copy: M shards of parity for K of data."),
    ] = "",
) -> None:
    """Make an empty repository.

    The place that --repo names must hold no repository and no other files yet; a missing directory is made. With
    --parity 16+2, for instance, packs take an eighth more, and 'drkit repair' brings back what is damaged or missing in
    a pack without any copy, as long as that is at most about an eighth of it.
    """
    from drkit.repo import Repository

    session: Session = ctx.obj
    shards = _parity(parity) if parity else None
    store = session.store()
    repository = Repository.create(store, now=utc_now(), parity=shards)
    session.console.result({"repository": repository.config.repository_id, "url": store.url})
    session.console.note(f"made repository {repository.config.repository_id} at {store.url}")


def _parity(text: str) -> ParitySettings:
    from drkit.format.settings import ParitySettings, check_parity

    if match := re.fullmatch(r"(\d{1,3})\+(\d{1,3})", text):
        shards = ParitySettings(int(match[1]), int(match[2]))
        try:
            check_parity(shards)
        except FormatError as error:
            raise UsageError(str(error), hint="M is from 1 to K, and both together are at most 256") from error
        return shards
    raise UsageError(f"{text!r} is no parity", hint="write K+M, for instance 16+2")
