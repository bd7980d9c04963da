"""`drkit key export`: a key on paper."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.session import Session
from drkit.cli.slots import changing
from drkit.clock import utc_now
from drkit.errors import UsageError

if TYPE_CHECKING:
    from drkit.cli.output import Console
    from drkit.seal import Secret

EXAMPLES = """
drkit key export | lpr
drkit key export --output sheet.txt --qr sheet.svg
"""
KEYS = {
    "id": "of the slot that the sheet opens",
    "key": "base64 of the key, which is what the QR code says and a key file holds",
    "lines": "the four lines of the sheet",
    "output": "the file with the sheet, empty if it was printed",
    "qr": "the file with the code, empty if there is none",
}


def command(
    ctx: typer.Context,
    *,
    output: Annotated[
        str, typer.Option("--output", metavar="FILE", help="Write the sheet into this new file, and print nothing.")
    ] = "",
    qr: Annotated[
        str, typer.Option("--qr", metavar="FILE", help="Write the code as a picture, too: FILE.svg or FILE.png.")
    ] = "",
    label: Annotated[
        str, typer.Option("--label", metavar="TEXT", help="What 'drkit key list' shows of it.")
    ] = "recovery sheet",
) -> None:
    """Make a key for a sheet of paper, and print the sheet: four lines with checks, and a QR code.

    Type the lines into a file, or scan the code into one: that file opens the repository as a key file. Each sheet has
    a slot of its own, which 'drkit key remove' takes away when the sheet is lost.
    """
    import base64

    from drkit.seal.keys import add_slot, delete_slot
    from drkit.seal.secret import key_lines, new_key
    from drkit.seal.sheet import code_image, sheet

    session: Session = ctx.obj
    with changing(session) as (store, config, opened):
        secret = new_key()
        picture = code_image(secret, qr) if qr else b""
        for path in filter(None, (output, qr)):
            if os.path.lexists(path):
                raise UsageError(f"{path} is there already", hint="name a new file")
        slot = add_slot(store, config, opened.ring, secret, now=utc_now, label=label)
        text = sheet(
            secret, repository=config.repository_id, url=store.url, slot=slot.id, created=slot.slot.created
        ) + _code(session.console, secret)
        try:
            if qr:
                _write(qr, picture)
            if output:
                _write(output, text.encode())
        except UsageError:
            delete_slot(store, slot.id)  # nobody has its key
            raise
    if not output and not session.console.json:
        session.console.line(text)
    key = base64.b64encode(secret.data).decode()
    session.console.result({"id": slot.id, "key": key, "lines": key_lines(secret.data), "output": output, "qr": qr})


def _code(console: Console, secret: Secret) -> str:
    from drkit.seal.sheet import code_text

    try:
        return "\n" + code_text(secret)
    except UsageError as error:
        console.note(f"the sheet has no QR code: {error}; {error.hint}")
        return ""


def _write(path: str, data: bytes) -> None:
    try:
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}", hint="name another file; there is no slot for this sheet"
        ) from error
