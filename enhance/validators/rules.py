"""The rules as data: id, level, source, profiles, text. What each one means in bytes is in the files beside this."""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import Struct

from enhance.model import Finding, RuleLevel
from enhance.validators import standards

PROFILES = ("portable", "claude-code", "marketplace")
"""`portable` is the Agent Skills specification, `claude-code` allows Claude Code's keys too, `marketplace` is
`portable` and a length."""

SOURCES = {
    "AS": "Agent Skills specification (agentskills.io)",
    "QV": "Anthropic's quick_validate",
    "CC": "Claude Code documentation",
    "API": "limits of the skills API",
    "BP": "published best practices",
    "OWN": "drkit",
}


class Rule(Struct, frozen=True):
    """One rule. `proposed` is the level for files that a generator proposes, where it is not `level`."""

    id: str
    text: str
    level: RuleLevel
    source: str
    proposed: RuleLevel | None = None
    profiles: tuple[str, ...] = PROFILES


def _error(number: str, source: str, text: str) -> Rule:
    return Rule(number, text, "error", source)


def _warning(number: str, source: str, text: str, *, proposed: RuleLevel | None = None) -> Rule:
    return Rule(number, text, "warning", source, proposed)


RULES: dict[str, Rule] = {
    rule.id: rule
    for rule in (
        _error("SK001", "AS", "a skill directory has a SKILL.md, and it is a regular file"),
        _error("SK002", "AS", "SKILL.md is UTF-8 without BOM or NUL and begins with a line `---`, not a code fence"),
        _error(
            "SK003", "AS", "the frontmatter closes with `---` and is a YAML mapping: no repeated keys, aliases or tags"
        ),
        _error("SK004", "AS", "`name` is there and has 1 to 64 characters"),
        _error("SK005", "AS", "`name` is words of a-z and 0-9 joined by single hyphens"),
        _error("SK006", "AS", "`name` is the name of the directory"),
        _error("SK007", "API", "`name` contains neither `anthropic` nor `claude`"),
        _error("SK008", "AS", "`description` is there and has 1 to 1,024 characters"),
        _error("SK009", "QV", "`description` has no `<` or `>`"),
        _warning("SK010", "AS", "`description` says what the skill does and when to use it"),
        _warning("SK011", "BP", "`description` is in the third person"),
        _error("SK012", "AS", "the frontmatter has no keys that the profile does not know"),
        _error("SK013", "AS", "`compatibility` has 1 to 500 characters"),
        _warning("SK014", "AS", "`metadata` maps strings to strings"),
        _warning("SK015", "AS", "`license` is short; if it names a file, the file exists"),
        _warning("SK016", "AS", "`allowed-tools` is a string with spaces between the tools"),
        _warning("SK017", "CC", "each allowed tool is known, and Bash is scoped"),
        _warning("SK018", "AS", "SKILL.md has at most 500 lines"),
        _warning(
            "SK019",
            "AS",
            "the body is under 5,000 tokens; `description` and `when_to_use` are at most 1,536 characters",
        ),
        _error("SK020", "OWN", "the body has at least 100 characters"),
        _error("SK021", "OWN", "every code fence is closed"),
        _warning(
            "SK022", "OWN", "there are no placeholders (TODO, FIXME, [Your, [INSERT, lorem ipsum)", proposed="error"
        ),
        _error(
            "SK023", "AS", "references to scripts/, references/, assets/ exist, are relative, inside, one level deep"
        ),
        _error("SK024", "BP", "there are no backslash paths and no absolute home or drive paths"),
        _warning(
            "SK025", "OWN", "resource directories hold real files, not only a README of open boxes", proposed="error"
        ),
        _warning("SK026", "BP", "a reference file of over 100 lines begins with a table of contents"),
        _error("SK027", "OWN", "there are no invisible or direction-changing characters"),
        _error(
            "SK028",
            "OWN",
            "no instructions in HTML comments, no download piped to a shell, no encoded code, no secrets",
        ),
        _warning("SK029", "OWN", "names of skills are unique in a plugin, and no skill nearly repeats another"),
        _error("SK030", "API", "a skill's directory is under 30 MB"),
        _error("PM001", "CC", "`.claude-plugin/plugin.json`, if there is one, is a JSON object in a regular file"),
        _error("PM002", "CC", "the manifest's `name` is not empty; it is in kebab-case (else a warning)"),
        _error("PM003", "CC", "the manifest's values have the right types"),
        _warning("PM004", "CC", "the manifest has no unknown keys"),
        _warning("PM005", "CC", "the manifest's `version` is a semantic version"),
        _error("PM006", "CC", "component paths begin with `./`, have no `..`, and exist"),
        _error("PM007", "CC", "`.claude-plugin/` holds only manifests; components stand at the plugin's root"),
        _warning("PM008", "OWN", "the README is not empty, and there is at least one component"),
        _error("CM001", "CC", "a command's frontmatter can be read; it has a `description` (else a warning)"),
        _error("AG001", "CC", "an agent's frontmatter can be read and has `name` and `description`"),
        _error("HK001", "CC", "hooks are valid JSON with known events and pipe no download to a shell"),
        _error("MK001", "CC", "a marketplace has a kebab-case name that is not reserved, `owner.name`, and `plugins`"),
        _error("MK002", "CC", "an entry has a unique name and a source that exists; its version is the plugin's"),
        _warning("MK003", "OWN", "every plugin below a marketplace is listed in it"),
        Rule("MP001", "SKILL.md has 8,000 to 14,000 bytes", "warning", "OWN", profiles=("marketplace",)),
    )
}


class Found(Struct, frozen=True):
    """A broken rule before it has a level: `path` is relative to the plugin. `warn` lowers an error's level."""

    rule: str
    path: bytes
    message: str
    line: int = 0
    warn: bool = False


def finding(found: Found, path: str, *, proposed: bool = False) -> Finding:
    """Give a broken rule its level; `path` is how it is shown."""
    rule = RULES[found.rule]
    level: RuleLevel = "warning" if found.warn else rule.level
    if proposed and rule.proposed is not None:
        level = rule.proposed
    return Finding(found.rule, level, path, found.message, found.line)


REVISION = 1
"""Raised when a check finds other things than before although its rule reads the same."""

_WORDS = {name: value for name, value in vars(standards).items() if name.isupper()}
STANDARDS_SHA256 = hashlib.sha256(
    msgspec.json.encode([REVISION, PROFILES, list(RULES.values()), sorted(_WORDS.items())])
).hexdigest()
"""Identifies the rules. A part of the cache's key: what was made to other rules is validated anew."""
