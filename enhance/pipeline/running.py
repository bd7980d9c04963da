"""A run: one after the other, each plugin to its final status; in the end, what the disk says about it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator

from drkit.errors import DrkitError, GuardRefused, LockedError, ProposalRejected, UsageError
from drkit.guard import Site, TreeLock, recover, take_snapshot
from drkit.model import show_path
from enhance.discover import Discovery, discover, join
from enhance.model import Plugin, Status
from enhance.pipeline.applying import Applied, Stale, apply, files_after, missing, new_dirs
from enhance.pipeline.asking import NEEDED, Asker
from enhance.pipeline.job import RunJob, RunReport
from enhance.pipeline.recording import note_intent, note_outcome
from enhance.pipeline.select import select
from enhance.pipeline.staging import effects
from enhance.pipeline.statuses import Statuses
from enhance.pipeline.truth import compare
from enhance.pipeline.worker import Desk, Scene, Verdict, decide

Decide = Callable[[Desk, Asker, Statuses], Verdict]
"""Says what is to become of a plugin."""
Enact = Callable[["Run", Desk, Verdict, Statuses], None]
"""Brings a plugin with a draft to its final status."""


def run(job: RunJob) -> RunReport:
    """Work on the selected plugins and report what became of them, and of every path of the source.

    One run at a time works on a source: another one waits, and then finds what this one left. LockedError if it
    waits longer than the site allows. What ends the run early is raised when everything is recorded: plugins whose
    turn has not come are parked. Errors of the repository end it; those of one plugin do not.
    """
    with only_run(job.site):
        return Run(job).execute(decide, enact)


@contextlib.contextmanager
def only_run(site: Site) -> Iterator[None]:
    """Keep other runs from a source as long as the block runs, and put back what a killed command left half done."""
    name = hashlib.sha256(b"enhance\0" + site.source).hexdigest().encode()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(TreeLock((b"/drkit-enhance-" + name,), exclusive=True, waiting=site.waiting))
        except LockedError as error:
            message = f"another enhancement run is working on {show_path(site.source)}"
            raise LockedError(message, hint="wait until it has ended: see 'drkit enhance status'") from error
        recover(site.source, site=site)
        yield


class Run:
    """One run under way. `claims` are the paths that it changed, by what it left there.

    `exactly` are the paths of the plugins that it is about, where the job's selection does not say it.
    """

    def __init__(self, job: RunJob, exactly: frozenset[bytes] | None = None) -> None:
        self.job = job
        self._exactly = exactly
        self.run = ""
        self.claims: dict[bytes, str] = {}
        self.maybe: dict[bytes, str] = {}
        self._began = job.site.monotonic()

    def execute(self, decide: Decide, enact: Enact) -> RunReport:
        """Take each plugin through its phases, one after the other."""
        job = self.job
        if job.generator.remote and job.calls is None and self._exactly is None:
            raise UsageError(f"{job.generator.name} needs a quota", hint=NEEDED)
        scene = find(job)
        chosen = select(job, scene.discovery) if self._exactly is None else self._named(scene.discovery)
        before = take_snapshot(job.site, tags=("enhance",)).snapshot
        self.run = job.records.start_run(
            repo_id=job.repo_id,
            source=job.site.source,
            generator=job.generator.name,
            model=job.generator.model,
            profile=job.profile,
            options=job.options,
            snapshot_before=before,
        )
        statuses = Statuses(job, self.run, chosen)
        asker = Asker(job, self.run)
        job.progress.start(len(chosen), None, "enhancing")
        try:
            for plugin in chosen:
                self._one(scene, plugin, asker, statuses, decide, enact)
                job.progress.advance(1, 0)
        except BaseException as error:
            statuses.end_all(f"the run was ended: {str(error) or type(error).__name__}")
            with contextlib.suppress(DrkitError):  # the first error is the one to be told
                self._end(before, statuses, asker, error)
            raise
        return self._end(before, statuses, asker, None)

    def _named(self, discovery: Discovery) -> tuple[Plugin, ...]:
        return tuple(plugin for plugin in discovery.plugins if plugin.path in (self._exactly or ()))

    def _one(
        self,
        scene: Scene,
        plugin: Plugin,
        asker: Asker,
        statuses: Statuses,
        decide: Decide,
        enact: Enact,
    ) -> None:
        entry = statuses.begin(plugin.path)
        try:
            desk = Desk(self.job, scene, plugin, self.run)
            entry.input_sha256, entry.cache_key = desk.material.input_sha256, desk.key
            entry.detail["before"] = [entry.input_sha256, entry.cache_key]
            verdict = decide(desk, asker, statuses)
        except OSError as error:
            verdict = Verdict(Status.FAILED, f"it cannot be read: {error}", passing=True)
        finally:
            statuses.calls = asker.calls
        entry.kind = verdict.kind
        if verdict.passing:
            entry.detail["passing"] = True
        if verdict.status is Status.VALIDATED:
            enact(self, desk, verdict, statuses)
        else:
            statuses.reach(plugin.path, verdict.status, verdict.reason)

    def _end(self, before: str, statuses: Statuses, asker: Asker, error: BaseException | None) -> RunReport:
        """Take the last snapshot, hold the claims against it, and record the report."""
        job = self.job
        taken = take_snapshot(job.site, tags=("enhance",))
        truth = compare(
            job.site, job.site.repo.resolve(before), job.site.repo.resolve(taken.snapshot), self.claims, self.maybe
        )
        entries = statuses.entries
        report = RunReport(
            run=self.run,
            plugins=len(entries),
            statuses=statuses.counts(),
            model_calls=asker.calls,
            files_changed=truth.files_changed,
            changed_by_others=truth.changed_by_others,
            thin=tuple(path for path, entry in entries.items() if entry.detail.get("thin")),
            snapshot_before=before,
            snapshot_after=taken.snapshot,
            duration_s=round(job.site.monotonic() - self._began, 3),
            cost_usd=asker.cost_usd,
            absent=truth.absent,
            stopped=asker.stopped,
            interrupted=error is not None,
            reasons={path: entry.reason for path, entry in entries.items() if entry.reason},
            warnings=taken.warnings,
        )
        code = report.exit_code if error is None else exit_code(error)
        job.records.finish_run(
            self.run, repo_id=job.repo_id, snapshot_after=taken.snapshot, exit_code=code, report=report.plain()
        )
        job.flush()
        return report


def find(job: RunJob) -> Scene:
    """Look at the source as it is now."""
    return Scene(discover(job.site.source, job.site.options.rules, job.site.options.excludes))


def exit_code(error: BaseException) -> int:
    """Return the exit code of a run that was ended by this."""
    if isinstance(error, DrkitError):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 1 if isinstance(error, Exception) else 143


def enact(this: Run, desk: Desk, verdict: Verdict, statuses: Statuses) -> None:
    """Apply a draft and see that it is there: the plugin ends verified, or failed with nothing changed."""
    path, draft = desk.plugin.path, verdict.draft
    entry = statuses.entries[path]
    note_intent(desk, entry, draft, new_dirs(desk.job.site.source, path, draft))
    statuses.reach(path, Status.VALIDATED)
    this.maybe = {join(path, one): sha for one, sha in effects(draft, desk.live).items()}
    applied = Applied("", ())
    if not draft.empty:
        try:
            applied = apply(desk.job, this.run, path, draft, check=lambda staged: desk.problems(staged, draft))
        except Stale as error:
            return _fail(statuses, path, str(error), passing=True)
        except (GuardRefused, LockedError) as error:
            return _fail(statuses, path, f"the guard refused: {error}", passing=True)
        except ProposalRejected as error:
            return _fail(statuses, path, str(error), passing=False)
    this.claims.update((change.path, change.new_sha256) for change in applied.changes)
    this.maybe = {}
    entry.snapshot = applied.snapshot
    statuses.reach(path, Status.APPLIED)
    if gone := missing(desk.job.site.source, applied.changes):
        return _fail(statuses, path, f"{show_path(gone[0])} is not on the disk as it was written", passing=True)
    note_outcome(desk, this.run, entry, draft, applied, files_after(desk.plugin.files, path, applied.changes))
    status, reason = _conclusion(desk, verdict)
    if status is Status.SKIPPED:
        entry.detail["unless_named"] = True
    statuses.reach(path, status, reason)
    return None


def _conclusion(desk: Desk, verdict: Verdict) -> tuple[Status, str]:
    """Return what a plugin ends with: verified only if something of what was proposed is on the disk."""
    proposed, written = verdict.draft.proposal, verdict.draft.writes
    if proposed and not any(path in written or path in desk.live for path in proposed):
        return Status.SKIPPED, "what is proposed was removed by somebody: name it with --plugin to have it again"
    return Status.VERIFIED, verdict.reason


def _fail(statuses: Statuses, path: bytes, reason: str, *, passing: bool) -> None:
    if passing:
        statuses.entries[path].detail["passing"] = True
    statuses.reach(path, Status.FAILED, reason)
