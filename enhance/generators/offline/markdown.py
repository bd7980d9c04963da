"""Markdown as sections and blocks. Lines are kept as they were written: what is quoted must stay what was said."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from markdown_it import MarkdownIt
    from markdown_it.token import Token

Kind = Literal["paragraph", "list", "code", "table", "quote"]

LONGEST_TEXT = 400_000
"""Characters of one text that are looked at: a file beyond that is data, whatever its name."""
LONGEST_LINE = 4_000
"""Characters. Longer lines are no prose and no code that a person would read; they are left out."""

_FENCE = re.compile(r"^ {0,3}(`{3,})[ \t]*([^`\s]*)[^`]*$")


class Block(Struct, frozen=True):
    """A top-level block. `parts` are a list's items, a table's or paragraph's lines, or the lines of code.

    `info` is the language of code, and "1" for a list with numbers. `cut` says that more of the code was there.
    """

    kind: Kind
    parts: tuple[str, ...]
    info: str = ""
    cut: bool = False


class Section(Struct, frozen=True):
    """A heading with what stands under it; `level` 0 is a whole text, whose `title` may be empty."""

    level: int
    title: str
    blocks: tuple[Block, ...] = ()
    children: tuple[Section, ...] = ()


def parse(text: str) -> Section:
    """Return the sections of a Markdown text. Any text will do; code that never ends is left out with its tail."""
    lines = [line for line in text[:LONGEST_TEXT].replace("\r\n", "\n").split("\n") if len(line) <= LONGEST_LINE]
    lines = _mend_nested_fences(lines)
    tokens = _parser().parse("\n".join(lines))
    return _tree(list(_blocks(tokens, lines)))


def spans(lines: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return where each top-level block of a Markdown text begins and ends, as line numbers from 0, and its kind."""
    tokens = _parser().parse("\n".join(lines))
    return [(token.map[0], token.map[1], token.type) for token in tokens if token.level == 0 and token.map is not None]


@functools.cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"maxNesting": 12}).enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


def _mend_nested_fences(lines: list[str]) -> list[str]:
    """Lengthen fences around other fences of the same length: many a template of Markdown is quoted that way.

    An opening mark with a language inside of open code cannot close it, so it opens code within the code. Left as it
    was if the marks do not pair up.
    """
    stack: list[int] = []
    outer: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        found = _FENCE.match(line)
        if found is None:
            continue
        if found[2] or not stack:
            stack.append(number)
        else:
            start = stack.pop()
            if not stack and any(_FENCE.match(inner) for inner in lines[start + 1 : number]):
                outer.append((start, number))
    if stack:
        return lines
    mended = list(lines)
    for start, end in outer:
        mended[start] = "```" + mended[start].lstrip()
        mended[end] = "```" + mended[end].lstrip()
    return mended


def _blocks(tokens: Sequence[Token], lines: Sequence[str]) -> Iterator[Block | tuple[int, str]]:
    """The top-level blocks, and (level, title) for each heading, in order."""
    for number, token in enumerate(tokens):
        if token.level or token.map is None:
            continue
        span = lines[slice(*token.map)]
        match token.type:
            case "heading_open":
                yield int(token.tag[1:]), " ".join(tokens[number + 1].content.split())
            case "fence":
                if token.map[1] - token.map[0] >= 2 and span[-1].strip() and not span[-1].strip().strip("`~"):
                    language = token.info.split()[0] if token.info.split() else ""
                    yield Block("code", tuple(token.content.rstrip("\n").split("\n")), language)
            case "code_block":
                yield Block("code", tuple(token.content.rstrip("\n").split("\n")))
            case "paragraph_open":
                yield Block("paragraph", tuple(line.strip() for line in span))
            case "table_open":
                yield Block("table", tuple(line.strip() for line in span if line.strip()))
            case "blockquote_open":
                yield Block("quote", tuple(line.lstrip("> ").rstrip() for line in span))
            case "bullet_list_open" | "ordered_list_open":
                items = tuple(_items(tokens[number + 1 :], lines))
                yield Block("list", items, "1" if token.type.startswith("ordered") else "")


def _items(tokens: Sequence[Token], lines: Sequence[str]) -> Iterator[str]:
    """The items of the list that these tokens begin in, without their own mark, with what is nested in them."""
    for token in tokens:
        if token.level == 0:
            return
        if token.type == "list_item_open" and token.level == 1 and token.map is not None:
            first, *rest = lines[slice(*token.map)] or [""]
            bare = re.sub(r"^\s*(?:[-*+]|\d{1,9}[.)])(?:\s+|$)", "", first)
            width = len(first) - len(bare)
            yield "\n".join([bare, *(_dedented(line, width) for line in rest)]).rstrip()


def _dedented(line: str, width: int) -> str:
    return line[min(width, len(line) - len(line.lstrip())) :].rstrip()


def _tree(flat: Sequence[Block | tuple[int, str]]) -> Section:
    """Hang blocks and headings under each other. A single first-level heading at the top is the text's title."""
    headings = [item for item in flat if isinstance(item, tuple)]
    title, level = "", 0
    if headings and headings[0][0] == 1 and sum(depth == 1 for depth, _ in headings) == 1:
        title, level = headings[0][1], 1
        flat = [item for item in flat if item != headings[0]]
    section, _ = _grow(flat, 0, level, title)
    return section


def _grow(flat: Sequence[Block | tuple[int, str]], start: int, level: int, title: str) -> tuple[Section, int]:
    blocks: list[Block] = []
    children: list[Section] = []
    while start < len(flat):
        item = flat[start]
        if isinstance(item, Block):
            blocks.append(item)
            start += 1
        elif item[0] > level:
            child, start = _grow(flat, start + 1, item[0], item[1])
            children.append(child)
        else:
            break
    return Section(level, title, tuple(blocks), tuple(children)), start
