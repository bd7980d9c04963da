"""Where each plugin of a run is: exactly one status each, recorded at every step, final when the run has ended."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from msgspec import Struct, field

from enhance.model import FINAL, Plugin, Status
from enhance.pipeline.job import RunJob, Step

_ORDER = (Status.PENDING, Status.PLANNED, Status.GENERATED, Status.VALIDATED, Status.APPLIED, Status.VERIFIED)
_BEFORE_THE_END = frozenset(_ORDER) - FINAL


class Entry(Struct):
    """A plugin in a run. `detail` is what is recorded with it: see `enhance.pipeline.past`."""

    plugin: Plugin
    status: Status = Status.PENDING
    reason: str = ""
    kind: str = "skill"
    input_sha256: str = ""
    cache_key: str = ""
    snapshot: str = ""
    began: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)


class Statuses:
    """The statuses of one run, in memory and in the inventory."""

    def __init__(self, job: RunJob, run: str, plugins: Iterable[Plugin]) -> None:
        self._job = job
        self.run = run
        self.calls = 0
        self.entries = {plugin.path: Entry(plugin) for plugin in plugins}
        for entry in self.entries.values():
            self._record(entry)

    def begin(self, path: bytes) -> Entry:
        """Say that work on a plugin begins now; return its entry."""
        entry = self.entries[path]
        entry.began = self._job.site.monotonic()
        return entry

    def reach(self, path: bytes, status: Status, reason: str = "") -> None:
        """Record a step forward. A step back on the way, as a repair makes one, is no step; an end is final."""
        entry = self.entries[path]
        if entry.status in FINAL:
            raise ValueError(f"{path!r} is {entry.status} already and cannot become {status}")
        if status in _BEFORE_THE_END and _ORDER.index(status) <= _ORDER.index(entry.status):
            return
        entry.status, entry.reason = status, reason
        self._record(entry)
        if status in FINAL:
            self._job.flush()

    def end_all(self, reason: str) -> None:
        """Park what has no final status yet: somebody ended the run before it was its turn, or in the middle of it."""
        for path, entry in self.entries.items():
            if entry.status not in FINAL:
                entry.detail["passing"] = True
                self.reach(path, Status.PARKED, reason)

    def counts(self) -> dict[str, int]:
        """Return how many plugins have each status, without those that none has."""
        counted = Counter(str(entry.status) for entry in self.entries.values())
        return {status: counted[status] for status in Status if counted[status]}

    @property
    def done(self) -> int:
        """How many plugins have their final status."""
        return sum(entry.status in FINAL for entry in self.entries.values())

    def _record(self, entry: Entry) -> None:
        taken = None
        if entry.status in FINAL and entry.began is not None:
            taken = round(self._job.site.monotonic() - entry.began, 3)
        self._job.records.set_status(
            run=self.run,
            repo_id=self._job.repo_id,
            plugin_path=entry.plugin.path,
            plugin_name=entry.plugin.name,
            enhancement_type=entry.kind,
            status=entry.status,
            reason=entry.reason,
            processing_time_seconds=taken,
            snapshot=entry.snapshot or None,
            model=self._job.generator.model or None,
            input_sha256=entry.input_sha256,
            cache_key=entry.cache_key,
            detail=entry.detail,
        )
        self._job.notify(
            Step(self.run, entry.plugin.path, entry.status, entry.reason, self.done, len(self.entries), self.calls)
        )


def path_key(path: bytes) -> str:
    """Return a path as it stands in a record: exact whatever its bytes are, and readable where it can be."""
    return quote_from_bytes(path, safe="/ ()[]{}@,;:!+='&$#")


def path_of(key: str) -> bytes:
    """Return the path that `path_key` gave this for."""
    return unquote_to_bytes(key)


def by_path(values: Mapping[bytes, Any]) -> dict[str, Any]:
    """Return a mapping with paths as keys, as it stands in a record."""
    return {path_key(path): value for path, value in values.items()}


def below(plugin: bytes, path: bytes) -> bytes:
    """Return a path that is relative to the source as one relative to a plugin of it."""
    return os.path.relpath(path, plugin) if plugin else path
