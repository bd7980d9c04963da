"""What earlier runs say of a plugin: whether it is settled, what was written there, which answers it came from.

The detail of a plugin's record holds `passing` (to be tried again), `unless_named` (to be had again with --plugin),
`thin`, `since` (the run that settled it), `answers` (the `generator_key` they are of, and the place of each phase's).
And of its own run: `before` (input and key then), `writes` (path → SHA-256 and whether nothing of a person's is in
it), `moves`, `dirs` (those that are made), `changes` (path → old and new SHA-256), `bases` (the merge bases before)
and `rest` (the input's hash without what is written, where something of a person's is merged): all noted before
anything is applied. Paths are relative to the plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from drkit.inventory import EnhancementRecord
from enhance.model import Plugin, Status
from enhance.pipeline.asking import Memory
from enhance.pipeline.job import RunJob
from enhance.pipeline.staging import sha256
from enhance.pipeline.statuses import path_of

OF_ITS_RUN = ("writes", "moves", "dirs", "changes", "bases", "rest", "before")
"""What a detail tells of its own run alone."""
SETTLED = frozenset({Status.VERIFIED, Status.SKIPPED, Status.FAILED, Status.ROLLED_BACK})


class Past(Struct, frozen=True):
    """A plugin's past, as far as the inventory knows it. `last` is its newest record before this run."""

    plugin: Plugin
    last: EnhancementRecord | None
    written: Mapping[bytes, str]
    intended: Mapping[bytes, tuple[str, bool]]
    source: bytes

    @classmethod
    def of(cls, job: RunJob, plugin: Plugin, run: str | None) -> Past:
        """Read a plugin's past; `run` is the run that is not past."""
        records, source = job.records, job.site.source
        last = records.last(plugin.path, repo_id=job.repo_id, source=source, before=run)
        written = records.written(plugin.path, repo_id=job.repo_id, source=source)
        intended: dict[bytes, tuple[str, bool]] = {}
        if last is not None and last.status != Status.ROLLED_BACK:
            intended = {path_of(key): (sha, pure) for key, (sha, pure) in last.detail.get("writes", {}).items()}
        return cls(plugin, last, written, intended, source)

    @property
    def detail(self) -> Mapping[str, Any]:
        """The newest record's detail."""
        return self.last.detail if self.last is not None else {}

    @property
    def here(self) -> bool:
        """Whether the newest record is of this very source, not of another one of the same repository."""
        return self.last is not None and self.last.source == self.source

    @property
    def settled(self) -> bool:
        """Whether the last outcome stands until something about the plugin changes."""
        return self.last is not None and self.last.status in SETTLED and not self.detail.get("passing")

    @property
    def failed(self) -> bool:
        """Whether the last outcome is one that --only-failed takes."""
        return self.last is not None and self.last.status in {Status.FAILED, Status.PARKED}

    def memory(self, generator: str, input_sha256: str | None) -> Memory:
        """Return the answers that the last outcome came from, if it was this generator's.

        And of this input, unless that is known to be so (None).
        """
        answers = self.detail.get("answers", {})
        if self.last is None or answers.get("generator") != generator:
            return {}
        if input_sha256 not in {None, self.last.input_sha256}:
            return {}
        return {phase: (key, sha) for phase, (key, sha) in answers.get("places", {}).items()}

    @property
    def ours(self) -> dict[bytes, str]:
        """What enhance wrote, path → SHA-256, with what a killed run may have written before it could say so."""
        return {**self.written, **{path: sha for path, (sha, pure) in self.intended.items() if pure}}

    @property
    def landing(self) -> dict[bytes, str]:
        """What the last run was about to write, path → SHA-256."""
        return {path: sha for path, (sha, _) in self.intended.items()}

    def is_intended(self, path: bytes, read: Callable[[], bytes]) -> bool:
        """Whether a file is there just as the last run was about to write it, as a proposal and nothing else."""
        sha, pure = self.intended.get(path, ("", False))
        return pure and sha == sha256(read())

    def stands(self, key: str, *, named: bool) -> bool:
        """Whether nothing is to be done: settled under this key.

        What a person took back or removed here stays away, unless the plugin is named.
        """
        if not self.settled or self.last is None or self.last.cache_key != key:
            return False
        if named and self.detail.get("unless_named"):
            return False
        return (self.here and not named) or set(self.written) <= set(self.plugin.files)

    def base(
        self, path: bytes, mine: bytes | None, proposed: bytes, newest: bytes | None, *, anew: bool
    ) -> bytes | None:
        """Return the base of a merge: `newest`, the newest proposal applied, unless `anew` brings back what is gone.

        What a killed run wrote is what it proposed, or that merged with a person's text: then it is complete.
        """
        sha, pure = self.intended.get(path, ("", False))
        if mine is not None and sha == sha256(mine):
            return mine if pure else proposed
        if mine is None and anew:
            return None
        return newest or None
