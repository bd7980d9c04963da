"""Held against the rules: a skill loses the blocks in which something is found, until nothing is."""

from __future__ import annotations

import re
from collections.abc import Collection

from msgspec import structs

from enhance.generators.offline import markdown
from enhance.generators.offline.composing import Draft
from enhance.model import Material
from enhance.validators import check_plugin

_ROUNDS = 5
_RESOURCE = re.compile(r"(?<![\w./\\}$~-])(?:\./)?((?:scripts|references|assets)/[\w./@+-]*\w)")


def settled(draft: Draft, material: Material) -> Draft | str:
    """Return a draft in which the rules find no error, or why there can be none."""
    path = f"skills/{draft.name}/SKILL.md".encode()
    text = _rooted(draft.text, frozenset(file.decode("utf-8", "replace") for file in material.plugin.files))
    for _ in range(_ROUNDS):
        findings = check_plugin({path: text.encode()}, material.plugin, material.profile, proposed=[path])
        wrong = [
            one for one in findings if one.path.endswith("SKILL.md") and (one.level == "error" or one.rule == "SK018")
        ]
        if not wrong:
            return structs.replace(draft, text=text)
        less = without(text, {one.line for one in wrong})
        if less == text:
            return f"a skill from its texts breaks {wrong[0].rule}: {wrong[0].message}"
        text = less
    return "a skill from its texts breaks the rules"


def _rooted(text: str, files: frozenset[str]) -> str:
    """Write paths of the plugin's own scripts so that they are found from a skill's directory as well."""

    def put(found: re.Match[str]) -> str:
        return f"${{CLAUDE_PLUGIN_ROOT}}/{found[1]}" if found[1] in files else found[0]

    head, mark, body = text.partition("\n---\n")
    return head + mark + _RESOURCE.sub(put, body)


def without(text: str, lines: Collection[int]) -> str:
    """Return a skill without the blocks in which these lines stand, counted from 1, and without headings left alone.

    A line in the head, or 0, takes the last section instead: then there is too much, not something wrong.
    """
    all_lines = text.split("\n")
    first = next((number for number, line in enumerate(all_lines) if number and line == "---"), -1) + 1
    body = all_lines[first:]
    spans = markdown.spans(body)
    gone: set[int] = set()
    for line in lines:
        at = line - 1 - first
        if at < 0:
            start = max(
                (start for start, _, kind in spans if kind == "heading_open" and body[start].startswith("## ")),
                default=0,
            )
            gone |= set(range(start, len(body))) if start else set()
        for start, end, kind in spans:
            if start <= at < end and kind != "heading_open":
                gone |= set(range(start, end))
            elif start <= at < end:
                gone |= set(_section_of(start, spans, body))
    kept = [line for number, line in enumerate(body) if number not in gone]
    return "\n".join([*all_lines[:first], *_no_empty_headings(kept)])


def _section_of(start: int, spans: list[tuple[int, int, str]], body: list[str]) -> range:
    """The lines of the section that a heading opens."""
    level = len(body[start]) - len(body[start].lstrip("#"))
    for other, _, kind in spans:
        if other > start and kind == "heading_open" and len(body[other]) - len(body[other].lstrip("#")) <= level:
            return range(start, other)
    return range(start, len(body))


def _no_empty_headings(body: list[str]) -> list[str]:
    """Drop headings with nothing below them, innermost first, and blank lines in a row."""
    for _ in range(6):
        heads = [
            (start, len(body[start]) - len(body[start].lstrip("#")))
            for start, _, kind in markdown.spans(body)
            if kind == "heading_open"
        ]
        empty = {
            start
            for number, (start, level) in enumerate(heads)
            if level > 1
            and not "".join(body[start + 1 : heads[number + 1][0] if number + 1 < len(heads) else len(body)]).strip()
            and (number + 1 == len(heads) or heads[number + 1][1] <= level)
        }
        if not empty:
            break
        body = [line for number, line in enumerate(body) if number not in empty]
    return [*re.sub(r"\n{3,}", "\n\n", "\n".join(body)).rstrip("\n").split("\n"), ""]
