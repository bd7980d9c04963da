"""What a repair returns."""

from __future__ import annotations

from msgspec import Struct

from drkit.model import Finding


class Healed(Struct, frozen=True):
    """An object that is, or in a dry run would be, whole again: what was wrong with it, and where it came from."""

    object: str
    problem: str
    source: str


class RepairReport(Struct, frozen=True):
    """What was found and done. `lost` names paths of snapshots that no copy gives back; `ok` means there are none.

    `quarantined` are the names under which bad objects were set aside, `rescued` counts blobs that were written into
    new packs because no copy has their pack.
    """

    store: str
    sources: tuple[str, ...]
    dry_run: bool
    ok: bool
    healed: tuple[Healed, ...]
    quarantined: tuple[str, ...]
    rescued: int
    index_rebuilt: bool
    packs_read: int
    bytes_read: int
    lost: tuple[Finding, ...]
    duration_s: float
