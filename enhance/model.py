"""The words of the enhancement stage as types: plugins and their material, plans, proposals, findings, statuses."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct, field

RuleLevel = Literal["error", "warning"]


class Finding(Struct, frozen=True):
    """A rule that a file breaks. `path` is relative to the source and for people; `line` is 0 where none applies."""

    rule: str
    level: RuleLevel
    path: str
    message: str
    line: int = 0


class Plugin(Struct, frozen=True):
    """A plugin as it lies on the disk. `path` is relative to the source, empty for the source itself: its only key.

    `name` is the manifest's, or the directory's where there is none or it cannot be read. `category` is the
    marketplace entry's, or the name of the directory above. `files` are the regular files of this plugin, relative
    to it and sorted, without those of plugins nested in it. `problems` says what is wrong with its manifest.
    """

    path: bytes
    name: str
    category: str
    manifest: Mapping[str, Any]
    files: tuple[bytes, ...]
    problems: tuple[Finding, ...] = ()


class Material(Struct, frozen=True):
    """What a generator may know of a plugin: its own texts and nothing else.

    `texts` holds, by path relative to the plugin, every UTF-8 text file that is not a placeholder, each cut at a
    documented size; `sizes` the true sizes in bytes. What enhance wrote itself and nobody changed since is in
    neither. `input_sha256` identifies all of it. `thin` says that there is less than the profile asks for.
    """

    plugin: Plugin
    profile: str
    texts: Mapping[bytes, str]
    sizes: Mapping[bytes, int]
    input_sha256: str
    thin: bool
    findings: tuple[Finding, ...] = ()


class PlannedSkill(Struct, frozen=True):
    """A skill to be written: its directory's name, what it does and when to use it, and the files it draws on."""

    name: str
    description: str
    sections: tuple[str, ...] = ()
    grounds: tuple[str, ...] = ()
    allowed_tools: tuple[str, ...] = ()


class Plan(Struct, frozen=True):
    """The result of phase 1 for one plugin. No skills means that nothing is to be written; `reason` says why."""

    skills: tuple[PlannedSkill, ...]
    reason: str = ""


class Proposal(Struct, frozen=True):
    """The result of phase 2: whole contents by path relative to the plugin, as the generator would have them."""

    files: Mapping[bytes, bytes]
    notes: tuple[str, ...] = ()


class Status(enum.StrEnum):
    """Where a plugin is in a run. A finished run leaves only those of `FINAL`."""

    PENDING = "pending"
    PLANNED = "planned"
    GENERATED = "generated"
    VALIDATED = "validated"
    APPLIED = "applied"
    VERIFIED = "verified"
    SKIPPED = "skipped"
    FAILED = "failed"
    PARKED = "parked"
    ROLLED_BACK = "rolled_back"


FINAL = frozenset({Status.VERIFIED, Status.SKIPPED, Status.FAILED, Status.PARKED, Status.ROLLED_BACK})


class Usage(Struct, frozen=True):
    """What a call cost: tokens in and out, and money in US dollars where the configuration states prices."""

    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0


class Reply(Struct, frozen=True):
    """A generator's raw answer. It is stored before anything looks into it.

    `finish_reason` is "stop" when the answer is whole, else the provider's word in lower case: "max_tokens",
    "safety", "recitation", "blocked", "other".
    """

    text: str
    finish_reason: str
    usage: Usage = Usage()
    details: Mapping[str, Any] = field(default_factory=dict)
