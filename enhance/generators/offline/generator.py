"""The generator that needs no model: what it writes is put together from what the plugin says of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from enhance.generators.base import BadReply, Request
from enhance.generators.offline import mending
from enhance.generators.offline.composing import Draft, compose
from enhance.generators.offline.parting import parts, reason_against
from enhance.generators.offline.sources import line, read
from enhance.model import Finding, Material, Plan, PlannedSkill, Proposal, Reply

VERSION = "1"
"""Raised whenever the same material gives another skill: a part of the cache's key."""


class Offline:
    """Composes skills from a plugin's own texts. The same material always gives the same bytes.

    Its requests are small JSON objects that name the work; `send` does it, without any network. A finding that a
    `repair_request` names costs the block that it stands in; one without a line makes the skill shorter.
    """

    name: ClassVar[str] = "offline"
    remote: ClassVar[bool] = False

    def __init__(self) -> None:
        self.model = ""
        self.key: Mapping[str, str] = {"generator": self.name, "version": VERSION}

    def plan_request(self, material: Material) -> Request:
        """Ask which skills the material carries."""
        return _request("plan", material, {})

    def generate_request(self, material: Material, plan: Plan) -> Request:
        """Ask for the skills of a plan."""
        return _request("generate", material, {"skills": [skill.name for skill in plan.skills]})

    def repair_request(
        self,
        material: Material,
        plan: Plan,
        proposal: Proposal,  # noqa: ARG002
        findings: Sequence[Finding],
    ) -> Request:
        """Ask for the same skills without the blocks that the findings name."""
        wrong = sorted({(one.path, one.line) for one in findings if one.level == "error"})
        return _request("repair", material, {"skills": [skill.name for skill in plan.skills], "wrong": wrong})

    def send(self, request: Request, material: Material, *, timeout_s: float) -> Reply:  # noqa: ARG002
        """Compose what the request asks for. Nothing is waited for, so the time limit means nothing here."""
        drafts, reasons = _drafts(material)
        if request.phase == "plan":
            answer: dict[str, Any] = {
                "skills": [
                    {"name": one.name, "description": one.description, "sections": one.sections, "grounds": one.sources}
                    for one in drafts
                ],
                "reason": "" if drafts else "; ".join(dict.fromkeys(reasons)),
            }
            return Reply(json.dumps(answer, ensure_ascii=False), "stop")
        asked = json.loads(request.prompt)
        files = {f"skills/{one.name}/SKILL.md": one.text for one in drafts if one.name in asked["skills"]}
        if request.phase == "repair":
            files = {path: mending.without(text, _lines(asked["wrong"], path)) for path, text in files.items()}
        return Reply(json.dumps({"files": files, "notes": reasons}, ensure_ascii=False), "stop")

    def read_plan(self, reply: Reply, material: Material) -> Plan:  # noqa: ARG002
        """Read what `send` answered to a `plan_request`."""
        found = _object(reply)
        try:
            skills = tuple(
                PlannedSkill(one["name"], one["description"], tuple(one["sections"]), tuple(one["grounds"]))
                for one in found["skills"]
            )
            return Plan(skills, str(found["reason"]))
        except (KeyError, TypeError) as error:
            raise BadReply(f"the answer is no plan: {error!r}") from error

    def read_proposal(self, reply: Reply, material: Material, plan: Plan) -> Proposal:  # noqa: ARG002
        """Read what `send` answered to the other requests."""
        found = _object(reply)
        try:
            files = {path.encode(): text.encode() for path, text in found["files"].items()}
            notes = tuple(map(str, found["notes"]))
        except (KeyError, TypeError, AttributeError, UnicodeEncodeError) as error:
            raise BadReply(f"the answer is no proposal: {error!r}") from error
        if missing := [skill.name for skill in plan.skills if f"skills/{skill.name}/SKILL.md".encode() not in files]:
            raise BadReply(f"the answer lacks {', '.join(missing)}")
        return Proposal(files, notes)


def _request(phase: Any, material: Material, content: Mapping[str, Any]) -> Request:
    named = {"phase": phase, "input": material.input_sha256, "profile": material.profile, **content}
    return Request(phase, json.dumps(named, sort_keys=True))


def _drafts(material: Material) -> tuple[list[Draft], list[str]]:
    """The skills that the material carries, each without an error by the rules, and why there are not others."""
    if reason := reason_against(material):
        return [], [reason]
    sources = read(material)
    found, reason = parts(material, sources)
    drafts: list[Draft] = []
    reasons = [reason] if reason else []
    stamp = {"generator": "drkit offline", "generator-version": VERSION, "plugin": _told(material.plugin.name)}
    for part in found:
        draft = compose(part, sources, material.profile, stamp)
        if isinstance(draft, Draft):
            draft = mending.settled(draft, material)
        if isinstance(draft, Draft):
            drafts.append(draft)
        else:
            reasons.append(draft)
    return drafts, reasons


def _told(name: str) -> str:
    """A plugin's name as metadata may hold it."""
    return re.sub(r"[^\w .,:@/+-]", "", line(name))[:100].strip() or "unnamed"


def _lines(wrong: Sequence[Sequence[Any]], path: str) -> set[int]:
    """The lines of a file that findings name. Their paths are relative to the source, ours to the plugin."""
    return {int(line) for where, line in wrong if str(where) == path or str(where).endswith("/" + path)}


def _object(reply: Reply) -> dict[str, Any]:
    if reply.finish_reason != "stop":
        raise BadReply(f"the answer is not whole: {reply.finish_reason}")
    try:
        found = json.loads(reply.text)
    except ValueError as error:
        raise BadReply("the answer is no JSON") from error
    if not isinstance(found, dict):
        raise BadReply("the answer is no JSON object")
    return found
