"""A whole SKILL.md: its head, its opening, and as many of its plugin's sections as there is room for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

from enhance.frontmatter import dump_frontmatter
from enhance.generators.offline import rendering, units, wording
from enhance.generators.offline.describing import describe
from enhance.generators.offline.rendering import Rendered
from enhance.generators.offline.sources import Page, Sources
from enhance.generators.offline.topics import RANK, Unit
from enhance.generators.offline.words import STOP, VERBS

ROOMS: dict[str, int] = {"marketplace": 13_400, "portable": 13_400, "claude-code": 13_400}
"""Bytes of a SKILL.md by profile: below the marketplace's 14,000, and well below 5,000 tokens."""
MOST_LINES = 460
_CAPS = (12_000, 8_000, 6_000, 4_500, 3_600, 2_900, 2_300, 1_800, 1_400, 1_000)
_LEAST_BODY = 100
_MOST_TITLES = 6
_MOST_SOURCES = 40
_ENOUGH = 0.7
_TRIES = 8
_SHORT_TEXT = 1_500
_VAGUE = frozenset(
    {"task", "tasks", "tool", "tools", "generator", "builder", "manager", "setup", "code", "plugin", "helper"}
)
_VAGUE |= {"automation", "creator", "system", "production", "configuration", "configurations", "devops", "intelligent"}
_LESS = 0.85
_RICH = 9_000
_FOR_THE_REST = 500
_TABLE_FROM = 3
_LEAD_ROOM = 700
_LEAD_SENTENCES = 4
_SAME = 0.55


class Part(Struct, frozen=True):
    """What one skill is about: its name, and the commands and agents that it speaks of."""

    name: str
    components: tuple[Page, ...]
    whole: bool = True
    """Whether that is all of the plugin, so that README, hooks and servers belong to it."""


class Draft(Struct, frozen=True):
    """A skill as it was put together. `sources` are the paths that something was taken from."""

    name: str
    description: str
    text: str
    sections: tuple[str, ...]
    sources: tuple[str, ...]


def compose(part: Part, sources: Sources, profile: str, stamp: Mapping[str, str]) -> Draft | str:
    """Put a skill together, or say why there is none."""
    description = describe(sources, part.components, whole=part.whole)
    if not description:
        return "its texts do not say what it does"
    opening, heading = _opening(part, sources), _heading(part, sources)
    openers = _openers(part.components)
    likely = [page.path for page in part.components] + [sources.readme.path if sources.readme else ""]
    room = ROOMS[profile] - _FOR_THE_REST - rendering.size(heading)
    room -= sum(map(rendering.size, [_head(part, description, stamp, sources, likely), opening, *openers.values()]))
    found = _units(part, sources)
    sections: list[tuple[Unit, Rendered]] = []
    body = ""
    for _ in range(_TRIES):
        sections = _arranged(found, room, grouped=bool(openers), eager=False)
        if sum(text.size for _, text in sections) < room * _ENOUGH:
            sections = _arranged(found, room, grouped=bool(openers), eager=True)
        body = _body(heading, opening, openers, sections)
        if body.count("\n") <= MOST_LINES:
            break
        room = int(room * _LESS)
    further = _further(sections)
    if not sections or len(body.strip()) < _LEAST_BODY + len(heading):
        return "there is too little in its texts for a skill"
    if _fits_any_plugin(part, sources, sections):
        return "what its texts say beyond the description would fit any plugin"
    used = list(dict.fromkeys([*(unit.path for unit, _ in sections), *(page.path for page in part.components)]))
    if part.whole and sources.readme and sources.readme.path not in used:
        used.append(sources.readme.path)
    head = _head(part, description, stamp, sources, used)
    if rendering.size(head) + rendering.size(body) + rendering.size(further) < ROOMS[profile]:
        body = f"{body.rstrip()}\n\n{further}"
    titles = tuple(unit.section.title for unit, _ in sections)
    return Draft(part.name, description, f"{head}\n{body.rstrip()}\n", titles, tuple(used))


def _fits_any_plugin(part: Part, sources: Sources, sections: Sequence[tuple[Unit, Rendered]]) -> bool:
    """Whether short sections hold none of the words that the plugin is named and described with."""
    said = re.sub(r"`[^`\n]*`|^#.*$", "", "\n".join(text.text for _, text in sections), flags=re.MULTILINE).lower()
    if len(said) > _SHORT_TEXT or not said.isascii():
        return False
    told = " ".join(
        [part.name, sources.description, *sources.keywords, *(page.description for page in part.components)]
    )
    own = {word[:6] for word in re.findall(r"[a-z0-9]{3,}", told.lower())} - {
        word[:6] for word in STOP | VERBS | _VAGUE
    }
    return bool(own) and not any(word in said for word in own)


def _body(heading: str, opening: str, openers: Mapping[str, str], sections: Sequence[tuple[Unit, Rendered]]) -> str:
    """The parts of a skill below its head, in order; each component's opener before the first of its sections."""
    pieces, open_to = [f"# {heading}", opening], dict(openers)
    for unit, text in sections:
        pieces += [open_to.pop(unit.owner, ""), text.text]
    return "\n\n".join(piece for piece in pieces if piece)


def _head(part: Part, description: str, stamp: Mapping[str, str], sources: Sources, used: Sequence[str]) -> str:
    """The frontmatter: what it is, and what it was made from."""
    told = "; ".join(
        f"{path} sha256:{sources.hashes[path][:16]}" for path in used[:_MOST_SOURCES] if path in sources.hashes
    )
    head = {"name": part.name, "description": description, "metadata": {**stamp, "sources": told}}
    return dump_frontmatter(head).decode()


# The opening


def _heading(part: Part, sources: Sources) -> str:
    candidates = []
    if part.whole and sources.readme:
        candidates.append(sources.readme.body.title)
    if len(part.components) == 1:
        candidates.append(part.components[0].body.title)
    for text in candidates:
        clean = re.sub(r"(?i)\s+(?:claude code )?plugin$", "", wording.plain(text)).strip()
        if clean and len(clean) <= 70 and not re.search(r"(?i)executor$|template$", clean):
            return wording.title(clean) if clean == clean.lower() else clean
    return wording.title(part.name)


def _opening(part: Part, sources: Sources) -> str:
    """What it is in a few sentences, and how it is called."""
    candidates: list[str] = []
    if len(part.components) == 1:
        candidates += units.introduction(part.components[0])
    if part.whole and sources.readme:
        candidates += units.introduction(sources.readme)
    if part.whole:
        candidates.append(sources.description)
    candidates += [page.description for page in part.components if len(part.components) == 1]
    said: list[str] = []
    known: set[str] = set()
    for text in candidates:
        clean = re.sub(r"^\*\*(.+)\*\*$", r"\1", text.strip())
        words = set(re.findall(r"\w+", clean.lower()))
        if len(words) < 4 or len(words & known) > _SAME * len(words):
            continue
        if len(said) >= _LEAD_SENTENCES or sum(map(len, said)) + len(clean) > _LEAD_ROOM:
            break
        known |= words
        said.append(clean if clean[-1] in ".!?" else clean + ".")
    pieces = [" ".join(said)] if said else []
    if len(part.components) == 1 and (call := _call(part.components[0])):
        pieces.append(call)
    elif len(part.components) > 1:
        pieces.append(_overview(part.components))
    return "\n\n".join(piece for piece in pieces if piece)


def _call(page: Page) -> str:
    from enhance.generators.offline.sources import line

    if page.kind == "agent":
        return f"The work is that of the agent `{page.name}` (`{page.path}`)."
    hint = line(page.head.get("argument-hint")) or line(page.head.get("usage"))
    call = hint if hint.startswith("/") else f"/{page.name} {hint}".strip()
    short = line(page.head.get("shortcut")).lstrip("/")
    named = f", or `/{short}` for short" if re.fullmatch(r"[\w-]{1,20}", short) and short != page.name else ""
    return f"The command is `{call.replace('`', '')}`{named} (`{page.path}`)."


def _overview(components: Sequence[Page]) -> str:
    """The commands and agents at a glance: a table of many, a list of few."""
    rows = []
    for page in components:
        name = f"`/{page.name}`" if page.kind == "command" else f"`{page.name}`"
        said = page.description or next(iter(units.introduction(page)), "") or page.body.title
        rows.append((name, page.kind, _shortened(wording.plain(said))))
    if len(rows) >= _TABLE_FROM:
        kinds = len({kind for _, kind, _ in rows}) > 1
        head = (
            "| Name | Kind | What it does |\n|---|---|---|"
            if kinds
            else f"| {rows[0][1].title()} | What it does |\n|---|---|"
        )
        return "\n".join(
            [
                head,
                *(f"| {name} | {kind + ' | ' if kinds else ''}{said.replace('|', '/')} |" for name, kind, said in rows),
            ]
        )
    return "\n".join(f"- {name} ({kind}): {said}" for name, kind, said in rows)


def _openers(components: Sequence[Page]) -> dict[str, str]:
    """What stands before the sections of each component, where there are several: a heading and first words."""
    if len(components) < 2:
        return {}
    found = {}
    for page in components:
        name = f"`/{page.name}`" if page.kind == "command" else f"agent `{page.name}`"
        title = wording.plain(page.body.title)
        head = f"## {title} ({name})" if title and len(title) <= 80 else f"## {name[:1].upper()}{name[1:]}"
        said = [
            text
            for text in units.introduction(page)[:2]
            if wording.plain(text)[:60] not in wording.plain(page.description)
        ]
        found[page.path] = "\n\n".join([head, " ".join(said)]).strip()
    return found


def _shortened(text: str) -> str:
    return text if len(text) <= 220 else text[:220].rsplit(" ", 1)[0] + " …"


# The sections


def _units(part: Part, sources: Sources) -> list[Unit]:
    """All that could be said, the best first within each owner, nothing of it twice."""
    found: list[Unit] = []
    shares = _shares(part.components)
    for page in part.components:
        found += units.of_page(page, shares[page.path])
    if part.whole:
        if sources.readme:
            rich = sum(page.size for page in part.components) > _RICH
            told = units.of_page(sources.readme, 0.8 if part.components else 1.0)
            found += [unit for unit in told if not (rich and unit.topic in {"can", "usage"})]
        found += units.facts(sources)
        if sum(rendering.size(units.text_of(unit.section)) for unit in found) < ROOMS["marketplace"]:
            for page in sources.pages[:12]:
                found += units.of_page(page, 0.4)
    names = {f"/{page.name}" for page in part.components}
    found = [unit for unit in found if not _only_calls(unit, names, sources, part)]
    return units.distinct(found)


def _shares(components: Sequence[Page]) -> dict[str, float]:
    """What each component's sections are worth: those of the larger a little more."""
    largest = max((page.size for page in components), default=1) or 1
    return {page.path: 0.85 + 0.15 * page.size / largest for page in components}


def _only_calls(unit: Unit, names: set[str], sources: Sources, part: Part) -> bool:
    """Whether a section of the README says nothing but which commands there are, which the opening has said."""
    if unit.owner or not (part.components and sources.readme and unit.path == sources.readme.path):
        return False
    if unit.topic != "usage":
        return False
    words = re.sub(r"[`#|*:_-]", " ", units.text_of(unit.section)).split()
    rest = [word for word in words if word not in names and not word.startswith("/")]
    listed = all(block.kind in {"table", "list"} for block in unit.section.blocks) and not unit.section.children
    return len(rest) < 12 or (listed and unit.section.title.lower().startswith("command"))


def _arranged(found: Sequence[Unit], room: int, *, grouped: bool, eager: bool) -> list[tuple[Unit, Rendered]]:
    """The sections that fit, in the order of reading. Much is condensed before anything is left out."""
    levels = [3 if grouped and unit.owner else 2 for unit in found]
    whole = [rendering.unit(unit, level, _CAPS[0], eager=eager) for unit, level in zip(found, levels, strict=True)]

    def within(number: int, cap: int) -> Rendered:
        return (
            whole[number]
            if whole[number].size <= cap
            else rendering.unit(found[number], levels[number], cap, eager=eager)
        )

    texts = whole
    for cap in _CAPS[1:]:
        if sum(text.size + 2 for text in texts) <= room:
            break
        texts = [within(number, cap) for number in range(len(found))]
    best = _by_worth(found)
    kept: dict[int, Rendered] = {}
    left = room
    for number in best:
        smallest = texts[number]
        for cap in reversed(_CAPS):
            if smallest.text:
                break
            smallest = within(number, cap)
        if smallest.text and smallest.size + 2 <= left:
            kept[number] = smallest
            left -= smallest.size + 2
    for cap in reversed(_CAPS):
        for number in best:
            if number in kept and kept[number].left and left > _LEAST_BODY:
                longer = within(number, cap)
                if 0 < longer.size - kept[number].size <= left:
                    left -= longer.size - kept[number].size
                    kept[number] = longer
    return [(found[number], kept[number]) for number in _in_order(found, kept)]


def _by_worth(found: Sequence[Unit]) -> list[int]:
    """What is kept first: of several commands and agents the best section of each, then the second of each."""
    ranked = sorted(range(len(found)), key=lambda number: (-found[number].worth, number))
    if len({unit.owner for unit in found if unit.owner}) < 2:
        return ranked
    turns: dict[str, int] = {}
    turn = {}
    for number in ranked:
        turn[number] = turns[found[number].owner] = turns.get(found[number].owner, -1) + 1
    return sorted(ranked, key=lambda number: turn[number])


def _further(sections: Sequence[tuple[Unit, Rendered]]) -> str:
    """Where the rest stands, if there was no room for it."""
    rest: dict[str, list[str]] = {}
    for unit, text in sections:
        rest.setdefault(unit.path, []).extend(title or unit.section.title for title in text.left)
    lines = []
    for path, titles in rest.items():
        known = list(dict.fromkeys(titles))
        if known:
            more = f" and {len(known) - _MOST_TITLES} more" if len(known) > _MOST_TITLES else ""
            lines.append(f"- `{path}`: {', '.join(known[:_MOST_TITLES])}{more}")
    return "\n".join(["## In full in the plugin's files", "", *lines]) if lines else ""


def _in_order(found: Sequence[Unit], kept: Mapping[int, Rendered]) -> list[int]:
    """Sections by owner, and by what a reader wants first; texts of no owner stand where their topic belongs."""
    owners = list(dict.fromkeys(unit.owner for unit in found if unit.owner))

    def place(number: int) -> tuple[int, int, int, int]:
        unit = found[number]
        rank = RANK[unit.topic]
        if len(owners) <= 1:
            return (rank, 0 if unit.owner else 1, 0, number)
        if unit.owner:
            return (3, owners.index(unit.owner), rank, number)
        return (rank if rank < 3 else rank + 1, 0, 0, number)

    return sorted(kept, key=place)
