"""The paper sheet: a key that a person can type, or a telephone can read, when everything else is gone."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from drkit.errors import UsageError
from drkit.seal.secret import Secret, key_lines

if TYPE_CHECKING:
    from segno import QRCode

_TEXT = """\
drkit recovery sheet

Repository  {repository}
at          {url}
Key slot    {slot}
Made        {created}

Whoever has this sheet and the repository can read all of it. Keep it where a
fire or a thief at the one does not reach the other.

Type the four lines below into a file, or scan the code and save its text in a
file; spaces do not matter, and drkit tells which line is mistyped. Then:

    export DRKIT_KEY_FILE=that-file
    drkit restore latest --repo {url} --target DIR

or, without drkit, in a copy of the repository:

    DRKIT_KEY_FILE=that-file python3 recover.py --target DIR

{lines}
"""


def sheet(secret: Secret, *, repository: str, url: str, slot: str, created: str) -> str:
    """Return the text of the sheet, without the code. It is a key file as it stands."""
    lines = "\n".join(f"    {line}" for line in key_lines(secret.data))
    return _TEXT.format(repository=repository, url=url, slot=slot[:16], created=created, lines=lines)


def code_text(secret: Secret) -> str:
    """Return the QR code of a key in characters that a printer makes black. UsageError if segno is not installed."""
    rows = [[bool(dark) for dark in row] for row in _code(secret).matrix_iter(border=4)]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return "".join("".join(map(_half, upper, lower)).rstrip() + "\n" for upper, lower in pairs)


def _half(upper: bool, lower: bool) -> str:
    return " ▄▀█"[2 * upper + lower]


def code_image(secret: Secret, path: str) -> bytes:
    """Return the QR code of a key as a picture, SVG or PNG by the end of `path`. UsageError for other ends."""
    kind = path.rpartition(".")[2].lower()
    if kind not in {"svg", "png"}:
        raise UsageError(f"{path} ends neither in .svg nor in .png", hint="the end says what kind of picture it is")
    out = io.BytesIO()
    _code(secret).save(out, kind=kind, scale=8)
    return out.getvalue()


def _code(secret: Secret) -> QRCode:
    try:
        import segno
    except ImportError as error:
        raise UsageError(
            "QR codes need the package 'segno', which is not installed", hint="pip install 'drkit[encrypt]'"
        ) from error
    return segno.make(base64.b64encode(secret.data).decode(), error="q", micro=False)
