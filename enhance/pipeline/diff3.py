"""Three-way merge of lines: what only one side changed is taken; where both did, the person's lines stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from msgspec import Struct

Lines = Sequence[bytes]


class Hunk(Struct, frozen=True):
    """Two texts for one place: the one that stayed, and the other, which goes to the audit instead of being lost."""

    path: bytes
    kept: bytes
    left_out: bytes


class Stretch(Struct, frozen=True):
    """A part of the three texts, in step. `agreed` says that the base is unchanged in both."""

    agreed: bool
    base: Lines
    mine: Lines
    theirs: Lines


def merge_lines(base: bytes, mine: bytes, theirs: bytes, path: bytes = b"") -> tuple[bytes, list[Hunk]]:
    """Return the merged text, and the hunks of `theirs` that conflict with `mine`, which stays there."""
    out: list[bytes] = []
    conflicts: list[Hunk] = []
    for stretch in stretches(*(text.splitlines(keepends=True) for text in (base, mine, theirs))):
        taken = stretch.mine
        if stretch.agreed or stretch.mine == stretch.base:
            taken = stretch.theirs
        elif stretch.theirs not in (stretch.base, stretch.mine):
            conflicts.append(Hunk(path, b"".join(stretch.mine), b"".join(stretch.theirs)))
        if taken and out and not out[-1].endswith((b"\n", b"\r")):
            out.append(b"\n")  # a last line without an end is not joined with what now follows it
        out.extend(taken)
    return b"".join(out), conflicts


def stretches(base: Lines, mine: Lines, theirs: Lines) -> Iterator[Stretch]:
    """Yield the parts of three texts in order: those where all agree, and what lies between them."""
    at = (0, 0, 0)
    for begin, end in _agreed(base, mine, theirs):
        if begin != at:
            yield Stretch(False, base[at[0] : begin[0]], mine[at[1] : begin[1]], theirs[at[2] : begin[2]])
        size = end[0] - begin[0]
        if size:
            same = base[begin[0] : end[0]]
            yield Stretch(True, same, same, same)
        at = end


def _agreed(base: Lines, mine: Lines, theirs: Lines) -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Yield begin and end, in each text, of the runs of lines that all three have; at last the end of all."""
    left = _matches(base, mine)
    right = _matches(base, theirs)
    i = j = 0
    while i < len(left) and j < len(right):
        (a, am, an), (b, bt, bn) = left[i], right[j]
        begin, end = max(a, b), min(a + an, b + bn)
        if begin < end:
            size = end - begin
            first = (begin, am + begin - a, bt + begin - b)
            yield first, (first[0] + size, first[1] + size, first[2] + size)
        if a + an < b + bn:
            i += 1
        else:
            j += 1
    last = (len(base), len(mine), len(theirs))
    yield last, last


def _matches(base: Lines, other: Lines) -> list[tuple[int, int, int]]:
    blocks = SequenceMatcher(None, base, other, autojunk=False).get_matching_blocks()
    return [(block.a, block.b, block.size) for block in blocks if block.size]
