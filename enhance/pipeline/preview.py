"""What a run would begin with, without a call and without a write: `drkit enhance run --dry-run`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from drkit.model import show_path
from enhance.discover import join
from enhance.generators.base import BadReply
from enhance.model import Plugin
from enhance.pipeline.asking import lookup
from enhance.pipeline.job import Chosen, Preview, RunJob
from enhance.pipeline.running import find
from enhance.pipeline.select import select
from enhance.pipeline.staging import Overlay
from enhance.pipeline.worker import Desk


def look(job: RunJob) -> Preview:
    """Return what would become of the selected plugins. Nothing is recorded, stored or written anywhere."""
    scene = find(job)
    chosen, tokens = [], 0
    for plugin in select(job, scene.discovery):
        one, size = _look_at(Desk(job, scene, plugin, None))
        chosen.append(one)
        tokens += size
    low, high = (sum(one.calls[side] for one in chosen) for side in (0, 1))
    return Preview(tuple(chosen), (low, high), tokens)


def _look_at(desk: Desk) -> tuple[Chosen, int]:
    plugin, remote = desk.plugin, desk.job.generator.remote
    findings = tuple(desk.check(Overlay(desk.live)))
    if desk.past.stands(desk.key, named=desk.named) and not desk.job.selection.only_failed:
        return Chosen(plugin.path, findings, "nothing: unchanged since the last run", (0, 0), False, ""), 0
    overlay, edits = desk.mended()
    diff = "".join(_diff(desk, overlay))
    if desk.meets(overlay):
        action = "repair" if edits else "nothing: it meets the profile"
        return Chosen(plugin.path, findings, action, (0, 0), False, diff), 0
    calls, tokens = _calls(desk)
    thin = desk.material.thin
    return Chosen(plugin.path, findings, "generate", calls if remote else (0, 0), thin, diff), tokens if remote else 0


def _calls(desk: Desk) -> tuple[tuple[int, int], int]:
    """Return how many calls a plugin takes at least and at most, and the tokens of those that are known already."""
    generator, known = desk.job.generator, desk.material
    request = generator.plan_request(known)
    answer = lookup(desk.job, "plan", request, known, desk.memory)
    if answer is None:
        return (1, 3), request.tokens
    try:
        plan = generator.read_plan(answer.reply, known)
    except BadReply:
        return ((1, 3), request.tokens) if desk.job.selection.only_failed else ((0, 0), 0)
    if not plan.skills:
        return (0, 0), 0
    request = generator.generate_request(known, plan)
    if lookup(desk.job, "generate", request, known, desk.memory) is None:
        return (1, 2), request.tokens
    return (0, 2) if desk.job.selection.only_failed else (0, 1), 0


def _diff(desk: Desk, overlay: Overlay) -> Iterator[str]:
    """Yield the repairs as a unified diff, moves as lines of their own."""
    for old, new in overlay.moves:
        yield f"rename from {_shown(desk.plugin, old)}\nrename to {_shown(desk.plugin, new)}\n"
    for path, data in sorted(overlay.writes.items()):
        before = overlay.origin(path) or b""
        was, now = (text.decode("utf-8", "backslashreplace").splitlines(keepends=True) for text in (before, data))
        shown = _shown(desk.plugin, path)
        for line in difflib.unified_diff(was, now, f"a/{shown}", f"b/{shown}"):
            yield line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"


def _shown(plugin: Plugin, path: bytes) -> str:
    return show_path(join(plugin.path, path))
