"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

SNAP_HELP = "A snapshot: 'latest' or the beginning of its id."

Snap = Annotated[str, typer.Argument(metavar="SNAP", help=SNAP_HELP)]
LOST = "which parts of manifests could not be read"
"""What the key `lost` of the query verbs holds."""

LevelName = Literal["exists", "packs", "content", "restore"]
