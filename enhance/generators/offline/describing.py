"""A skill's description: what it does, and when to use it, in the plugin's own words and the third person."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from enhance.generators.offline import wording
from enhance.generators.offline.markdown import Section
from enhance.generators.offline.sources import Page, Sources, lines
from enhance.generators.offline.topics import topic_of
from enhance.generators.offline.units import introduction

LONGEST = 1024
_ROOM = 640
_ITEM = 110
_MOST_ITEMS = 4
_FEWEST_WORDS = 2
_NOT = re.compile(r"(?i)\b(?:not|don'?t|avoid|never|instead|unless|skip)\b")
_LABEL = re.compile(r"^\s*(?:\*\*|__)?\s*([^*:]{3,60}?)\s*:?\s*(?:\*\*|__)?\s*(?:[:–—]|\s-\s)\s*(?:\*\*)?\s*(.+)$", re.DOTALL)
_GENERIC = re.compile(r"(?i)^(?:execute|run) .{0,20}(?:task|command)s? with intelligent|^(?:a|an|this|the) plugin\W*$|^plugin for\W*$")


def describe(sources: Sources, components: Sequence[Page], *, whole: bool) -> str:
    """Return a description of at most 1,024 characters, empty if the texts do not say what the plugin does.

    `whole` says that the components are all of the plugin's, so that manifest and README speak of them.
    """
    what = _what(sources, components, whole=whole)
    if not what:
        return ""
    when = _when(sources, components, whole=whole)
    said = what if not when else f"{what} {when}"
    return said if len(said) <= LONGEST else what[:LONGEST]


def _what(sources: Sources, components: Sequence[Page], *, whole: bool) -> str:
    """The best sentence or two on what is done."""
    found: list[str] = []
    for text in _candidates(sources, components, whole=whole):
        clean = wording.plain(text).strip(" .:!-–—")
        if not usable(clean) or _GENERIC.search(clean):
            continue
        sentence = wording.third_person(clean)
        sentence = sentence[:1].upper() + sentence[1:] + "."
        if any(_overlap(sentence, other) > 0.5 for other in found):  # noqa: PLR2004
            continue
        if len(" ".join([*found, sentence])) > _ROOM * 0.6:
            if found:
                break
            sentence = _cut(sentence, LONGEST // 2)
        found.append(sentence)
        if len(found) == 2 or len(found[0]) > _ROOM // 3:  # noqa: PLR2004
            break
    return " ".join(found)


def usable(text: str) -> bool:
    """Whether a line can stand in a description: some words, and of nobody's person."""
    return len(text.split()) > _FEWEST_WORDS and not wording.speaks(text) and not text.endswith("?")


def _candidates(sources: Sources, components: Sequence[Page], *, whole: bool) -> Iterator[str]:
    if whole:
        yield sources.description
        yield from introduction(sources.readme)[:2] if sources.readme else ()
    for page in components[:3]:
        yield page.description
        yield from introduction(page)[:2]
    if not whole and components:
        yield components[0].body.title


def _when(sources: Sources, components: Sequence[Page], *, whole: bool) -> str:
    items = list(dict.fromkeys(item for page in components for item in when_items(page)))
    if not items and whole and sources.readme:
        items = when_items(sources.readme)
    calls = [f"/{page.name}" for page in components if page.kind == "command"]
    runs = "runs " + wording.joined(calls[:3], "or") if calls else ""
    orders = [item for item in items if wording.is_order(item)]
    others = [item for item in items if not wording.is_order(item)]
    if len(orders) >= max(1, len(others)):
        said = "Use when the task is to " + wording.joined([wording.lowered(item) for item in _fit(orders)], "or")
    elif others:
        clauses = [item for item in others if _is_clause(item)]
        if len(clauses) * 2 > len(others):
            said = "Use when " + wording.joined([wording.lowered(item) for item in _fit(clauses)], "or")
        else:
            nouns = [item for item in others if not _is_clause(item)]
            said = "Use when working on " + wording.joined([wording.lowered(item) for item in _fit(nouns)], "or")
    else:
        said = _from_descriptions(sources, components, whole=whole)
    if not said:
        return f"Use when the user {runs}." if runs else _from_keywords(sources)
    return said + (f", or when the user {runs}" if runs else "") + "."


def _from_descriptions(sources: Sources, components: Sequence[Page], *, whole: bool) -> str:
    """What somebody would ask for, told by the lines on the commands and agents."""
    texts = [page.description for page in components] + ([sources.description] if whole else [])
    asked = []
    for text in texts:
        clean = wording.plain(text).strip(" .:!")
        if wording.is_order(clean) and usable(clean) and not _GENERIC.search(clean):
            asked.append(wording.lowered(clean))
    asked = [one for number, one in enumerate(asked) if not any(_overlap(one, other) > 0.6 for other in asked[:number])]  # noqa: PLR2004
    return "Use when the user asks to " + wording.joined(_fit(asked)[:3], "or to") if asked else ""


def _from_keywords(sources: Sources) -> str:
    words = [word.replace("-", " ") for word in sources.keywords if len(word) > 2 and not wording.speaks(word)][:6]  # noqa: PLR2004
    return f"Use when the work is about {wording.joined(words, 'or')}." if words else ""


def when_items(page: Page) -> list[str]:
    """Return what a page says of when it is used, as short clean phrases."""
    found = [text.strip("\"' ") for text in lines(page.head.get("activation_triggers"))]
    found = [text for text in found if len(text.split()) > 1]
    for section in _sections(page.body.children):
        if section.title and topic_of(section.title) == "when" and not _NOT.search(section.title):
            found += [item for text in _list_items(section) if (item := _phrase(text))]
    return list(dict.fromkeys(found))


def _sections(found: Iterable[Section]) -> Iterator[Section]:
    for section in found:
        yield section
        yield from _sections(section.children)


def _list_items(section: Section) -> Iterator[str]:
    negative = False
    for block in section.blocks:
        if block.kind == "paragraph":
            negative = bool(_NOT.search(" ".join(block.parts)))
        elif block.kind == "list" and not negative:
            yield from (item.split("\n")[0] for item in block.parts)


def _phrase(text: str) -> str:
    """The part of a list's item that says the thing: a label if it is an order, else what follows it."""
    labelled = _LABEL.match(text)
    clean = wording.plain(text)
    if labelled and ("**" in text or "__" in text):
        label, rest = wording.plain(labelled[1]), wording.plain(labelled[2])
        clean = rest if wording.is_order(rest) and not wording.is_order(label) else label
    clean = re.sub(r"(?i)\s*\((?:e\.g\.|i\.e\.)?[^()]*\)", "", clean)
    clean = re.sub(r"(?i)\b(?:your|our|my)\b", "the", clean).strip(" .;:,!\"'")
    clean = re.sub(r"(?i)^(?:you|users?) (?:need|want|have) to ", "", clean)
    clean = re.sub(r"(?i)^(?:when |if )?(?:the )?users? ", "the user ", clean)
    if not clean or _NOT.search(clean) or wording.speaks(clean) or len(clean) > _ITEM or clean.startswith("/"):
        return ""
    return clean


def _is_clause(text: str) -> bool:
    """Whether a phrase has a verb of its own after its subject: "Costs exceed the budget"."""
    words = [word.strip(",").lower() for word in text.split()[1:6]]
    return any(word in {"is", "are", "was", "has", "have", "needs", "need", "must", "exceeds", "exceed", "fails", "requires"} for word in words) or (
        text.lower().startswith("the user ")
    )


def _fit(items: list[str]) -> list[str]:
    """As many phrases as there is room for."""
    kept: list[str] = []
    for item in items[:_MOST_ITEMS]:
        if kept and sum(map(len, kept)) + len(item) > _ROOM // 2:
            break
        kept.append(item)
    return kept


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[:room].rsplit(" ", 1)[0].rstrip(" ,;:-") + "."


def _overlap(one: str, other: str) -> float:
    words, others = set(re.findall(r"\w+", one.lower())), set(re.findall(r"\w+", other.lower()))
    return len(words & others) / max(1, min(len(words), len(others)))
