"""How a proposal meets the file that is there: nothing that a person wrote is lost.

The base of a merge is the generator's last *proposal*, as it was before merging, so that what a person changed since
is told from what the generator wrote. Without a base the whole body is a person's: its frontmatter gets what it
lacks, and the sections that it does not have are added after it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from enhance.frontmatter import Frontmatter, dump_frontmatter, parse_frontmatter
from enhance.pipeline.diff3 import Hunk, merge_lines


class Merged(Struct, frozen=True):
    """The content to be written, None if the file stays as it is or away, and what of the proposal was not taken."""

    data: bytes | None
    conflicts: tuple[Hunk, ...] = ()


def merge(path: bytes, *, base: bytes | None, mine: bytes | None, theirs: bytes) -> Merged:
    """Merge a proposal (`theirs`) into what is there (`mine`, None if there is no file)."""
    if mine is None:
        if base is None or base == theirs:
            # What a person deleted stays deleted: it is proposed once, not each night.
            return Merged(theirs if base is None else None)
        return Merged(None, (Hunk(path, b"", theirs),))
    if mine == theirs:
        return Merged(mine)
    if base is not None:
        return _three_way(path, base, mine, theirs)
    if path.endswith(b".md"):
        return _add_to(path, mine, theirs)
    return Merged(mine, (Hunk(path, mine, theirs),))


def _three_way(path: bytes, base: bytes, mine: bytes, theirs: bytes) -> Merged:
    heads = [parse_frontmatter(text) for text in (base, mine, theirs)]
    if not all(head.present and not head.problems for head in heads):
        data, hunks = merge_lines(base, mine, theirs, path)
        return Merged(data, tuple(hunks))
    old, ours, new = heads
    mapping, conflicts = _merge_keys(path, old.mapping, ours.mapping, new.mapping)
    body, hunks = merge_lines(old.body, ours.body, new.body, path)
    return Merged(_head(mapping, (ours, mine), (new, theirs)) + body, (*conflicts, *hunks))


def _merge_keys(
    path: bytes, base: Mapping[str, Any], mine: Mapping[str, Any], theirs: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Hunk]]:
    """Merge two mappings key by key. A key that both changed keeps the person's value, be it that it is gone."""
    absent = object()
    merged: dict[str, Any] = {}
    conflicts = []
    for key in (*mine, *(key for key in theirs if key not in mine)):
        old, own, new = (each.get(key, absent) for each in (base, mine, theirs))
        if isinstance(own, Mapping) and isinstance(new, Mapping):
            merged[key], below = _merge_keys(path, old if isinstance(old, Mapping) else {}, own, new)
            conflicts += below
            continue
        taken = new if own == old else own
        if own != old and new not in (old, own):
            kept = b"" if own is absent else dump_frontmatter({key: own})
            proposed = b"" if new is absent else dump_frontmatter({key: new})
            conflicts.append(Hunk(path, kept, proposed))
        if taken is not absent:
            merged[key] = taken
    return merged, conflicts


def _head(mapping: Mapping[str, Any], *texts: tuple[Frontmatter, bytes]) -> bytes:
    """Return a head's bytes: those of a text that says just this, so that nothing changes without need."""
    for head, data in texts:
        if head.present and not head.problems and head.mapping == mapping and list(head.mapping) == list(mapping):
            return data[: len(data) - len(head.body)]
    return dump_frontmatter(mapping)


# Without a base


def _add_to(path: bytes, mine: bytes, theirs: bytes) -> Merged:
    """Give a person's text the frontmatter keys and the sections that it lacks."""
    ours, new = parse_frontmatter(mine), parse_frontmatter(theirs)
    head, conflicts = mine[: len(mine) - len(ours.body)], []
    body = ours.body
    if not new.present:
        pass
    elif ours.present and not ours.problems:
        kept = {key: value for key, value in ours.mapping.items() if not _empty(value)}
        if any(_empty(ours.mapping.get(key)) for key in new.mapping):
            added = {key: value for key, value in new.mapping.items() if key not in kept}
            head = dump_frontmatter({**ours.mapping, **added})
    else:
        if ours.present:
            conflicts.append(Hunk(path, new.head, ours.head))
        head, body = theirs[: len(theirs) - len(new.body)], body.removeprefix(b"\xef\xbb\xbf")
    longer = add_sections(body, new.body)
    if longer is None:
        conflicts.append(Hunk(path, b"", new.body))
    return Merged(head + (body if longer is None else longer), tuple(conflicts))


def _empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


_HEADING = re.compile(rb"##(?!#)[ \t]+(.*?)[ \t#]*\r?\n?\Z")
_FENCE = re.compile(rb" {0,3}(`{3,}|~{3,})")


def add_sections(body: bytes, proposed: bytes) -> bytes | None:
    """Return a body with the proposed sections after it whose headings it lacks; all of them if it is blank.

    None if the body ends inside of code that is never closed: what came after it would be code too.
    """
    if not body.strip():
        return proposed
    own, in_code = sections(body)
    there = {name for name, _ in own}
    new = [text for name, text in sections(proposed)[0] if name and name not in there]
    if not new:
        return body
    if in_code:
        return None
    gap = b"" if body.endswith(b"\n\n") else b"\n" if body.endswith(b"\n") else b"\n\n"
    return body + gap + b"".join(new).rstrip(b"\r\n") + b"\n"


def sections(body: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Cut a body before each `## ` heading outside of code; say whether it ends inside of code.

    The first part has no name; names ignore case.
    """
    found: list[tuple[bytes, list[bytes]]] = [(b"", [])]
    fence = b""
    for line in body.splitlines(keepends=True):
        marks = _FENCE.match(line)
        if marks and not fence:
            fence = marks[1]
        elif marks and marks[1].startswith(fence) and not line.strip(b" `~\r\n\t"):
            fence = b""
        elif not fence and (heading := _HEADING.match(line)):
            found.append((b" ".join(heading[1].lower().split()), []))
        found[-1][1].append(line)
    return [(name, b"".join(lines)) for name, lines in found], bool(fence)
