"""What status returns. Times are RFC 3339 in UTC, ages in seconds."""

from __future__ import annotations

from msgspec import Struct


class Verified(Struct, frozen=True):
    """A proof: of which snapshot, at which level, when, and how old the snapshot and the proof are now."""

    snapshot: str
    level: str
    at: str
    age_s: float
    snapshot_age_s: float


class LastDrill(Struct, frozen=True):
    """The newest drill of one plugin, or of everything (`plugin` is None), passed or not."""

    plugin: bytes | None
    by: str
    at: str
    age_s: float
    total_s: float
    rto_s: float
    passed: bool
    reason: str


class Group(Struct, frozen=True):
    """The plugins below one directory: how many, how many of them were ever brought back, and the oldest such proof.

    `age_s` is None as long as one of them was never brought back.
    """

    path: bytes
    plugins: int
    proved: int
    age_s: float | None


class SourceStatus(Struct, frozen=True):
    """One source in one store. `verified` is None if no snapshot of it was ever verified.

    `rpo_s` is the age of the newest verified snapshot, None if there is none, and is to be at most `rpo_target_s`.
    """

    repository: str
    store: str
    host: str
    source: bytes
    snapshot: str
    time: str
    age_s: float
    files: int
    plugins: int
    bytes: int
    verified: Verified | None
    rpo_s: float | None
    rpo_target_s: float
    rpo_met: bool
    full_drill: LastDrill | None
    plugin_drill: LastDrill | None
    rto_met: bool | None
    groups: tuple[Group, ...]


class StoreStatus(Struct, frozen=True):
    """One store of a repository, as far as the inventory knows.

    `snapshot` is the newest that is known to be there. `lag` counts the snapshots of the repository that came after
    it, `lag_s` is how long ago the first of them was taken. `proved` has the age of the newest proof of each level,
    highest first; `failed` is the level at which damage was found since, empty if none was.
    """

    name: str
    url: str
    repository: str
    snapshot: str | None
    lag: int
    lag_s: float
    lag_met: bool
    proved: dict[str, float]
    failed: str


class StatusReport(Struct, frozen=True):
    """`ok` where every source and every store meets its targets.

    `pending` are the transactions that each end has not got.
    """

    ok: bool
    at: str
    inventory: str
    sources: tuple[SourceStatus, ...]
    stores: tuple[StoreStatus, ...]
    pending: dict[str, int]
