"""Which skills a plugin is to have: none where it has its own, one as a rule, several where it is a collection."""

from __future__ import annotations

import re
from collections.abc import Sequence

from enhance.generators.offline import cleaning, wording
from enhance.generators.offline.composing import Part
from enhance.generators.offline.sources import Page, Sources
from enhance.model import Material

_GROUP_FROM = 6_000
"""Bytes that a part of a collection must have for a skill of its own."""
_COMMAND_FROM = 12_000
"""Bytes that every command and agent must have for skills of their own."""
_MOST = 24


def reason_against(material: Material) -> str:
    """Say why a plugin needs no skill, before its texts are read; empty if it may need one."""
    if existing := [path for path in material.texts if path.rsplit(b"/", 1)[-1] == b"SKILL.md"]:
        return f"it has {'a skill' if len(existing) == 1 else f'{len(existing)} skills'} already"
    return ""


def parts(material: Material, sources: Sources) -> tuple[list[Part], str]:
    """Return the skills to be written, or none and the reason."""
    if sources.announced:
        return [], "it is announced only: there is no command, agent, hook, server or script in it"
    if not (sources.components or sources.readme or sources.pages or sources.hooks or sources.servers):
        return [], "it has no text to write from"
    taken = {path.split(b"/")[-2].decode("utf-8", "replace") for path in material.sizes if path.endswith(b"/SKILL.md")}
    found = _collection(material, sources) or _capabilities(sources)
    if not found:
        functions = [page.name for page in sources.components if "-" in page.name]
        functions += [sources.description, *(page.description for page in sources.components)]
        functions += [material.plugin.category]
        found = [Part(wording.skill_name(_harmless(material.plugin.name), functions), sources.components)]
    return _unique(found, taken), ""


def _collection(material: Material, sources: Sources) -> list[Part]:
    """A skill for each part of a collection that keeps its parts in directories of their own."""
    groups: dict[str, list[Page]] = {}
    for page in sources.components:
        groups.setdefault(page.group, []).append(page)
    if not 2 <= len(groups) <= _MOST or any(
        sum(page.size for page in found) < _GROUP_FROM for found in groups.values()
    ):
        return []
    stem = re.sub(
        r"-(?:starter-)?(?:pack|kit|collection|suite|bundle)$", "", wording.kebab(_harmless(material.plugin.name))
    )
    found = []
    for group, pages in groups.items():
        own = re.sub(r"^[0-9]+-", "", wording.kebab(group.rsplit("/", 1)[-1]))
        wanted = own if "-" in own else "-".join(filter(None, [stem, own]))
        found.append(Part(wording.skill_name(wanted, [page.name for page in pages]), tuple(pages), whole=False))
    return found


def _capabilities(sources: Sources) -> list[Part]:
    """A skill for each command or agent, if each is named after what it does and has much to say."""
    pages: Sequence[Page] = sources.components
    if not 2 <= len(pages) <= _MOST or any(page.size < _COMMAND_FROM or "-" not in page.name for page in pages):
        return []
    return [Part(wording.skill_name(page.name, [page.body.title]), (page,), whole=False) for page in pages]


def _harmless(name: str) -> str:
    """A name, empty if it is none but says something that no skill may say."""
    return "" if cleaning.hazard(name) or cleaning.hazard(wording.kebab(name).replace("-", " ")) else name


def _unique(found: Sequence[Part], taken: set[str]) -> list[Part]:
    """Give every part a name that no skill there has."""
    named: list[Part] = []
    used = set(taken)
    for part in found:
        others = [page.name for page in part.components if wording.kebab(page.name) != part.name]
        others += ["guide", *(str(number) for number in range(2, 100))]
        name = part.name
        for other in others:
            if name not in used:
                break
            name = wording.skill_name(f"{part.name[:48]}-{other}", [])
        used.add(name)
        named.append(Part(name, part.components, part.whole))
    return named
