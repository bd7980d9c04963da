"""`drkit cat`: the content of one file."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from drkit.cli.params import Snap
from drkit.cli.session import Session

EXAMPLES = """
drkit cat latest skills/report/SKILL.md
drkit cat 3f9a README.md | diff - README.md
"""
KEYS: dict[str, str] = {}


def command(
    ctx: typer.Context,
    snap: Snap,
    path: Annotated[str, typer.Argument(metavar="PATH", help="A file, relative to the source.")],
) -> None:
    """Write the content of one file to the standard output.

    Every byte is checked against its SHA-256 before it is written. There is no --json.
    """
    from drkit.query.cat import cat

    session: Session = ctx.obj
    session.console.no_json("cat")
    repository = session.open(cached=True)
    session.console.raw(cat(repository, repository.load(repository.resolve(snap)), os.fsencode(path)))
