"""Findings for people and for programs: text and JSON. SARIF is in `enhance.sarif`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from enhance.model import Finding
from enhance.validators.rules import RULES


def to_json(findings: Sequence[Finding], *, plugins: int, skills: int) -> dict[str, Any]:
    """Return the object that `drkit enhance validate --json` prints."""
    return {
        "findings": [
            {"rule": one.rule, "level": one.level, "path": one.path, "message": one.message, "line": one.line}
            for one in findings
        ],
        "plugins": plugins,
        "skills": skills,
    }


def to_text(findings: Sequence[Finding], *, plugins: int, skills: int) -> str:
    """Return a line for each finding, then a line for each rule that was broken, then the sums."""
    return "\n".join(_lines(findings, plugins, skills)) + "\n"


def _lines(findings: Sequence[Finding], plugins: int, skills: int) -> Iterator[str]:
    for one in findings:
        where = f"{one.path}:{one.line}" if one.line else one.path
        yield f"{where}: {one.level} {one.rule} {_one_line(one.message)}"
    if findings:
        yield ""
    for (rule, level), count in sorted(Counter((one.rule, one.level) for one in findings).items()):
        yield f"{count:6}  {rule} {level:7}  {RULES[rule].text}"
    if findings:
        yield ""
    errors = sum(one.level == "error" for one in findings)
    yield f"{plugins} plugins, {skills} skills: {errors} errors, {len(findings) - errors} warnings"


def _one_line(message: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in message)
