"""What copy returns."""

from __future__ import annotations

from msgspec import Struct

from drkit.model import Finding


class CopyReport(Struct, frozen=True):
    """What was copied, or is to be (`dry_run`). Lists hold ids; `bytes` are those of packs.

    `present` packs were there already; `left_out` are snapshots that lack something here, and so did not go.
    """

    source: str
    target: str
    repository: str
    created: bool
    dry_run: bool
    snapshots: tuple[str, ...]
    packs: tuple[str, ...]
    bytes: int
    present: int
    others: int
    left_out: tuple[str, ...]
    findings: tuple[Finding, ...]
    duration_s: float
