"""`guard exec`: any command, with the whole source held, proved restorable before and put back if it fails.

The order: the source's lock, exclusively → what others left is put back → snapshot → proof → journal → the command,
to the end of all that it started → the validating command → the present state stored and compared → done, or put back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct, structs

from drkit.errors import GuardRefused
from drkit.guard.compare import in_use_paths
from drkit.guard.journal import Command, Journal
from drkit.guard.lock import TreeLock
from drkit.guard.look import Seen, look, unchanged
from drkit.guard.process import GRACE_S, Ended, Process, run
from drkit.guard.proof import prove
from drkit.guard.recover import Recovered, recovered
from drkit.guard.site import Policy, Site
from drkit.guard.snapshot import find_snapshot, take_snapshot
from drkit.guard.undo import Left, put_back
from drkit.model import Level, PluginRow, Snapshot, show_path
from drkit.repo import SnapshotRef

IGNORE: Final = (".git/**", "**/__pycache__/**")
"""What no command is blamed for, and what is never put back."""
_SHELL = "/bin/sh"


class Task(Struct, frozen=True):
    """What is to be run, and what it may change.

    `plugins` are names or paths of plugins. `validate` is a line for the shell, empty for none. `output` is the
    descriptor to which both commands write all they say.
    """

    plugins: tuple[str, ...]
    command: tuple[str, ...]
    output: int
    validate: str = ""
    ignore: tuple[str, ...] = ()
    keep_on_failure: bool = False
    grace_s: float = GRACE_S


class ExecReport(Struct, frozen=True):
    """What came of it. Paths are relative to the source; `snapshot` is what was taken before, `after` what was then.

    `rejected_snapshot` has the state that was not accepted, None if there was none. `rolled_back`: the source is as it
    was before, except for what is in `left`. `reasons` say why it was not accepted.
    """

    passed: bool
    command_exit: int
    changed: tuple[bytes, ...]
    outside: tuple[bytes, ...]
    rolled_back: bool
    snapshot: str
    after: str | None
    rejected_snapshot: str | None
    validate_exit: int | None
    reasons: tuple[str, ...]
    left: tuple[Left, ...]
    duration_s: float


class Told(Protocol):
    """Hears what no report can tell."""

    def recovered(self, found: Sequence[Recovered]) -> None:
        """Hear what others had left, which was put back first."""

    def interrupted(self, rejected_snapshot: str, left: Sequence[Left]) -> None:
        """Hear that the command was interrupted, and all but `left` put back. What was there is in the snapshot."""


def execute(
    site: Site,
    task: Task,
    *,
    policy: Policy | None = None,
    told: Told | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> ExecReport:
    """Run a command on a source; see the module. An exception, KeyboardInterrupt too, ends it like a failed one.

    LockedError if others work on the source for too long; GuardRefused without proof; UsageError for a plugin that
    is none; StoreError and others if the present state cannot be stored, or not all be put back: then the journal
    stays, and the next command on the source goes on.
    """
    began = monotonic()
    lock = TreeLock.exclusive(site.source, site.waiting)
    with recovered(lock, site.source, site=site) as found:
        if told is not None:
            told.recovered(found)
        job = _Job(site, task, policy or site.policy, told)
        report = job.run()
        report = structs.replace(report, duration_s=round(monotonic() - began, 3))
        job.audit(report)
        return report


class _Job:
    """One command, with the lock held."""

    def __init__(self, site: Site, task: Task, policy: Policy, told: Told | None) -> None:
        self._told = told
        self._site = site
        self._task = task
        self._ref, self._before = self._take()
        self._rows = [site.repo.plugin(self._before, name) for name in task.plugins]
        self._prove(policy)
        self._record = Command(
            state="start",
            source=site.source,
            plugins=tuple(row.raw_path for row in self._rows),
            argv=tuple(map(os.fsencode, task.command)),
            snapshot=self._ref.id,
            repository_id=site.repo.config.repository_id,
            store_url=site.store_url,
            excludes=site.options.excludes,
            markers=site.options.rules.markers,
            globs=site.options.rules.globs,
            ignore=(*IGNORE, *task.ignore),
            spare=tuple(sorted(in_use_paths(site))),
            cache_dir=site.cache_dir,
        )
        self._journal = Journal.create(self._record, random=site.random)

    def run(self) -> ExecReport:
        """Run it, judge it, and put back what must be; the journal is gone when this returns."""
        try:
            report = self._judge(*self._commands())
        except BaseException:
            self._interrupted()
            raise
        self._journal.remove()
        return report

    def _interrupted(self) -> None:
        """Put everything back. If that fails, too, the journal stays: the next command on this source goes on."""
        try:
            seen = look(self._site, self._record, self._before, failed=True, keep=self._task.keep_on_failure)
            left = () if self._task.keep_on_failure else self._put_back(seen)
        except BaseException:
            self._journal.close()
            raise
        self._journal.remove()
        if self._told is not None:
            self._told.interrupted(seen.snapshot, left)

    def audit(self, report: ExecReport) -> None:
        """Record what was run and what came of it."""
        detail = {
            "plugins": [show_path(path) for path in self._record.plugins],
            "command": list(map(show_path, self._record.argv)),
            "exit": report.command_exit,
            "passed": report.passed,
            "changed": len(report.changed),
            "outside": len(report.outside),
            "rolled_back": report.rolled_back,
            "snapshot": report.snapshot,
            "rejected_snapshot": report.rejected_snapshot,
        }
        self._site.inventory.record("guard-exec", detail, {}, repo_id=self._site.repo.config.repository_id)

    def _take(self) -> tuple[SnapshotRef, Snapshot]:
        taken = take_snapshot(self._site)
        ref = find_snapshot(self._site, taken.snapshot)
        before = self._site.repo.load(ref)
        if before.skipped:
            raise GuardRefused(
                f"{before.skipped} paths cannot be stored, and so could not be put back: {'; '.join(taken.warnings)}",
                hint="make them readable and leave them alone, or exclude them in drkit.toml",
            )
        return ref, before

    def _prove(self, policy: Policy) -> None:
        """Prove that all of it can be put back, the named plugins at the policy's level; and that it is still so."""
        site = self._site
        every = structs.replace(policy, level=min(policy.level, Level.CONTENT))
        for row, rule in ((PluginRow(), every), *((row, policy) for row in self._rows)):
            prove(site, rule, self._ref, row)
        if not in_use_paths(site) and not unchanged(site, self._before):
            raise GuardRefused(
                f"{show_path(site.source)} changed while the snapshot was proved",
                hint="wait until nobody else works in it, then try again",
            )

    def _commands(self) -> tuple[Ended, Ended | None]:
        """Run the command and, if it ended well, the one that validates what it did."""
        task = self._task
        ended = self._run(task.command)
        if ended.code or not task.validate:
            return ended, None
        return ended, self._run((_SHELL, "-c", task.validate))

    def _run(self, command: Sequence[str]) -> Ended:
        def journal(process: Process) -> None:
            self._journal.write(structs.replace(self._record, state="run", process=process))

        task = self._task
        return run(command, output=task.output, journal=journal, grace_s=task.grace_s, random=self._site.random)

    def _judge(self, command: Ended, validation: Ended | None) -> ExecReport:
        failed = command.code != 0 or (validation is not None and validation.code != 0)
        keep = self._task.keep_on_failure
        seen = look(self._site, self._record, self._before, failed=failed, keep=keep)
        back = seen.rejected and not keep
        left = self._put_back(seen) if back else ()
        return ExecReport(
            passed=not seen.rejected,
            command_exit=command.code,
            changed=tuple(seen.changed),
            outside=seen.outside,
            rolled_back=back,
            snapshot=self._ref.id,
            after=None if seen.rejected else seen.snapshot,
            rejected_snapshot=(seen.snapshot or None) if seen.rejected else None,
            validate_exit=None if validation is None else validation.code,
            reasons=tuple(self._reasons(command, validation, seen)),
            left=left,
            duration_s=0,
        )

    def _reasons(self, command: Ended, validation: Ended | None, seen: Seen) -> list[str]:
        reasons = []
        if command.reason:
            reasons.append(f"{self._task.command[0]} could not be run: {command.reason}")
        elif command.code:
            reasons.append(f"the command ended with {command.code}")
        if validation is not None and validation.code:
            reasons.append(f"the validating command ended with {validation.code}")
        if seen.outside:
            reasons.append(f"paths outside of the named plugins were changed: {len(seen.outside)}")
        return reasons

    def _put_back(self, seen: Seen) -> tuple[Left, ...]:
        record = self._journal.read()
        assert isinstance(record, Command)
        self._journal.write(structs.replace(record, state="undo"))
        left = put_back(self._site, self._before, seen.changes)
        if self._site.repo.resolve("latest").id != self._ref.id:
            take_snapshot(self._site)  # somebody backed up what was undone just now: `latest` must not be that
        return left
