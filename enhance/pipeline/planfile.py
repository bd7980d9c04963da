"""A run in two halves: `plan_out` has everything written to a file that people can read, `apply_file` applies it.

The file is JSON. Texts stand in it as text, other contents in base64. It is bound to the content of each plugin: if
anything of a plugin has changed since, applying it would write over somebody's work, and nothing is applied at all.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from drkit.errors import ProposalRejected, StoreError, UsageError
from drkit.model import show_path
from enhance.discover import Discovery
from enhance.model import Plugin, Status
from enhance.pipeline.asking import Asker
from enhance.pipeline.job import RunJob, RunReport, Selection
from enhance.pipeline.running import Run, enact, find, only_run
from enhance.pipeline.staging import Overlay, misplaced, sha256
from enhance.pipeline.statuses import Statuses, path_key, path_of
from enhance.pipeline.worker import Desk, Kind, Verdict, decide

VERSION = 1
PLANNED_OUT = "it is in the plan: apply it with --apply"


class Content(Struct, frozen=True, omit_defaults=True):
    """A file's content: exactly one of the two is meant, the text where `base64` is empty."""

    text: str = ""
    base64: str = ""


class PlannedPlugin(Struct, frozen=True):
    """What is to be done to one plugin. `tree` has the SHA-256 of its files as they were; paths are as in records."""

    path: str
    kind: Kind
    tree: Mapping[str, str]
    moves: tuple[tuple[str, str], ...]
    writes: Mapping[str, Content]
    proposal: Mapping[str, Content]


class PlanFile(Struct, frozen=True):
    """All of a plan."""

    drkit_enhance_plan: int
    run: str
    profile: str
    generator: str
    model: str
    plugins: tuple[PlannedPlugin, ...]


def plan_out(job: RunJob, file: str) -> RunReport:
    """Do all of a run but the writing; put what would be written into a file. UsageError if that is in the source.

    Plugins that have a place in the file end as skipped; applying it, or a later run, takes them up without a call.
    """
    if _is_inside(job.site.source, os.fsencode(file)):
        raise UsageError(f"{file} is in the source", hint="write the plan to a file outside of it")
    if os.path.isdir(file) or not os.path.isdir(os.path.dirname(os.path.abspath(file))):
        # Told before a night of calls, not after it.
        raise UsageError(f"the plan cannot be written to {file}", hint="name a file in a directory that exists")
    planned: list[PlannedPlugin] = []

    def keep(this: Run, desk: Desk, verdict: Verdict, statuses: Statuses) -> None:
        entry = statuses.entries[desk.plugin.path]
        if verdict.draft.empty:
            return enact(this, desk, verdict, statuses)
        planned.append(_planned(desk, verdict))
        statuses.reach(desk.plugin.path, Status.VALIDATED)
        entry.detail["passing"] = True
        return statuses.reach(desk.plugin.path, Status.SKIPPED, PLANNED_OUT)

    with only_run(job.site):
        this = Run(job)
        report = this.execute(decide, keep)
        name, model = job.generator.name, job.generator.model
        _write(file, PlanFile(VERSION, report.run, job.profile, name, model, tuple(planned)))
    return report


def apply_file(job: RunJob, file: str) -> RunReport:
    """Apply what a plan says, without a call. ProposalRejected, and nothing is written, if a plugin is not as it was.

    UsageError if the file is no plan. What it holds is held against the rules again, and goes through the guard.
    """
    plan = _read(file)
    with only_run(job.site):
        scene = find(job)
        known = {plugin.path: plugin for plugin in scene.discovery.plugins}
        stale = [
            one.path
            for one in plan.plugins
            if (plugin := known.get(path_of(one.path))) is None or _tree(scene.discovery, plugin) != one.tree
        ]
        if stale:
            shown = ", ".join(show_path(path_of(path)) or "." for path in stale[:5])
            hint = "make a new plan with 'drkit enhance run --plan-out FILE': what was answered is not asked again"
            raise ProposalRejected(f"{len(stale)} plugins are not as they were planned: {shown}", hint=hint)
        by_path = {path_of(one.path): one for one in plan.plugins}

        def look_up(desk: Desk, asker: Asker, statuses: Statuses) -> Verdict:
            del asker, statuses
            return _verdict(desk, by_path[desk.plugin.path])

        chosen = msgspec.structs.replace(job, profile=plan.profile, selection=Selection(plugins=tuple(by_path)))
        return Run(chosen, exactly=frozenset(by_path)).execute(look_up, enact)


def _planned(desk: Desk, verdict: Verdict) -> PlannedPlugin:
    draft = verdict.draft
    return PlannedPlugin(
        path=path_key(desk.plugin.path),
        kind=verdict.kind,
        tree=_tree(desk.scene.discovery, desk.plugin),
        moves=tuple((path_key(old), path_key(new)) for old, new in draft.moves),
        writes={path_key(path): _content(data) for path, data in sorted(draft.writes.items())},
        proposal={path_key(path): _content(data) for path, data in sorted(draft.proposal.items())},
    )


def _tree(discovery: Discovery, plugin: Plugin) -> dict[str, str]:
    tree = {}
    for path, file in discovery.contents(plugin).items():
        with contextlib.suppress(OSError):  # what cannot be read cannot have been planned upon
            tree[path_key(path)] = sha256(file())
    return tree


def _verdict(desk: Desk, planned: PlannedPlugin) -> Verdict:
    overlay = Overlay(desk.live)
    for old, new in planned.moves:
        overlay.move(path_of(old), path_of(new))
    writes = {path_of(path): _bytes(content) for path, content in planned.writes.items()}
    proposal = {path_of(path): _bytes(content) for path, content in planned.proposal.items()}
    if wrong := misplaced((*writes, *(path_of(new) for _, new in planned.moves)), desk.plugin, desk.nested, desk.links):
        return Verdict(Status.FAILED, wrong[0])
    for path, data in writes.items():
        overlay.write(path, data)
    if errors := desk.errors(overlay, overlay.writes, frozenset(writes) - frozenset(desk.live)):
        return Verdict(Status.FAILED, f"the proposal breaks rules: {errors[0].path}: {errors[0].rule}")
    return Verdict(draft=overlay.draft(proposal), kind=planned.kind)


def _content(data: bytes) -> Content:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return Content(base64=base64.b64encode(data).decode())
    return Content(text=text)


def _bytes(content: Content) -> bytes:
    return base64.b64decode(content.base64) if content.base64 else content.text.encode()


def _is_inside(source: bytes, file: bytes) -> bool:
    """Whether to write the file would change the source; a link outside of it may lead there."""
    abspath = os.path.abspath(file)
    places = (os.path.realpath(os.path.dirname(abspath)), os.path.realpath(abspath))
    return any(where == source or where.startswith(source.rstrip(b"/") + b"/") for where in places)


def _write(file: str, plan: PlanFile) -> None:
    data = msgspec.json.format(msgspec.json.encode(plan), indent=1)
    try:
        with open(file, "wb") as out:
            out.write(data + b"\n")
    except OSError as error:
        hint = "name another file and run it again: what was answered is not asked again"
        raise StoreError(f"the plan cannot be written to {file}: {error.strerror}", hint=hint) from error


def _read(file: str) -> PlanFile:
    try:
        with open(file, "rb") as opened:
            plan = msgspec.json.decode(opened.read(), type=PlanFile)
        for one in plan.plugins:
            _ = [_bytes(content) for content in (*one.writes.values(), *one.proposal.values())]
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise UsageError(f"{file} is not a plan: {error}", hint="make one with --plan-out") from error
    if plan.drkit_enhance_plan != VERSION:
        raise UsageError(
            f"{file} is a plan of version {plan.drkit_enhance_plan}", hint="make a new one with --plan-out"
        )
    return plan
