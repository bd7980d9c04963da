"""SK001, SK025 to SK030: a skill as a directory, and beside its siblings."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator

from enhance.discover import RESOURCES, SKILL, join
from enhance.material import is_placeholder
from enhance.validators import standards, text
from enhance.validators.rules import Found
from enhance.validators.view import View

_MOST = 20
_COMPARED = 64
"""Skills of one plugin that are compared with each other; in a larger plugin only names are."""
_MARKDOWN = (b".md", b".markdown")


def check(view: View, skill: bytes) -> Iterator[Found]:
    """Hold a skill's directory against the rules; its SKILL.md is checked elsewhere."""
    files = view.resources(skill)
    if not view.is_file(join(skill, SKILL)):
        other = next((path for path in view.below(skill) if os.path.basename(path).lower() == b"skill.md"), None)
        what = f", but a {os.path.basename(other).decode()}" if other else ""
        yield Found("SK001", skill, f"the skill directory has no SKILL.md{what}")
    yield from _resources(view, skill, files)
    for path in files:
        yield from _file(view, skill, path)
    size = sum(view.size(path) for path in view.below(skill))
    if size >= standards.SKILL_BYTES_MAX:
        yield Found("SK030", skill, f"the skill has {size} bytes")


def _resources(view: View, skill: bytes, files: list[bytes]) -> Iterator[Found]:
    """SK025: each resource directory has a file that is content. The finding names the file that only stands there."""
    cut = len(skill) + 1 if skill else 0
    by_directory: dict[bytes, list[bytes]] = defaultdict(list)
    for path in files:
        top, _, rest = path[cut:].partition(b"/")
        if rest and top in RESOURCES:
            by_directory[top].append(path)
    for paths in by_directory.values():
        if all(_hollow(view, path) for path in paths):
            message = "the directory holds no content, only what should be written one day"
            yield from (Found("SK025", path, message) for path in paths[:_MOST])


def _hollow(view: View, path: bytes) -> bool:
    if view.size(path) == 0 or os.path.basename(path) in {b".gitkeep", b".keep", b".DS_Store"}:
        return True
    return path.lower().endswith((b".md", b".markdown", b".txt")) and is_placeholder(path, view.text(path) or "-")


def _file(view: View, skill: bytes, path: bytes) -> Iterator[Found]:
    content = view.text(path)
    if content is None:
        return
    if path.lower().endswith(_MARKDOWN):
        yield from (Found("SK022", path, message, line) for line, message in text.placeholders(content)[:_MOST])
        inside = path[len(skill) + 1 :] if skill else path
        if inside.startswith(b"references/") and not _has_contents(content):
            yield Found("SK026", path, "it has over 100 lines and no table of contents")
    yield from (Found("SK027", path, message, line) for line, message in text.hidden_characters(content)[:_MOST])
    yield from (Found("SK028", path, message, line) for line, message in text.dangers(content)[:_MOST])


_CONTENTS = re.compile(r"^\W*(?:table of )?contents\W*$|^\W*toc\W*$", re.IGNORECASE | re.MULTILINE)


def _has_contents(content: str) -> bool:
    if content.count("\n") <= standards.REFERENCE_LINES_MAX:
        return True
    top = "\n".join(content.split("\n", 40)[:40])
    return _CONTENTS.search(top) is not None or top.count("](#") >= 3


def check_siblings(view: View) -> Iterator[Found]:
    """SK029: skills of one plugin have different names and different texts."""
    named: dict[str, bytes] = {}
    words: list[tuple[bytes, frozenset[tuple[str, ...]]]] = []
    skills = [path for skill in view.skill_dirs() if view.is_file(path := join(skill, SKILL))]
    for path in skills:
        head = view.head(path)
        name = head.mapping.get("name")
        if isinstance(name, str) and name:
            if name in named:
                yield Found(
                    "SK029", path, f"the name {name!r} is that of another skill of the plugin", head.lines["name"]
                )
            named.setdefault(name, path)
        if 1 < len(skills) <= _COMPARED:
            words.append((path, _triples(head.body.decode("utf-8", "replace"))))
    for number, (path, mine) in enumerate(words):
        for other, theirs in words[:number]:
            common = len(mine & theirs)
            if mine and common >= standards.ALIKE * len(mine | theirs):
                name = os.path.dirname(other).decode("utf-8", "backslashreplace")
                yield Found("SK029", path, f"it says nearly the same as the skill in {name}")
                break


def _triples(body: str) -> frozenset[tuple[str, ...]]:
    words = re.findall(r"\w+", body.lower())[:20000]
    return frozenset(zip(words, words[1:], words[2:], strict=False))
