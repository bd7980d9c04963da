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
    from drkit.seal import Secret
    from drkit.store.base import Store

EXAMPLES = """
drkit init --repo ~/backups
drkit init --repo /mnt/usb/backups --parity 16+2
drkit init --repo s3://bucket/plugins --encrypt
"""
KEYS = {
    "repository": "its id",
    "url": "where it is",
    "encrypted": "whether it is",
    "parity": "its shards as K+M, empty without",
}


def command(
    ctx: typer.Context,
    *,
    parity: Annotated[
        str | None,
        typer.Option("--parity", metavar="K+M", help="Heal packs without a copy: M shards of parity for K of data."),
    ] = None,
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help="Encrypt all that is stored; see 'drkit key' for what opens it.")
    ] = False,
    key_file: Annotated[
        str,
        typer.Option("--key-file", metavar="FILE", help="With --encrypt: make a key file, and no passphrase."),
    ] = "",
) -> None:
    """Make an empty repository.

    The place that --repo names must hold no repository and no other files yet; a missing directory is made. With
    --parity 16+2, for instance, packs take an eighth more, and 'drkit repair' brings back what is damaged or missing in
    a pack without any copy, as long as that is at most about an eighth of it.

    With --encrypt, nobody reads what is stored without a passphrase, which DRKIT_PASSWORD, DRKIT_PASSWORD_FILE or
    DRKIT_PASSWORD_COMMAND gives or which is asked for, or without the key file. Who loses all of them has lost
    everything: print a sheet with 'drkit key export', and keep it elsewhere.
    """
    from drkit.repo import Repository

    session: Session = ctx.obj
    shards = None if parity is None else _parity(parity)
    if key_file and not encrypt:
        raise UsageError("--key-file goes with --encrypt")
    store = session.store()
    secrets = _secrets(store, key_file) if encrypt else ()
    repository = Repository.create(store, now=utc_now(), parity=shards, secrets=secrets)
    found = {
        "repository": repository.config.repository_id,
        "url": store.url,
        "encrypted": encrypt,
        "parity": parity or "",
    }
    session.console.result(found)
    what = "encrypted repository" if encrypt else "repository"
    session.console.note(f"made {what} {repository.config.repository_id} at {store.url}")
    if encrypt:
        session.console.note("without its key nothing comes back: print a sheet now with 'drkit key export'")


def _secrets(store: Store, key_file: str) -> list[Secret]:
    """Return what is to open the new repository; a key file is not made where one is there already."""
    from drkit.cli.secrets import chosen
    from drkit.repo import opening
    from drkit.seal.cipher import need_cryptography

    need_cryptography()
    opening.check_vacant(store)
    return [chosen(key_file, prefix="DRKIT_")]


def _parity(text: str) -> ParitySettings:
    from drkit.format.parity import library
    from drkit.format.settings import ParitySettings, check_parity

    library()  # before a key file is made for nothing
    if match := re.fullmatch(r"(\d{1,3})\+(\d{1,3})", text):
        shards = ParitySettings(int(match[1]), int(match[2]))
        try:
            check_parity(shards)
        except FormatError as error:
            raise UsageError(str(error), hint="M is from 1 to K, and both together are at most 256") from error
        return shards
    raise UsageError(f"{text!r} is no parity", hint="write K+M, for instance 16+2")
