"""From a model's answer to a plan or a proposal: forgiving in how the JSON is wrapped, strict in what it says.

A fence or prose around the object is ignored. An answer that is not whole is never used, whatever it looks like: the
provider's word on why it ended decides. Names, grounds and tools are held against the plugin's own files, and the
frontmatter of a SKILL.md is not the model's text but composed here, so that it cannot be malformed.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from enhance.frontmatter import dump_frontmatter, parse_frontmatter
from enhance.generators.asking import label, taken_out
from enhance.generators.base import BadReply
from enhance.model import Material, Plan, PlannedSkill, Proposal, Reply
from enhance.validators.standards import RESERVED_WORDS, TOOLS

MOST_SKILLS = 4
MOST_NAME = 64
MOST_DESCRIPTION = 1024
MOST_SOURCES = 24
MOST_STARTS = 64
"""How many opening braces are tried as the beginning of the answer's object."""
_TOOL = re.compile(rf"(?:{'|'.join(TOOLS)})(?:\([^()\n]{{1,80}}\))?|mcp__[A-Za-z0-9_-]+")
_LONE = re.compile("[\ud800-\udfff]")
_RESERVED = re.compile("|".join(RESERVED_WORDS))
_FENCED = re.compile(r"\A(`{3,}|~{3,})[ \t]*(?:markdown|md)?[ \t]*\n\s*((?:#|---\n).*)\n\1\Z", re.DOTALL)
"""A fence around a whole body; a body that begins and ends with examples is none."""

_T = TypeVar("_T")
ENDINGS = {
    "max_tokens": "it was cut off at the limit of output tokens",
    "continuation": "it was cut off and would have gone on",
    "blocked": "the provider blocked the prompt",
    "safety": "the provider's safety filter ended it",
    "recitation": "the provider ended it as a recitation",
}
"""Why an answer is not whole, in words; other reasons are named as the provider does."""


class _Skill(msgspec.Struct):
    name: str
    description: str = ""
    sections: tuple[str, ...] = ()
    grounds: tuple[str, ...] = ()
    allowed_tools: tuple[str, ...] = ()
    body: str = ""


class _Plan(msgspec.Struct):
    skills: tuple[_Skill, ...]
    reason: str = ""


class _Answer(msgspec.Struct):
    skills: tuple[_Skill, ...]


def whole(reply: Reply) -> str:
    """Return the text of an answer that ended by itself; BadReply says why any other cannot be used."""
    if reply.finish_reason != "stop":
        why = ENDINGS.get(reply.finish_reason, f"the provider ended it: {reply.finish_reason or 'no reason given'}")
        detail = reply.details.get("block_reason") or reply.details.get("finish_message") or ""
        raise BadReply(f"the answer is not whole: {why}" + (f" ({detail})" if detail else ""))
    if not reply.text.strip():
        raise BadReply("the answer is empty")
    return reply.text


def json_object(reply: Reply, key: str) -> dict[str, Any]:
    """Return the first JSON object with this key in an answer, whatever surrounds it. BadReply if there is none."""
    text = whole(reply).strip().removeprefix("\ufeff")
    decoder = json.JSONDecoder()
    for number, match in enumerate(re.finditer(r"\{", text)):
        if number >= MOST_STARTS:
            break
        try:
            found, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and key in found:
            if _LONE.search(json.dumps(found, ensure_ascii=False)):
                raise BadReply("the answer is no valid Unicode")
            return found
    raise BadReply(f"the answer holds no JSON object with {key!r}")


def read_plan(reply: Reply, material: Material) -> Plan:
    """Read an answer of phase 1. Skills that draw on no file of the plugin are dropped; BadReply if all of them do."""
    answer = _convert(json_object(reply, "skills"), _Plan)
    known = {label(path): path for path in material.texts}
    skills: dict[str, PlannedSkill] = {}
    for skill in answer.skills:
        name = kebab(skill.name)
        grounds = tuple(ground for ground in map(_relative, skill.grounds) if ground in known)
        description = one_line(skill.description)
        if name and grounds and description and name not in skills:
            sections = tuple(filter(None, map(one_line, skill.sections)))
            skills[name] = PlannedSkill(name, description, sections, grounds, _tools(skill.allowed_tools))
    if answer.skills and not skills:
        raise BadReply("no planned skill has a usable name, a description and a file of the plugin that it draws on")
    return Plan(tuple(skills.values())[:MOST_SKILLS], one_line(answer.reason))


def read_proposal(reply: Reply, material: Material, plan: Plan, made_by: Mapping[str, str]) -> Proposal:
    """Read an answer of phase 2: one whole SKILL.md for each planned skill, `made_by` in its metadata.

    A skill under another name stands for the planned one if only one of each is left over. One that nobody planned is
    left out, and noted; BadReply if one is missing or has no body.
    """
    answer = _convert(json_object(reply, "skills"), _Answer)
    written, notes = _paired(answer.skills, plan)
    files = {}
    for planned in plan.skills:
        skill = written[planned.name]
        body = _body(skill.body)
        if not body:
            raise BadReply(f"the skill {planned.name} has no body")
        head: dict[str, Any] = {
            "name": planned.name,
            "description": one_line(skill.description) or planned.description,
        }
        tools = _tools(skill.allowed_tools) if skill.allowed_tools else planned.allowed_tools
        if tools:
            head["allowed-tools"] = " ".join(tools)
        head["metadata"] = {**made_by, "sources": "; ".join(planned.grounds[:MOST_SOURCES])}
        files[f"skills/{planned.name}/SKILL.md".encode()] = dump_frontmatter(head) + b"\n" + body.encode() + b"\n"
    return Proposal(files, (*notes, *taken_out(material)))


def kebab(name: str) -> str:
    """Return a name as a skill may have it, empty if nothing of it may stay."""
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    words = [word for word in re.split(r"[^a-z0-9]+", _RESERVED.sub(" ", plain)) if word]
    kept = ""
    for word in words:
        longer = f"{kept}-{word}" if kept else word[:MOST_NAME]
        if len(longer) > MOST_NAME:
            break
        kept = longer
    return kept


def one_line(text: str) -> str:
    """Return a text on one line, without angle brackets, cut at a word to what a description may have."""
    flat = " ".join(text.translate(str.maketrans("<>\0", "   ")).split())
    if len(flat) <= MOST_DESCRIPTION:
        return flat
    return flat[: MOST_DESCRIPTION + 1].rpartition(" ")[0] or flat[:MOST_DESCRIPTION]


def _convert(found: Any, shape: type[_T]) -> _T:
    try:
        return msgspec.convert(found, shape)
    except msgspec.ValidationError as error:
        raise BadReply(f"the answer has another shape than asked for: {error}") from error


def _paired(skills: Iterable[_Skill], plan: Plan) -> tuple[dict[str, _Skill], list[str]]:
    """Give each planned skill the one that was written for it."""
    given = {kebab(skill.name): skill for skill in skills}
    missing = [planned.name for planned in plan.skills if planned.name not in given]
    extra = [name for name in given if name not in {planned.name for planned in plan.skills}]
    notes = []
    if len(missing) == len(extra) == 1:
        notes.append(f"the model called {missing[0]} {extra[0]!r}")
        given[missing[0]] = given.pop(extra[0])
    elif missing:
        raise BadReply(f"the answer lacks what was planned: {', '.join(missing)}")
    elif extra:
        notes.append(f"the model wrote what was not planned; it is not used: {', '.join(map(repr, extra))}")
    return given, notes


def _body(text: str) -> str:
    """Return a body without the fence around it or the frontmatter that it was not to have."""
    text = text.replace("\r\n", "\n").strip()
    if fenced := _FENCED.match(text):
        text = fenced[2].strip()
    if text.startswith("---\n"):
        text = parse_frontmatter(text.encode()).body.decode("utf-8", "replace").strip()
    return text


def _tools(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in map(str.strip, names) if _TOOL.fullmatch(name)))


def _relative(path: str) -> str:
    return path.strip().removeprefix("file:").strip().removeprefix("./")
