"""What the inventory records, as plain data. Times are RFC 3339 in UTC, paths are bytes, sizes are bytes."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

Raw = bytes
"""The type, where a field has its name."""


class SnapshotRecord(Struct, frozen=True):
    """A snapshot as it was when it was made; `snapshot` is its id. The last five are None after a rebuild."""

    inventory: str
    id: int
    at: str
    repository: str
    store: str
    snapshot: str
    name: str
    time: str
    host: str
    source: Raw
    parent: str | None
    tags: tuple[str, ...]
    files: int
    dirs: int
    others: int
    plugins: int
    bytes: int
    skipped: int
    tree_sha256: str
    bytes_added: int | None = None
    packs_added: int | None = None
    files_unchanged: int | None = None
    duration_s: float | None = None
    warnings: int | None = None


class PluginRecord(Struct, frozen=True):
    """A plugin of a snapshot."""

    repository: str
    snapshot: str
    path: Raw
    name: str
    version: str
    files: int
    bytes: int
    tree_sha256: str


class Witness(Struct, frozen=True):
    """What was recorded of a snapshot when it was made."""

    snapshot: str
    name: str
    tree_sha256: str


class VerificationRecord(Struct, frozen=True):
    """A verification, or a restore that was read back equal. `plugin` is None for a whole snapshot."""

    inventory: str
    id: int
    at: str
    repository: str
    store: str
    snapshot: str
    plugin: Raw | None
    level: str
    ok: bool
    findings: int
    packs_read: int
    bytes_read: int
    duration_s: float


class DrillRecord(Struct, frozen=True):
    """A drill to be recorded. `plugin` is None for everything; `by` is "drkit" or "recover.py".

    `first_byte_s` and `rpo_s` are None where they were not measured, `reason` is empty if it passed.
    """

    repository: str
    store: str
    snapshot: str
    plugin: Raw | None
    by: str
    first_byte_s: float | None
    restore_s: float
    verify_s: float
    total_s: float
    rto_s: float
    rpo_s: float | None
    bytes: int
    files: int
    passed: bool
    reason: str = ""


class DrillRow(DrillRecord, frozen=True, kw_only=True):
    """A drill that was recorded."""

    inventory: str
    id: int
    at: str


class Proof(Struct, frozen=True):
    """The newest proof of something: when, at which level, of which snapshot, by which id of which inventory."""

    at: str
    level: str
    store: str
    snapshot: str
    plugin: Raw | None


class AuditRecord(Struct, frozen=True):
    """A link of an inventory's chain. `hash` covers all other fields, and so every link before it."""

    inventory: str
    id: int
    at: str
    event: str
    detail: str
    previous: str
    hash: str


class Pending(Struct, frozen=True):
    """A transaction's rows that one end of the outbox has not got yet: the ids `first` to `last`."""

    inventory: str
    first: int
    last: int
    repository: str


class RunRecord(Struct, frozen=True):
    """An enhancement run. What is only known at its end is None until then: a run that was killed stays so.

    `report` is the report that the run ended with, as plain data.
    """

    run: str
    started: str
    ended: str | None
    repository: str
    source: Raw
    generator: str
    model: str
    profile: str
    options: dict[str, Any]
    snapshot_before: str
    snapshot_after: str | None
    exit_code: int | None
    report: dict[str, Any] | None


class EnhancementRecord(Struct, frozen=True):
    """What became of a plugin in a run. `timestamp` is that of the status; `plugin_path` is relative to `source`."""

    run: str
    timestamp: str
    repository: str
    source: Raw
    plugin_path: Raw
    plugin_name: str
    enhancement_type: str
    status: str
    reason: str
    processing_time_seconds: float | None
    snapshot: str | None
    model: str | None
    input_sha256: str
    cache_key: str
    detail: dict[str, Any]


class ResponseRecord(Struct, frozen=True):
    """A generator's answer as it came, before anything looked into it. `phase` is "plan", "generate" or "repair"."""

    id: int
    at: str
    run: str
    plugin_path: Raw
    phase: str
    cache_key: str
    request_sha256: str
    model: str
    text: str
    finish_reason: str
    tokens_in: int
    tokens_out: int
    cost_usd: float
    latency_s: float
    detail: dict[str, Any]
