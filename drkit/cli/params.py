"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

SNAP_HELP = "A snapshot: 'latest' or the beginning of its id."

Snap = Annotated[str, typer.Argument(metavar="SNAP", help=SNAP_HELP)]
LevelName = Literal["exists", "packs", "content", "restore"]
