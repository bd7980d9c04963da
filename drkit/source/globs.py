"""Globs over paths of a tree, as `--exclude`, `--include` and the configuration take them.

A pattern without `/` matches any component's name; with `/` it matches from the top. `*` and `?` stop at `/`, `**`
crosses it. A pattern that matches a directory matches everything below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from drkit.errors import UsageError


class Globs:
    """Some globs, compiled into one expression."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        parts = [_translate(pattern) for pattern in self.patterns]
        try:
            self._match = re.compile(b"|".join(parts), re.DOTALL).match if parts else None
        except re.error as error:
            raise UsageError(f"a pattern cannot be: {error}", hint="ranges go upwards, as in '[a-z]'") from error

    def __bool__(self) -> bool:
        return self._match is not None

    def match(self, path: bytes) -> bool:
        """Whether a path, relative to the top, or one of its parents is matched."""
        return self._match is not None and self._match(path) is not None


def _translate(pattern: str) -> bytes:
    import os

    raw = os.fsencode(pattern).rstrip(b"/")
    if not raw:
        raise UsageError(f"the pattern {pattern!r} is empty", hint="write for instance '*.log' or 'build/**'")
    anchored = b"/" in raw
    raw = raw.lstrip(b"/")
    out = bytearray(b"(?:" if anchored else b"(?:.*/)?(?:")
    at = 0
    while at < len(raw):
        rest = raw[at:]
        if rest.startswith(b"**/"):
            out += b"(?:.*/)?"
            at += 3
        elif rest.startswith(b"**"):
            out += b".*"
            at += 2
        elif rest.startswith(b"*"):
            out += b"[^/]*"
            at += 1
        elif rest.startswith(b"?"):
            out += b"[^/]"
            at += 1
        elif rest.startswith(b"[") and (end := rest.find(b"]", 2)) > 0:
            body = rest[1:end]
            negate = body[:1] in (b"!", b"^")
            out += (b"[^" if negate else b"[") + re.sub(rb"([\\\[\]&~|])", rb"\\\1", body[negate:]) + b"]"
            at += end + 1
        else:
            out += re.escape(rest[:1])
            at += 1
    return bytes(out + b")(?:/.*)?\\Z")
