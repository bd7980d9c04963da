"""`drkit manifest`: a snapshot's manifest as text."""

from __future__ import annotations

from typing import Annotated

import typer

from drkit.cli.params import Snap
from drkit.cli.session import Session

EXAMPLES = """
drkit manifest latest > manifest.jsonl
drkit manifest latest --sha256sums > /tmp/sums && cd ~/plugins && sha256sum --quiet -c /tmp/sums
"""
KEYS: dict[str, str] = {}


def command(
    ctx: typer.Context,
    snap: Snap,
    sums: Annotated[bool, typer.Option("--sha256sums", help="Files only, as sha256sum writes them.")] = False,
) -> int:
    """Write the manifest of a snapshot, or checksums for sha256sum.

    The manifest has one line of JSON for each path (docs/format.md). In --sha256sums odd names are escaped as GNU
    sha256sum does it. There is no --json; 'drkit ls --json' has the same content.
    """
    from drkit.query import manifest

    session: Session = ctx.obj
    session.console.no_json("manifest")
    repository = session.open(cached=True)
    lost: list[str] = []
    lines = manifest.sha256sums if sums else manifest.json_lines
    session.console.raw(lines(repository, repository.load(repository.resolve(snap)), lost))
    return session.console.lost(lost)
