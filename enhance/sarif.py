"""Findings as SARIF 2.1.0, which code hosts show beside the lines that they are about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from enhance.model import Finding
from enhance.validators.rules import RULES, SOURCES

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def to_sarif(findings: Sequence[Finding], *, version: str) -> dict[str, Any]:
    """Return a SARIF log with one run. Paths are relative to the source, which the log calls SRCROOT."""
    rules = sorted(RULES)
    numbers = {rule: number for number, rule in enumerate(rules)}
    driver = {"name": "drkit enhance validate", "version": version, "rules": [_rule(rule) for rule in rules]}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "originalUriBaseIds": {"SRCROOT": {"description": {"text": "the source that was validated"}}},
                "results": [_result(one, numbers[one.rule]) for one in findings],
            }
        ],
    }


def _rule(rule_id: str) -> dict[str, Any]:
    rule = RULES[rule_id]
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.text},
        "fullDescription": {"text": f"{rule.text} (source: {SOURCES[rule.source]})"},
        "defaultConfiguration": {"level": rule.level},
    }


def _result(one: Finding, number: int) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": quote(one.path), "uriBaseId": "SRCROOT"}}
    if one.line:
        place["region"] = {"startLine": one.line}
    return {
        "ruleId": one.rule,
        "ruleIndex": number,
        "level": one.level,
        "message": {"text": one.message},
        "locations": [{"physicalLocation": place}],
    }
