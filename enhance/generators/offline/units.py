"""A plugin's pages cut into units: the sections that a skill may be put together from, nothing of it twice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from enhance.generators.offline import cleaning, wording
from enhance.generators.offline.markdown import Block, Section
from enhance.generators.offline.sources import Page, Sources, lines
from enhance.generators.offline.topics import WORTH, Topic, Unit, is_stock, topic_of

_PERSONA = re.compile(r"^(?:hi|hello)?\W*(?:you are|you're|act as|as an? expert|your role is to act)\b", re.IGNORECASE)
_THIS = re.compile(r"\b([Tt])his (command|agent|slash command)\b(?!')")
_WAKES = re.compile(r"\bYou activate automatically when\b")
_HYPE = re.compile(
    r"(?i)made with|built (?:by|with) |part of the|^status:|^version|all rights|powered by|star (?:us|this)|^by "
)
_REPEATED = 0.6
"""Of the runs of words in a section, how many may have been said already before it is left out."""
_INTRO_BLOCKS = 6
_SHORT = 16
_SMALL = frozenset(
    ["a", "an", "the", "of", "and", "or", "to", "for", "in", "on", "is", "are", "with", "your", "also", "one", "just"]
)


def introduction(page: Page) -> list[str]:
    """Return the sentences that a page begins with, without those that tell the model who it is."""
    found: list[str] = []
    for block in page.body.blocks[:_INTRO_BLOCKS]:
        if block.kind not in {"paragraph", "quote"}:
            break
        found += [said for said in wording.sentences(" ".join(block.parts)) if _informs(said)]
    return [named(said, page) for said in found]


def _informs(sentence: str) -> bool:
    bare = wording.plain(sentence)
    return (
        not _PERSONA.match(bare)
        and not _HYPE.search(bare)
        and not bare.endswith(":")
        and "$(" not in bare
        and not re.match(r"(?i)you\b|(?:an? )?(?:mcp )?(?:server )?plugin for claude code\W*$", bare)
        and len(bare.split()) > 3
        and not re.match(r"(?i)when (?:this|the) (?:command|agent) is (?:invoked|activated)", bare)
    )


def named(text: str, page: Page) -> str:
    """Say which command or agent "this command" is: in a skill it would be the skill."""
    if page.kind not in {"command", "agent"}:
        return text
    name = f"`/{page.name}`" if page.kind == "command" else f"the `{page.name}` agent"

    def put(found: re.Match[str]) -> str:
        return "The" + name[3:] if found[1] == "T" and name.startswith("the") else name

    return _THIS.sub(put, _WAKES.sub("Use it when", text))


def of_page(page: Page, share: float = 1.0) -> Iterator[Unit]:
    """Yield a page's units in its own order. `share` scales what they are worth."""
    rest = tuple(block for block in page.body.blocks if not _is_intro(block))
    if rest and (clean := _prune(Section(2, "", rest), page)):
        steps = any(block.kind == "list" and block.info for block in rest)
        topic: Topic = "steps" if steps else "can"
        label = f"`/{page.name}`" if page.kind == "command" else page.name
        yield _unit(
            Section(2, f"What {label} does" if page.kind == "command" else "At a glance", clean.blocks),
            topic,
            page,
            share,
        )
    for child in page.body.children:
        yield from _of_section(child, page, share)
    wanted = lines(page.head.get("capabilities"))
    said = [item for item in wanted if len(item.split()) > 1]
    if said and not any(topic_of(child.title) == "can" for child in page.body.children):
        yield _unit(Section(2, "Capabilities", (Block("list", tuple(said)),)), "can", page, share)


def _of_section(section: Section, page: Page, share: float) -> Iterator[Unit]:
    topic = topic_of(section.title) if section.title else None
    if topic is None:
        return
    clean = _prune(section, page)
    if clean is None:
        return
    # A heading that only holds others together, as "Guide" or a second title, is not one section but many.
    if section.level <= 1 and not clean.blocks and topic in {"own", "can"} and len(clean.children) > 2:
        for child in section.children:
            yield from _of_section(child, page, share)
        return
    yield _unit(clean, topic, page, share)


def _unit(section: Section, topic: Topic, page: Page, share: float) -> Unit:
    owner = page.path if page.kind in {"command", "agent"} else ""
    return Unit(section, topic, WORTH[topic] * share, page.path, owner)


def _is_intro(block: Block) -> bool:
    return block.kind in {"paragraph", "quote"} and not block.parts[-1].rstrip("*").endswith(":")


def _prune(section: Section, page: Page) -> Section | None:
    """Return a section without what no skill needs, at any depth; None if nothing is left."""
    said = [clean for block in section.blocks if (clean := _said(block, page))]
    kept = [child for child in section.children if topic_of(child.title) is not None]
    children = [part for child in kept if (part := _prune(child, page))]
    blocks = [
        block
        for block, after in zip(said, [*said[1:], None], strict=False)
        if not _announces(block) or (children if after is None else not _announces(after))
    ]
    if not blocks and not children:
        return None
    return Section(section.level, named(_short_title(section.title), page), tuple(blocks), tuple(children))


def _announces(block: Block) -> bool:
    """Whether a block only leads over to the next: "For example:"."""
    return block.kind == "paragraph" and block.parts[-1].rstrip("*_ ").endswith(":")


def _short_title(title: str) -> str:
    title = re.sub(r"^(?:Your|My|Our)\s+(\w)", lambda found: found[1].upper(), title)
    title = (
        re.sub(r"^(?:Phase|Step|Part)?\s*\d+(?:\.\d+)*[.):]?\s+(?=\S)", "", title) if re.match(r"\d", title) else title
    )
    return re.sub(r"(?i)\b(when (?:not )?to use) this (?:command|agent|plugin|skill)?\s*$", r"\1", title).strip()


def _said(block: Block, page: Page) -> Block | None:
    match block.kind:
        case "paragraph" | "quote":
            kept = []
            for line in block.parts:
                if _HYPE.search(wording.plain(line)) and len(line.split()) < _SHORT:
                    continue
                said = [one for one in wording.sentences(line) if not _PERSONA.match(wording.plain(one))]
                kept.append(named(" ".join(said), page))
            kept = [line for line in kept if line]
            return Block(block.kind, tuple(kept), block.info) if kept else None
        case "list":
            items = tuple(named(item, page) for item in block.parts if not is_stock(item))
            return Block("list", items, block.info) if items else None
        case "code":
            return block if any(part.strip() for part in block.parts) else None
        case _:
            return block


def text_of(section: Section) -> str:
    """Return a section's words, headings of it and below included."""
    own = [part for block in section.blocks for part in block.parts]
    return "\n".join([section.title, *own, *(text_of(child) for child in section.children)])


def distinct(units: Sequence[Unit]) -> list[Unit]:
    """Return the units without what an earlier one says: whole sections, and single items of lists."""
    seen: set[tuple[str, ...]] = set()
    items: set[str] = set()
    titles: dict[str, str] = {}
    kept: list[Unit] = []
    for unit in units:
        title = " ".join(re.findall(r"\w+", unit.section.title.lower()))
        if not unit.owner and titles.setdefault(title, unit.path) != unit.path:
            continue  # the README tells again what a command or agent has a section for
        section = _without(unit.section, items)
        if section is None:
            continue
        runs = wording.shingles(text_of(section))
        if runs and len(runs & seen) > _REPEATED * len(runs):
            continue
        seen |= runs
        titles.setdefault(title, unit.path)
        kept.append(Unit(section, unit.topic, unit.worth, unit.path, unit.owner))
    return kept


def _without(section: Section, items: set[str]) -> Section | None:
    """Drop blocks and items that were there before, and note those that were not."""
    blocks: list[Block] = []
    for block in section.blocks:
        if block.kind == "list":
            new = []
            for item in block.parts:
                words = re.findall(r"\w+", item.lower())
                key = " ".join(sorted(set(words) - _SMALL))
                if key and key not in items:
                    items.add(key)
                    new.append(item)
            if new and (len(new) * 2 >= len(block.parts)):
                blocks.append(Block("list", tuple(new), block.info))
        elif block.kind in {"code", "table"}:
            key = " ".join(" ".join(block.parts).split())
            if key not in items:
                items.add(key)
                blocks.append(block)
        else:
            blocks.append(block)
    children = tuple(child for part in section.children if (child := _without(part, items)))
    while blocks and _announces(blocks[-1]) and not children:
        blocks.pop()
    if not blocks and not children:
        return None
    return Section(section.level, section.title, tuple(blocks), children)


def facts(sources: Sources) -> Iterator[Unit]:
    """Yield what hooks, servers and scripts there are as units."""
    for title, found, topic in (
        ("Hooks", sources.hooks, "own"),
        ("MCP servers", sources.servers, "needs"),
        ("Scripts", sources.scripts, "usage"),
    ):
        items = []
        for fact in found[:20]:
            item = f"{fact.name}: {fact.text}" if fact.text else fact.name
            if not cleaning.hazard(item):
                items.append(item)
        if items:
            section = Section(2, title, (Block("list", tuple(dict.fromkeys(items))),))
            yield Unit(section, topic, 6.0, found[0].path)  # type: ignore[arg-type]
