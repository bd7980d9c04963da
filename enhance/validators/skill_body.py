"""SK018 to SK024, SK027, SK028, MP001: the text of a SKILL.md."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from urllib.parse import unquote

from enhance.discover import join
from enhance.frontmatter import Frontmatter, count_lines
from enhance.validators import standards, text
from enhance.validators.rules import Found
from enhance.validators.view import View

TOO_SHORT = "it is too short"
_MOST = 20
"""Findings of one rule in one file; more say nothing new."""


def check(view: View, path: bytes) -> Iterator[Found]:
    """Hold the text of the SKILL.md at `path` against the rules."""
    if path in view.unreadable:
        return
    yield from _sizes(view, path)
    whole = view.text(path)
    if whole is None:
        whole = view.data(path)[: 4 * standards.LENGTH[1]].decode("utf-8", "replace").replace("\0", " ")
    head = view.head(path)
    body = head.body.decode("utf-8", "replace")
    first = head.body_line - 1
    if len(body.strip()) < standards.BODY_MIN:
        yield Found("SK020", path, f"the body has {len(body.strip())} characters", head.body_line)
    if line := text.open_fence(body):
        yield Found("SK021", path, "a code fence is not closed", first + line)
    yield from _marks("SK022", path, text.placeholders(whole), 0)
    yield from _references(view, path, head, body)
    yield from _marks("SK024", path, text.foreign_paths(body), first)
    yield from _marks("SK027", path, text.hidden_characters(whole.removeprefix("\ufeff")), 0)
    yield from _marks("SK028", path, text.dangers(whole), 0)


def _marks(rule: str, path: bytes, marks: list[text.Mark], first: int) -> Iterator[Found]:
    yield from (Found(rule, path, message, first + line) for line, message in marks[:_MOST])


def _sizes(view: View, path: bytes) -> Iterator[Found]:
    data = view.data(path)
    lines = count_lines(data) + (not data.endswith(b"\n") and bool(data))
    if lines > standards.LINES_MAX:
        yield Found("SK018", path, f"it has {lines} lines")
    tokens = len(view.head(path).body.decode("utf-8", "replace")) // standards.CHARACTERS_PER_TOKEN
    if tokens >= standards.TOKENS_MAX:
        yield Found("SK019", path, f"the body has about {tokens} tokens")
    least, most = standards.LENGTH
    if len(data) < least:
        yield Found("MP001", path, f"{TOO_SHORT}: {len(data)} of at least {least} bytes")
    elif len(data) > most:
        yield Found("MP001", path, f"it is long: {len(data)} of at most {most} bytes")


_RESOURCE = re.compile(
    r"(?<![\w./\\}$~-])(?:\./)?(?:\{baseDir\}/|\$\{CLAUDE_SKILL_DIR\}/)?((?:scripts|references|assets)/[\w./@+-]{0,200}\.[A-Za-z0-9]{1,8})\b(?![*{<$/])"
)
_LINK = re.compile(r"\]\(\s{0,9}<?([^()\s<>]{1,500})>?(?:\s{1,9}[\"'][^)]{0,300})?\)")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:|#|//")


def _references(view: View, path: bytes, head: Frontmatter, body: str) -> Iterator[Found]:
    """SK023: what a skill names below its resource directories, and where its links lead."""
    directory = os.path.dirname(path)
    first = head.body_line
    told: set[str] = set()
    links = [(match.start(), match[1], True) for match in _LINK.finditer(body) if not _SCHEME.match(match[1])]
    named = [(match.start(), match[1], False) for match in _RESOURCE.finditer(body)]
    for at, target, is_link in sorted(links + named):
        name = unquote(target.split("#")[0].split("?")[0])
        if not name or name in told:
            continue
        told.add(name)
        if message := _wrong(view, directory, name, is_link=is_link):
            yield Found("SK023", path, f"{message}: {name}", first + body.count("\n", 0, at))


def _wrong(view: View, directory: bytes, name: str, *, is_link: bool) -> str:
    """Say what is wrong with a reference, empty if nothing is."""
    if name.startswith("/"):
        return "a reference is absolute"
    clean = posixpath.normpath(name)
    if clean == ".." or clean.startswith("../"):
        return "a reference leaves the skill"
    parts = clean.split("/")
    if parts[0] not in {"scripts", "references", "assets"} or len(parts) == 1:
        return ""
    if is_link and any(char in name for char in "*{}<>$"):
        return ""
    if not view.has(join(directory, clean.encode("utf-8", "surrogateescape"))):
        return "a reference names what is not there"
    return "a reference is more than one level deep" if len(parts) > 2 else ""
