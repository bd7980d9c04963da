"""Units as Markdown, within a number of bytes. What does not fit is named with the file it stands in, never cut."""

from __future__ import annotations

import re
from collections.abc import Iterator

from enhance.generators.offline.markdown import Block, Section
from enhance.generators.offline.topics import Unit

_CODE_SHARE = 0.7
"""Of a unit's room, how much one block of code may take."""
_EXCERPTS = frozenset(["python", "py", "bash", "sh", "shell", "javascript", "js", "typescript", "ts", "sql", "go", "ruby", "rust"])
_DEEPEST = 5
_CLOSERS = {")": "(", "]": "[", "}": "{"}
_FEWEST_LINES = 6


def size(text: str) -> int:
    """Return a text's length in bytes."""
    return len(text.encode("utf-8", "replace"))


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


def unit(found: Unit, level: int, room: int) -> str:
    """Return a unit under a heading of this level in about `room` bytes; empty if nothing of it fits."""
    left: list[str] = []
    body = _section(found.section, level, room, left)
    if not body:
        return ""
    named = [title for title in dict.fromkeys(left) if title]
    if left:
        more = f" ({_quoted(named[:6])})" if named else ""
        body.append(f"`{found.path}` has more on this{more}.")
    return "\n\n".join([f"{'#' * level} {found.section.title}", *body])


def _quoted(titles: list[str]) -> str:
    return ", ".join(f"*{title}*" for title in titles)


def _section(section: Section, level: int, room: int, left: list[str]) -> list[str]:
    """Return the pieces of a section that fit; into `left` go the titles of what does not, "" for the section itself."""
    pieces: list[str] = []
    used = 0
    for found, text in _fitted(section, room, left):
        if used + size(text) > room:
            left.append("")
            if found.kind == "list" and (part := _some_items(found, room - used)):
                pieces.append(part)
                used += size(part)
            continue
        pieces.append(text)
        used += size(text) + 2
    pieces = _no_dangling(pieces, followed=bool(section.children))
    for child in section.children:
        rest = room - used - size(child.title) - level - 4
        below: list[str] = []
        body = _section(child, level + 1, rest, below) if rest > 60 else []  # noqa: PLR2004
        if not body:
            left.append(child.title)
            continue
        left += below
        head = f"{'#' * (level + 1)} {child.title}" if level < _DEEPEST else f"**{child.title}**"
        pieces += [head, *body]
        used += size(head) + sum(size(piece) + 2 for piece in body)
    return pieces


def _no_dangling(pieces: list[str], *, followed: bool) -> list[str]:
    """Drop lines that lead over to what did not fit."""
    kept = []
    for number, piece in enumerate(pieces):
        leads = piece.rstrip("*_ ").endswith(":") and "\n" not in piece and not piece.startswith(("- ", "|", "```", "1. "))
        following = pieces[number + 1] if number + 1 < len(pieces) else ""
        if leads and not (following.startswith(("- ", "1. ", "|", "`", ">")) or (not following and followed)):
            continue
        kept.append(piece)
    return kept


def _fitted(section: Section, room: int, left: list[str]) -> Iterator[tuple[Block, str]]:
    for found in section.blocks:
        text = block(found)
        if found.kind == "code" and size(text) > max(400, room * _CODE_SHARE):
            left.append("")
            part = _excerpt(found, int(max(400, room * _CODE_SHARE)))
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


def _excerpt(found: Block, room: int) -> Block | None:
    """Return the beginning of code, up to a blank line between two whole definitions; None where there is none."""
    if found.info.lower() not in _EXCERPTS:
        return None
    best, used = 0, 0
    for number, line in enumerate(found.parts):
        used += size(line) + 1
        if used > room:
            break
        after = found.parts[number + 1] if number + 1 < len(found.parts) else ""
        if not line.strip() and after and not after[0].isspace() and after[0] not in ")]}" and _balanced(found.parts[:number]):
            best = number
    return Block("code", found.parts[:best], found.info) if best >= _FEWEST_LINES else None


def _balanced(parts: tuple[str, ...]) -> bool:
    stack: list[str] = []
    text = re.sub(r"\\.|\"[^\"\n]*\"|'[^'\n]*'", "", "\n".join(parts))
    if text.count('"""') % 2 or text.count("`") % 2 or text.count("'''") % 2 or "<<" in text:
        return False
    for char in text:
        if char in "([{":
            stack.append(char)
        elif char in _CLOSERS and (not stack or stack.pop() != _CLOSERS[char]):
            return False
    return not stack
