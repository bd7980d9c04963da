"""One plugin, from its material to a draft: what stands already, what rules can mend, what a generator must write."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeVar

from msgspec import Struct, structs

from drkit.errors import DrkitError
from drkit.guard import StagedPlugin
from drkit.model import show_path
from enhance.discover import SKILL, Discovery, join
from enhance.fix import Edit, Move, fixes, named_skills
from enhance.generators.base import BadReply
from enhance.material import material
from enhance.model import Finding, Material, Plugin, Proposal, Status
from enhance.pipeline.asking import Asker, Memory, NotAnswered, Parked
from enhance.pipeline.authoring import Author, Rejected, plan_as_data
from enhance.pipeline.job import RunJob
from enhance.pipeline.keys import cache_key, generator_key
from enhance.pipeline.past import OF_ITS_RUN, Past
from enhance.pipeline.staging import Draft, Overlay, merge_proposal, misplaced
from enhance.pipeline.statuses import Statuses
from enhance.validators import STANDARDS_SHA256, check_plugin, meets

T = TypeVar("T")
Kind = Literal["skill", "fix", "none"]


class Verdict(Struct, frozen=True):
    """What is to become of a plugin: a draft to be applied, or a final status with its reason."""

    status: Status = Status.VALIDATED
    reason: str = ""
    draft: Draft = Draft()
    kind: Kind = "none"
    passing: bool = False


class Scene:
    """The source as a run found it."""

    def __init__(self, discovery: Discovery) -> None:
        self.discovery = discovery

    @functools.cached_property
    def fixed(self) -> Collection[bytes]:
        """The skill directories that keep their names, because files outside of their plugin name them."""
        return named_skills(self.discovery)


class Desk:
    """A plugin under work: its files, its past, its material, and what rules can mend of it.

    `nested` are the plugins in it, `links` what is no regular file in it, both relative to it.
    """

    def __init__(self, job: RunJob, scene: Scene, plugin: Plugin, run: str | None) -> None:
        discovery = scene.discovery
        self.scene = scene
        self.job = job
        self.plugin = plugin
        self.live = discovery.contents(plugin)
        self.past = Past.of(job, plugin, run)
        self.based = frozenset(path for path in plugin.files if self._is_based(path))
        known = self.again(plugin, self.past.ours)
        self.key = self.key_of(known)
        self.material = structs.replace(
            known, texts=self._without_based(known.texts), sizes=self._without_based(known.sizes)
        )
        below = join(plugin.path, b"")
        prefix = below + b"/" if below else b""
        self.nested = [
            one.path[len(prefix) :]
            for one in discovery.plugins
            if one.path != plugin.path and one.path.startswith(prefix)
        ]
        self.links = [link[len(prefix) :] for link in discovery.links if link.startswith(prefix)]
        named = job.selection.plugins
        self.named = any(one in named for one in (plugin.path, plugin.name.encode("utf-8", "surrogatepass")))

    def _is_based(self, path: bytes) -> bool:
        """Whether enhance proposed a file, whatever has become of it: then it is merged with, and not written from."""
        if self.past.is_intended(path, self.live[path]):
            return True
        if not path.startswith(b"skills/"):
            return False
        records, source = self.job.records, self.job.site.source
        return bool(records.proposal(self.plugin.path, path, repo_id=self.job.repo_id, source=source))

    def _without_based(self, known: Mapping[bytes, T]) -> dict[bytes, T]:
        return {path: value for path, value in known.items() if path not in self.based}

    @property
    def memory(self) -> Memory:
        """The answers that the last outcome came from, where they answer this run's requests."""
        generator = generator_key(self.job.generator, self.job.profile)
        rest = self.past.detail.get("rest")
        landed = bool(rest) and rest == self.again(self.plugin, {**self.past.written, **self.past.landing}).input_sha256
        return self.past.memory(generator, None if landed else self.material.input_sha256)

    def meets(self, overlay: Overlay) -> bool:
        """Whether the plugin as it would be needs no generator: it meets the profile without what enhance proposed."""
        own = {os.path.dirname(path) + b"/" for path in self.based if os.path.basename(path) == SKILL}
        files = {path: data for path, data in overlay.files.items() if not any(path.startswith(one) for one in own)}
        plugin = structs.replace(self.plugin, files=tuple(sorted(files)))
        found = check_plugin(files, self.plugin, self.job.profile)
        return meets(found, structs.replace(self.material, plugin=plugin))

    def again(self, plugin: Plugin, written: Mapping[bytes, str]) -> Material:
        """Return what a generator may know of the plugin with these files, as they lie on the disk now."""
        return material(self.job.site.source, plugin, profile=self.job.profile, written=written)

    def key_of(self, known: Material) -> str:
        """Return the key of the outcome that such material leads to."""
        return cache_key(self.job.generator, known, STANDARDS_SHA256)

    def check(self, overlay: Overlay, proposed: Collection[bytes] = frozenset()) -> list[Finding]:
        """Hold the plugin as it would be against the rules."""
        return check_plugin(overlay.files, self.plugin, self.job.profile, proposed=proposed)

    def errors(self, overlay: Overlay, among: Collection[bytes], proposed: Collection[bytes] = ()) -> list[Finding]:
        """Return the errors in the files `among`, or in the directories above them."""
        shown = [show_path(join(self.plugin.path, path)) for path in among]
        found = (one for one in self.check(overlay, proposed) if one.level == "error")
        return [one for one in found if any(path == one.path or path.startswith(one.path + "/") for path in shown)]

    def mended(self) -> tuple[Overlay, list[Edit]]:
        """Return the plugin with the repairs that need no model, less those of files that would still have errors."""
        source, profile = self.job.site.source, self.job.profile
        found = self.check(Overlay(self.live))
        edits = fixes(source, self.plugin, found, profile, named=self.scene.fixed) if found else []
        while edits:
            overlay = Overlay(self.live)
            overlay.edit(edits)
            wrong = {one.path for one in self.errors(overlay, overlay.writes)}
            if not wrong:
                return overlay, edits
            edits = _without(edits, [path for path in overlay.writes if self._among(path, wrong)])
        return Overlay(self.live), []

    def _among(self, path: bytes, wrong: Collection[str]) -> bool:
        shown = show_path(join(self.plugin.path, path))
        return any(shown == one or shown.startswith(one + "/") for one in wrong)

    def judge(self, edits: Sequence[Edit], proposal: Proposal) -> Draft:
        """Return the draft that a proposal makes. Rejected if it breaks rules, alone or merged with what is there."""
        wrong = misplaced(proposal.files, self.plugin, self.nested, self.links)
        if wrong:
            raise Rejected(proposal, [Finding("path", "error", show_path(self.plugin.path), one) for one in wrong])
        alone = Overlay(self.live)
        alone.edit(edits)
        for path, data in proposal.files.items():
            alone.write(path, data)
        if errors := self.errors(alone, proposal.files, frozenset(proposal.files)):
            raise Rejected(proposal, errors)
        overlay = Overlay(self.live)
        overlay.edit(edits)
        new = frozenset(path for path in proposal.files if path not in overlay.files)
        conflicts = merge_proposal(overlay, proposal.files, lambda path, mine: self._base(path, mine, proposal))
        if errors := self.errors(overlay, overlay.writes, new):
            raise Rejected(proposal, errors, mendable=False)
        return overlay.draft(proposal.files, conflicts)

    def _base(self, path: bytes, mine: bytes | None, proposal: Proposal) -> bytes | None:
        newest = self.newest(path, there=mine is not None)
        return self.past.base(path, mine, proposal.files[path], newest, anew=self.named)

    def newest(self, path: bytes, *, there: bool) -> bytes | None:
        """Return the newest proposal for a file. What is not `there` can only be missed where it was written."""
        return self.job.records.proposal(
            self.plugin.path, path, repo_id=self.job.repo_id, source=self.job.site.source, elsewhere=there
        )

    def problems(self, staged: StagedPlugin, draft: Draft) -> list[str]:
        """Return what is wrong with what the guard is about to write, as the guard has it."""
        own = {
            path: functools.partial(staged.read, path)
            for path in staged.files()
            if not any(path.startswith(nested + b"/") for nested in self.nested)
        }
        found = self.errors(Overlay(own), draft.writes, frozenset(draft.writes) - frozenset(self.live))
        return [f"{one.path}: {one.rule} {one.message}" for one in found]


def _without(edits: list[Edit], wrong: Sequence[bytes]) -> list[Edit]:
    """Return the edits without those of some files; without any if a file lies in a directory that is moved."""
    if any(isinstance(one, Move) and path.startswith(one.new + b"/") for one in edits for path in wrong):
        return []
    left = [one for one in edits if isinstance(one, Move) or one.path not in wrong]
    return left if len(left) < len(edits) else []


def decide(desk: Desk, asker: Asker, statuses: Statuses) -> Verdict:
    """Return what is to become of a plugin; calls are made, and statuses reached, on the way."""
    job, past, entry = desk.job, desk.past, statuses.entries[desk.plugin.path]
    again = job.selection.only_failed
    if not again and past.stands(desk.key, named=desk.named):
        return _as_before(desk, entry.detail)
    overlay, edits = desk.mended()
    if desk.meets(overlay):
        if edits:
            return Verdict(draft=overlay.draft(), kind="fix")
        return Verdict(Status.SKIPPED, "it meets the profile as it is")
    generator = generator_key(job.generator, job.profile)
    author = Author(
        job,
        asker,
        desk.material,
        desk.memory,
        again=again,
        may_mend=not past.settled,
        reached=lambda status: statuses.reach(desk.plugin.path, status),
    )
    entry.detail["thin"] = desk.material.thin
    try:
        return _written(desk, author, statuses, edits)
    except Parked as error:
        return Verdict(Status.PARKED, str(error), passing=True)
    except NotAnswered as error:
        return Verdict(Status.FAILED, str(error), passing=error.passing)
    except BadReply as error:
        return Verdict(Status.FAILED, f"the answer cannot be used: {error}")
    except Rejected as error:
        return Verdict(Status.FAILED, f"the proposal breaks rules: {error}")
    except (DrkitError, OSError):
        raise
    except Exception as error:  # noqa: BLE001  # a generator may be anybody's, and the others have their turn
        return Verdict(Status.FAILED, f"the generator broke: {type(error).__name__}: {error}")
    finally:
        entry.detail["answers"] = {"generator": generator, "places": author.answers}


def _written(desk: Desk, author: Author, statuses: Statuses, edits: Sequence[Edit]) -> Verdict:
    plan, answer = author.plan()
    if not answer.stored:
        desk.job.records.store_analysis(
            run=statuses.run,
            repo_id=desk.job.repo_id,
            plugin_path=desk.plugin.path,
            cache_key=desk.key,
            result=plan_as_data(plan),
        )
    if not plan.skills:
        reason = plan.reason or "there is nothing to write"
        if edits:
            overlay = Overlay(desk.live)
            overlay.edit(edits)
            return Verdict(draft=overlay.draft(), kind="fix", reason=reason)
        return Verdict(Status.SKIPPED, reason)
    draft = author.write(plan, lambda proposal: desk.judge(edits, proposal))
    return Verdict(draft=draft, kind="skill")


def _as_before(desk: Desk, detail: dict[str, object]) -> Verdict:
    """Let an outcome stand, with all that is recorded of it."""
    last = desk.past.last
    assert last is not None
    detail.update({key: value for key, value in last.detail.items() if key not in OF_ITS_RUN})
    detail.setdefault("since", last.run)
    if last.status == Status.FAILED:
        return Verdict(Status.FAILED, last.reason)
    if last.status == Status.ROLLED_BACK:
        detail["unless_named"] = True
        return Verdict(Status.SKIPPED, f"it was rolled back in {last.run}: name it with --plugin to have it again")
    if last.status == Status.SKIPPED:
        return Verdict(Status.SKIPPED, last.reason)
    return Verdict(Status.SKIPPED, f"nothing about it has changed since {detail['since']}")
