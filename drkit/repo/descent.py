"""The way down from a root: which children of a list a reader needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from drkit.model import Place, sort_key


class Node(Struct, frozen=True):
    """A child of a root or list: first path, id, the hint where it lies."""

    first: bytes
    id: str
    place: Place | None


def overlapping(children: Sequence[Node], end: bytes | None, below: bytes) -> Iterator[tuple[Node, bytes | None]]:
    """Yield the children that can hold `below` or anything under it, in the manifest's order of paths.

    With each comes the sort key at which it must have ended; `end` is that of the last, None where the tree ends.
    """
    low = sort_key(below)
    high = low + b"\x01"  # after everything that starts with low + NUL, the separator
    for number, node in enumerate(children):
        if below and sort_key(node.first) >= high:
            return
        until = sort_key(children[number + 1].first) if number + 1 < len(children) else end
        if not below or until is None or until > low:
            yield node, until
