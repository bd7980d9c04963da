"""A skill's description: what it does, and when to use it, in the plugin's own words and the third person."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from enhance.generators.offline import wording
from enhance.generators.offline.markdown import Section
from enhance.generators.offline.sources import Page, Sources, lines
from enhance.generators.offline.topics import is_stock, topic_of
from enhance.generators.offline.units import introduction

LONGEST = 1024
_ROOM = 640
_ITEM = 110
_MOST_ITEMS = 4
_FEWEST_WORDS = 2
_NOT = re.compile(r"(?i)\b(?:not|don'?t|avoid|never|instead|unless|skip)\b")
_NOT_WHEN = re.compile(r"(?i)\b(?:not|don'?t|avoid|vs|versus|mentions)\b")
_WISHES = frozenset(["need", "want", "prefer", "require", "have", "plan"])
_FIGURES = re.compile(r"[%$+=]|\d\s*(?:hours?|days?|min)|:\s")
_DEEDS = frozenset(
    [
        "asks",
        "mentions",
        "needs",
        "requests",
        "wants",
        "says",
        "shares",
        "reports",
        "provides",
        "uploads",
        "starts",
        "plans",
        "prefers",
        "requires",
        "has",
    ]
)
_LINKS = frozenset(
    {
        "is",
        "are",
        "was",
        "has",
        "have",
        "needs",
        "need",
        "must",
        "exceed",
        "exist",
        "fail",
        "require",
        "dominates",
        "causes",
    }
    | {
        "takes",
        "take",
        "shows",
        "show",
        "becomes",
        "comes",
        "looks",
        "returns",
        "gets",
        "grows",
        "drops",
        "slows",
        "breaks",
    }
)
_SAME = 0.6
_NEAR = 0.42
_MOST_CALLS = 5
_MOST_WORDS = 8
_SMALL = frozenset(["a", "an", "the", "of", "and", "or", "to", "for", "in", "on", "with", "across", "from", "s"])
_LABEL = re.compile(
    r"^\s*(?:\*\*|__)?\s*([^*:]{3,60}?)\s*:?\s*(?:\*\*|__)?\s*(?:[:–—]|\s-\s)\s*(?:\*\*)?\s*(.+)$", re.DOTALL
)
_NUMBER = re.compile(r"^\d+[.)]\s+")
_GENERIC = re.compile(
    r"(?i)^(?:execute|run) .{0,20}(?:task|command)s? with intelligent|^(?:a|an|this|the) plugin\W*$|plugin for claude"
    r"|^mcp server plugin"
)


def describe(sources: Sources, components: Sequence[Page], *, whole: bool) -> str:
    """Return a description of at most 1,024 characters, empty if the texts do not say what the plugin does.

    `whole` says that the components are all of the plugin's, so that manifest and README speak of them.
    """
    what = _what(sources, components, whole=whole)
    if not what:
        return ""
    when = _when(sources, components, what, whole=whole)
    said = what if not when else f"{what} {when}"
    return said if len(said) <= LONGEST else what[:LONGEST]


def _what(sources: Sources, components: Sequence[Page], *, whole: bool) -> str:
    """The best sentence or two on what is done."""
    found: list[str] = []
    lines = [one for text in _candidates(sources, components, whole=whole) for one in wording.sentences(text)]
    for text in lines:
        clean = re.sub(r"^/[\w-]+ (?=[a-z]+s\b)", "", wording.plain(text)).strip(" .:!-–—")
        clean = _neutral(clean)
        if not usable(clean) or _GENERIC.search(clean):
            continue
        sentence = wording.third_person(clean)
        sentence = sentence[:1].upper() + sentence[1:] + "."
        if any(_overlap(sentence, other) > _NEAR for other in found):
            continue
        if len(" ".join([*found, sentence])) > _ROOM * 0.6:
            if found:
                break
            sentence = _cut(sentence, LONGEST // 2)
        found.append(sentence)
        if len(found) == 2 or len(found[0]) > _ROOM // 3:
            break
    return " ".join(found)


def _neutral(text: str) -> str:
    """Say "the" for "your", but not of a thing that is praised as such: "Your companion"."""
    return re.sub(r"(?<=\w )[Yy]our\b", "the", text)


def usable(text: str) -> bool:
    """Whether a line can stand in a description: some words, and of nobody's person."""
    return len(text.split()) > _FEWEST_WORDS and not wording.speaks(text) and not text.endswith("?")


def _candidates(sources: Sources, components: Sequence[Page], *, whole: bool) -> Iterator[str]:
    if whole:
        yield sources.description
        yield from introduction(sources.readme)[:2] if sources.readme else ()
    # Of several commands and agents none speaks for all, unless nothing else does.
    if len(components) == 1 or not whole or not (sources.description or sources.readme):
        for page in components[:3]:
            yield page.description
            yield from introduction(page)[:2]
    if not whole and components:
        yield components[0].body.title


def _when(sources: Sources, components: Sequence[Page], what: str, *, whole: bool) -> str:
    items = list(dict.fromkeys(item for page in components for item in when_items(page)))
    if not items and whole and sources.readme:
        items = when_items(sources.readme)
    said = _as_sentence(items) or _from_descriptions(sources, components, what, whole=whole)
    if not said:
        pages = [*components, *([sources.readme] if whole and sources.readme else [])]
        said = _from_abilities(pages)
    calls = [f"/{page.name}" for page in components if page.kind == "command"]
    said = said or _from_keywords(sources, components, what, whole=whole)
    runs = "when the user runs " + wording.joined(calls[:_MOST_CALLS], "or") if calls else ""
    return (f"{said}, or {runs}" if said and runs else said or f"Use {runs}") + "."


def _as_sentence(items: Sequence[str]) -> str:
    """Phrases on when it is used, in the one sentence that most of them fit into."""
    kinds: dict[str, list[str]] = {}
    for item in items:
        kinds.setdefault(_kind(item), []).append(item)
    if not kinds:
        return ""
    kind = max(kinds, key=lambda one: (len(kinds[one]), one))
    phrases = [wording.lowered(item) for item in _fit(kinds[kind])]
    lead = {
        "order": "Use when the task is to ",
        "deed": "Use when the user ",
        "clause": "Use when ",
        "doing": "Use when ",
        "thing": "Use when the work is about ",
    }[kind]
    return lead + wording.joined(phrases, "or")


def _kind(text: str) -> str:
    words = [word.strip(",").lower() for word in text.split()]
    if wording.is_order(text):
        return "order"
    if text.lower().startswith("the user "):
        return "clause"
    if words[0] in _DEEDS:
        return "deed"
    if words[0].endswith("ing") and len(words) > 1 and len(words[0]) > 4:
        return "doing"
    if len(words) > 3 and any(word in _LINKS or wording.is_statement(word) for word in words[1:6]):
        return "clause"
    return "thing"


def _from_descriptions(sources: Sources, components: Sequence[Page], what: str, *, whole: bool) -> str:
    """What somebody would ask for, told by the lines on the commands and agents, if they tell more than `what` does."""
    asked: list[str] = []
    for text in [page.description for page in components] + ([sources.description] if whole else []):
        clean = _neutral(wording.plain(text)).strip(" .:!")
        if wording.is_order(clean) and usable(clean) and not _GENERIC.search(clean):
            known = [*asked, *([what] if len(components) < 2 else [])]
            if not any(_overlap(clean, other) > _SAME for other in known):
                asked.append(wording.lowered(clean))
    return "Use when the user asks to " + wording.joined(_fit(asked)[:3], "or to") if asked else ""


def _from_abilities(pages: Sequence[Page]) -> str:
    """What it can do, as a list of its features tells, for somebody who needs just that."""
    found: list[str] = []
    for page in pages:
        for section in page.body.children:
            if topic_of(section.title) in {"can", "examples"} and re.search(
                r"(?i)feature|capabilit|what it|analy|cover", section.title
            ):
                found += [item for text in _list_items(section) if _short(item := _phrase(text))]
    things = [
        wording.lowered(item) for item in dict.fromkeys(found) if _kind(item) == "thing" and not item.endswith(")")
    ]
    orders = [wording.lowered(item) for item in dict.fromkeys(found) if _kind(item) == "order"]
    if len(orders) > len(things):
        return "Use when the task is to " + wording.joined(_fit(orders), "or")
    return "Use when the work calls for " + wording.joined(_fit(things), "or") if things else ""


def _short(item: str) -> bool:
    return bool(item) and len(item.split()) < _MOST_WORDS and not is_stock(item)


def _from_keywords(sources: Sources, components: Sequence[Page], what: str, *, whole: bool) -> str:
    """What the work is about, when nothing else is said of it."""
    words = [word.replace("-", " ") for word in sources.keywords if len(word) > 2 and usable_word(word)][:6]
    if whole and words:
        return f"Use when the work is about {wording.joined(words, 'or')}"
    if components:
        return _from_descriptions(sources, components, "", whole=whole)
    return (
        f"Use when the task calls for it: {wording.lowered(what.split('. ', maxsplit=1)[0].rstrip('.'))}"
        if what
        else ""
    )


def usable_word(word: str) -> bool:
    """Whether a keyword may stand in a description."""
    return not wording.speaks(word) and not re.search(r"[<>]", word) and len(word) <= _ITEM // 2


def when_items(page: Page) -> list[str]:
    """Return what a page says of when it is used, as short clean phrases."""
    found = [text.strip("\"' ") for text in lines(page.head.get("activation_triggers"))]
    found = [text for text in found if len(text.split()) > 1]
    for section in _sections(page.body.children):
        if section.title and topic_of(section.title) == "when" and not _NOT_WHEN.search(section.title):
            names = [_NUMBER.sub("", child.title) for child in section.children]
            found += [item for text in [*_list_items(section), *names] if (item := _phrase(text))]
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
    clean = wording.small(clean)
    first, _, rest = clean.partition(" ")
    if first.lower() in _WISHES and rest:
        clean = f"{'has' if first.lower() == 'have' else first.lower() + 's'} {rest}"
    clean = re.sub(r"(?i)^(?:you|users?) (?:need|want|have) to ", "", clean)
    clean = re.sub(r"(?i)^(?:when |if )?(?:the )?users? ", "the user ", clean)
    if (
        not clean
        or _NOT.search(clean)
        or wording.speaks(clean)
        or len(clean) > _ITEM
        or clean.startswith(("/", "for ", "For "))
        or _FIGURES.search(clean)
    ):
        return ""
    return clean


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
    words, others = (set(re.findall(r"\w+", text.lower())) - _SMALL for text in (one, other))
    return len(words & others) / max(1, min(len(words), len(others)))
