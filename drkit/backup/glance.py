"""A glance over all that the previous backup saw: which of it has changed, at the price of one stat for each path.

A directory whose own stat is the same holds the same names as before, so that nothing need be listed: together with
the stats of all that lies below it, its own proves that a walk would find nothing new.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator

from drkit.backup.cached import Cached
from drkit.backup.statcache import Previous
from drkit.source.stats import NEVER, Stat, pack_stats, stat_of

_MANY = 20_000

Marked = set[bytes]
"""Paths that may have changed, and every directory above them; empty if nothing has."""


def glance(previous: Previous, source: bytes, root: Stat, rules: str) -> Marked | None:
    """Return what may have changed since the previous backup; None if a walk must tell, or is not slower.

    `root` is the source's own stat. Where other rules decide what is taken, or something had to be left out, names
    that are the same prove nothing.
    """
    summary = previous.summary
    if summary is None or not rules or summary.rules != rules:
        return None
    prefix = source.rstrip(b"/") + b"/"
    marked: Marked = {b""} if summary.root != root else set()
    for segment in previous.segments:
        for path in _changed(segment, prefix):
            while path not in marked:
                marked.add(path)
                path = path.rpartition(b"/")[0]  # noqa: PLW2901
        if len(marked) > _MANY:
            return None
    return marked


def _changed(segment: Cached, prefix: bytes) -> Iterator[bytes]:
    """Yield the paths of a segment that may have changed."""
    if segment.odd:
        yield from segment.odd.split(b"\0")
    paths = segment.packed_paths.split(b"\0")
    with contextlib.suppress(OSError, struct.error):  # one is gone, or of a time that has no place in 64 bits
        if pack_stats([stat_of(os.lstat(prefix + path)) for path in paths]) == segment.packed_stats:
            return
    for path, known in zip(paths, segment.stats, strict=True):
        found = NEVER
        with contextlib.suppress(OSError):
            found = stat_of(os.lstat(prefix + path))
        if found != known or known == NEVER:
            yield path
