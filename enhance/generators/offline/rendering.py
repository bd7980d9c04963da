"""Sections as Markdown, within a number of bytes. What does not fit is left out whole, and noted."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct, structs

from enhance.generators.offline.markdown import Block, Section
from enhance.generators.offline.topics import Unit

_CODE_SHARE = 0.7
"""Of a section's room, how much one block of code may take."""
_LEAST_CODE = 400
_LONGEST_CODE = 240
_LEAST_CHILD = 60
_SLACK = 0.1
"""How far beyond its room a section may go rather than lose the end of a list."""
_MARKS = {"sql": "--"} | dict.fromkeys(["python", "py", "bash", "sh", "shell", "ruby"], "#")
_MARKS |= dict.fromkeys(["javascript", "js", "typescript", "ts", "go", "rust", "java"], "//")
"""How a comment begins, in languages of which the beginning of a program is of use."""
_DEEPEST = 5
_STEP = re.compile(r"(?i)(?:step|phase|stage|part)\s+\d")
"""Headings of which none is left out silently: a gap in a sequence misleads."""
_CLOSERS = {")": "(", "]": "[", "}": "{"}
_FEWEST_LINES = 8
_LEADS = re.compile(r":[*_ ]*$|^\*\*[^*]{1,80}\*\*$")
_LEAST_SHARE = 0.3
"""Of a program, how much its beginning must be to be worth showing."""


class Rendered:
    """A unit as text; `left` are the titles of what it lacks, an empty one for parts of the unit itself."""

    def __init__(self, text: str, left: tuple[str, ...]) -> None:
        self.text = text
        self.left = left
        self.size = size(text)


class _Place(Struct, frozen=True):
    """Where a section comes from, how much of a program is worth showing, and what was left out of it."""

    path: str
    least: float
    left: list[str]


def size(text: str) -> int:
    """Return a text's length in bytes."""
    return len(text.encode("utf-8", "replace"))


def unit(found: Unit, level: int, room: int, *, eager: bool = False) -> Rendered:
    """Return a unit under a heading of this level in about `room` bytes; without text if nothing of it fits.

    `eager` shows the beginning even of long programs: where there is not much else to show.
    """
    left: list[str] = []
    place = _Place(found.path, 0.0 if eager else _LEAST_SHARE, left)
    body = _section(place, found.section, level, room)
    text = "\n\n".join([f"{'#' * level} {found.section.title}", *body]) if body else ""
    return Rendered(text, tuple(dict.fromkeys(left)))


def block(found: Block) -> str:
    """Return a block as Markdown; fences are always longer than what they hold."""
    match found.kind:
        case "code":
            text = "\n".join(found.parts)
            runs = [len(run) for run in re.findall(r"^\s*(`{3,})", text, re.MULTILINE)]
            mark = "`" * max([3, *(run + 1 for run in runs)])
            return f"{mark}{found.info}\n{text}\n{mark}"
        case "list":
            return "\n".join(_item(item, number if found.info else 0) for number, item in enumerate(found.parts, 1))
        case "quote":
            return "\n".join(f"> {line}".rstrip() for line in found.parts)
        case _:
            return "\n".join(found.parts)


def _item(text: str, number: int) -> str:
    mark = f"{number}. " if number else "- "
    first, *rest = text.split("\n")
    return "\n".join([mark + first, *(" " * len(mark) + line if line else "" for line in rest)])


def _section(place: _Place, section: Section, level: int, room: int) -> list[str]:
    """Return the pieces of a section that fit."""
    left = place.left
    pieces: list[str] = []
    used = 0
    for found, text in _fitted(place, section, room):
        if used + size(text) > room * (1 + _SLACK):
            left.append("")
            if found.kind == "list" and (part := _some_items(found, room - used)):
                pieces.append(part)
                used += size(part)
            continue
        pieces.append(text)
        used += size(text) + 2
    pieces = _no_dangling(pieces, followed=bool(section.children))
    steps: list[int] = []
    for number, child in enumerate(section.children):
        rest = room - used - size(child.title) - level - 4
        # The first of many may take more than its share, but never all: each step is worth more than one in full.
        part_of = (
            rest if number + 1 == len(section.children) else int(rest * 2.2 / (len(section.children) - number + 1))
        )
        below: list[str] = []
        inner = structs.replace(place, left=below)
        body = _section(inner, child, level + 1, min(rest, part_of)) if rest > _LEAST_CHILD else []
        head = f"{'#' * (level + 1)} {child.title}" if level < _DEEPEST else f"**{child.title}**"
        if not body:
            left.append(child.title)
            if _STEP.match(child.title) and rest > size(place.path) + _LEAST_CHILD:
                steps.append(len(pieces))
                pieces.append(f"{head}\n\nIn full in `{place.path}`.")
                used += size(pieces[-1]) + 2
            continue
        left += [one or child.title for one in below]
        pieces += [head, *body]
        used += size(head) + sum(size(piece) + 2 for piece in body)
    return pieces if len(steps) < len(pieces) else []


def _no_dangling(pieces: list[str], *, followed: bool) -> list[str]:
    """Drop lines that lead over to what did not fit."""
    kept: list[str] = []
    for number, whole in enumerate(pieces):
        piece = whole
        last = piece.rsplit("\n", 1)[-1]
        leads = _LEADS.search(last) is not None and not piece.startswith(("- ", "|", "```", "1. "))
        after = pieces[number + 1] if number + 1 < len(pieces) else ""
        if leads and not (after.startswith(("- ", "1. ", "|", "`", ">")) or (not after and followed)):
            piece = piece[: -len(last)].rstrip("\n")
        if piece:
            kept.append(piece)
    return kept


def _fitted(place: _Place, section: Section, room: int) -> Iterator[tuple[Block, str]]:
    most = max(_LEAST_CODE, int(room * _CODE_SHARE))
    for found in section.blocks:
        text = block(found)
        if found.kind == "code" and (size(text) > most or len(found.parts) > _LONGEST_CODE or found.cut):
            place.left.append("")
            part = _beginning(found, most, place)
            if part is not None:
                yield part, block(part)
            continue
        yield found, text


def _some_items(found: Block, room: int) -> str:
    items: list[str] = []
    for number, item in enumerate(found.parts, 1):
        items.append(_item(item, number if found.info else 0))
        if size("\n".join(items)) > room:
            items.pop()
            break
    return "\n".join(items) if len(items) > 1 else ""


def _beginning(found: Block, room: int, place: _Place) -> Block | None:
    """Return the beginning of a program up to a blank line between two whole definitions, and where it goes on."""
    mark = _MARKS.get(found.info.lower())
    if mark is None:
        return None
    best, used = 0, 0
    for number, line in enumerate(found.parts):
        used += size(line) + 1
        if used > room or number > _LONGEST_CODE:
            break
        after = found.parts[number + 1] if number + 1 < len(found.parts) else ""
        if not line.strip() and _begins_anew(after, mark) and _whole(found.parts[:number]):
            best = number
    if best < max(_FEWEST_LINES, place.least * len(found.parts)):
        return None
    indent = found.parts[best + 1][: len(found.parts[best + 1]) - len(found.parts[best + 1].lstrip())]
    return Block("code", (*found.parts[:best], "", f"{indent}{mark} … continued in {place.path}"), found.info)


def _begins_anew(line: str, mark: str) -> bool:
    """Whether something new begins with a line: at the margin, or a method."""
    if not line or line[0] in ")]}":
        return False
    return not line[0].isspace() or (mark == "#" and line.lstrip().startswith(("def ", "async def ", "@", "class ")))


def _whole(parts: tuple[str, ...]) -> bool:
    """Whether code has closed what it opened. What cannot be told easily counts as open."""
    text = re.sub(r"\\.|\"[^\"\n]*\"|'[^'\n]*'", "", "\n".join(parts))
    if text.count('"""') % 2 or text.count("`") % 2 or text.count("'''") % 2 or "<<" in text:
        return False
    stack: list[str] = []
    for char in text:
        if char in "([{":
            stack.append(char)
        elif char in _CLOSERS and (not stack or stack.pop() != _CLOSERS[char]):
            return False
    return not stack
