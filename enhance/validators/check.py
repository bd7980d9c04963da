"""The two ways to hold files against the rules: a whole source from the disk, and one plugin with what is proposed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence

from drkit.errors import UsageError
from enhance.discover import SKILL, Discovery, shown
from enhance.model import Finding, Material, Plugin
from enhance.validators import components, manifest, marketplace, skill_body, skill_dir, skill_frontmatter
from enhance.validators.rules import PROFILES, RULES, Found, finding
from enhance.validators.view import Contents, View

NOTHING: frozenset[bytes] = frozenset()


def check_plugin(
    files: Contents, plugin: Plugin, profile: str, *, proposed: Collection[bytes] = NOTHING
) -> list[Finding]:
    """Hold one plugin's files, by paths relative to it, against the rules of a profile.

    `files` is the plugin as it would be: staged content over `Discovery.contents(plugin)`. Findings in paths of
    `proposed`, also relative, get the stricter levels. Of `plugin` only path and name are looked at, so problems
    that are gone with the staged files are not found again.
    """
    view = View(plugin, files, known_profile(profile))
    proposed = frozenset(proposed)
    return _levelled(_every_rule(view), plugin, profile, proposed)


def check_source(source: bytes, discovery: Discovery, profile: str) -> list[Finding]:
    """Hold all that was discovered against the rules of a profile: what `drkit enhance validate` tells.

    Findings come by plugin, in the order of paths, then those of marketplaces and of skills outside of any plugin.
    """
    known_profile(profile)
    found: list[Finding] = list(discovery.findings)
    for plugin in discovery.plugins:
        told = {(one.rule, one.path) for one in plugin.problems}
        found += plugin.problems
        inside = check_plugin(discovery.contents(plugin), plugin, profile)
        found += [one for one in inside if (one.rule, one.path) not in told]
    found += marketplace.check(discovery)
    if discovery.loose:
        rest = Plugin(b"", os.path.basename(source).decode("utf-8", "backslashreplace"), "", {}, discovery.loose)
        view = View(rest, {path: discovery.files[path] for path in discovery.loose}, profile)
        found += _levelled(_skill_rules(view), rest, profile, NOTHING)
    return found


def meets(findings: Sequence[Finding], material: Material) -> bool:
    """Whether a plugin needs nothing from a generator: it has a skill, and no skill has an error.

    `findings` are those of the plugin under the material's profile. A SKILL.md that is too short for the profile
    counts only where there is material to make it longer; one that is too long never does, for nothing is cut.
    """
    if not any(os.path.basename(path) == SKILL for path in material.plugin.files):
        return False
    for one in findings:
        if one.rule.startswith("SK") and one.level == "error":
            return False
        if one.rule == "MP001" and one.message.startswith(skill_body.TOO_SHORT) and not material.thin:
            return False
    return True


def known_profile(profile: str) -> str:
    """Return a profile's name if there is such a profile, else UsageError."""
    if profile not in PROFILES:
        raise UsageError(f"there is no profile {profile!r}", hint=f"choose one of {', '.join(PROFILES)}")
    return profile


def _every_rule(view: View) -> Iterator[Found]:
    yield from manifest.check(view)
    yield from components.check(view)
    yield from _skill_rules(view)


def _skill_rules(view: View) -> Iterator[Found]:
    for directory in view.skill_dirs():
        yield from skill_dir.check(view, directory)
        path = directory + b"/" + SKILL if directory else SKILL
        if not view.is_file(path):
            continue
        yield from skill_frontmatter.check(view, path)
        yield from skill_body.check(view, path)
    yield from skill_dir.check_siblings(view)


def _levelled(found: Iterator[Found], plugin: Plugin, profile: str, proposed: frozenset[bytes]) -> list[Finding]:
    return [
        finding(one, shown(plugin, one.path), proposed=one.path in proposed)
        for one in found
        if profile in RULES[one.rule].profiles
    ]
