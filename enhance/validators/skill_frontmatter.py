"""SK002 to SK017: the head of a SKILL.md."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator

from enhance.discover import join
from enhance.frontmatter import Frontmatter
from enhance.validators import standards
from enhance.validators.rules import Found
from enhance.validators.view import View

KEBAB = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_FENCED = re.compile(rb"\s*(?:```|~~~)")


def check(view: View, path: bytes) -> Iterator[Found]:
    """Hold the head of the SKILL.md at `path` against the rules."""
    head = view.head(path)
    if path in view.unreadable:
        yield Found("SK002", path, f"it cannot be read: {view.unreadable[path]}", 1)
        return
    yield from _form(view, path, head)
    if not head.mapping:
        return
    yield from _name(view, path, head)
    yield from _description(path, head)
    yield from _other_keys(view, path, head)


def _form(view: View, path: bytes, head: Frontmatter) -> Iterator[Found]:
    data = view.data(path)
    fenced = _FENCED.match(data) is not None
    if fenced:
        yield Found("SK002", path, "it begins with a code fence", 1)
    for problem in head.problems:
        if problem.flaw == "missing" and not fenced:
            yield Found("SK002", path, problem.message, 1)
        elif problem.flaw != "missing":
            yield Found("SK002" if problem.flaw == "encoding" else "SK003", path, problem.message, problem.line)
    if head.present and not head.problems:
        if data[:4] != b"---\n":
            yield Found("SK002", path, "its first line is not exactly ---", 1)
        if not head.mapping:
            yield Found("SK003", path, "the frontmatter is empty", 1)


def _name(view: View, path: bytes, head: Frontmatter) -> Iterator[Found]:
    name, line = head.mapping.get("name"), head.lines.get("name", 1)
    if not isinstance(name, str) or not name.strip():
        yield Found("SK004", path, "there is no name" if name in (None, "") else "the name is not a string", line)
        return
    name = unicodedata.normalize("NFKC", name)
    if len(name) > standards.NAME_MAX:
        yield Found("SK004", path, f"the name has {len(name)} characters", line)
    if not KEBAB.fullmatch(name):
        yield Found("SK005", path, f"the name {name!r} is not words of a-z and 0-9 joined by single hyphens", line)
    directory = directory_name(view.plugin.path, path)
    if directory is not None and name != unicodedata.normalize("NFKC", directory):
        yield Found("SK006", path, f"the name {name!r} is not that of its directory, {directory!r}", line)
    for word in standards.RESERVED_WORDS:
        if word in name.lower():
            yield Found("SK007", path, f"the name contains {word!r}", line)


def directory_name(plugin: bytes, path: bytes) -> str | None:
    """Return the name of the directory that a SKILL.md lies in, None where that is the source itself."""
    directory = os.path.dirname(join(plugin, path))
    return os.path.basename(directory).decode("utf-8", "backslashreplace") if directory else None


_WHEN = re.compile(
    r"\b(?:when(?:ever)?|use (?:this|it|for|to|if)|used (?:when|for|to|if)|trigger(?:s|ed)?|activat\w+|if (?:the|a|you)"
    r"|ask(?:s|ed)?|requests?|before|after|during|while|mentions?|useful for|suitable for|needs? to|for (?:any|all))\b",
    re.IGNORECASE,
)
_PERSON = re.compile(
    r"(?:^|[.!?]\s)(?:I|I'm|I'll|You|We|My|Our|Let me|Let's)\b"
    r"|\b(?:I can|I will|I'll|I am|I help|you can use|we can|we will)\b"
)


def _description(path: bytes, head: Frontmatter) -> Iterator[Found]:
    text, line = head.mapping.get("description"), head.lines.get("description", 1)
    if not isinstance(text, str) or not text.strip():
        missing = text is None or text == ""
        yield Found("SK008", path, "there is no description" if missing else "the description is not a string", line)
        return
    if len(text) > standards.DESCRIPTION_MAX:
        yield Found("SK008", path, f"the description has {len(text)} characters", line)
    if "<" in text or ">" in text:
        yield Found("SK009", path, "the description has angle brackets", line)
    if not _WHEN.search(text):
        yield Found("SK010", path, "the description does not say when to use the skill", line)
    elif len(text.split()) < 5:
        yield Found("SK010", path, "the description hardly says what the skill does", line)
    if _PERSON.search(text):
        yield Found("SK011", path, "the description is not in the third person", line)
    also = head.mapping.get("when_to_use")
    if isinstance(also, str) and len(text) + len(also) > standards.LISTED_MAX:
        message = f"description and when_to_use have {len(text) + len(also)} characters together"
        yield Found("SK019", path, message, head.lines.get("when_to_use", 1))


def allowed_keys(profile: str) -> frozenset[str]:
    """Return the keys that a profile knows."""
    return frozenset(standards.KEYS + (standards.CLAUDE_KEYS if profile == "claude-code" else ()))


def _other_keys(view: View, path: bytes, head: Frontmatter) -> Iterator[Found]:
    mapping = head.mapping
    for key in mapping:
        if key not in allowed_keys(view.profile):
            yield Found(
                "SK012", path, f"the key {key!r} is not one of the profile {view.profile}", head.lines.get(key, 1)
            )
    if "compatibility" in mapping:
        text, line = mapping["compatibility"], head.lines.get("compatibility", 1)
        if not isinstance(text, str) or not text.strip() or len(text) > standards.COMPATIBILITY_MAX:
            yield Found(
                "SK013", path, f"compatibility is not a string of 1 to {standards.COMPATIBILITY_MAX} characters", line
            )
    if "metadata" in mapping:
        pairs, line = mapping["metadata"], head.lines.get("metadata", 1)
        if not isinstance(pairs, dict):
            yield Found("SK014", path, "metadata is not a mapping", line)
        else:
            wrong = [str(key) for key, value in pairs.items() if not isinstance(key, str) or not isinstance(value, str)]
            if wrong:
                yield Found("SK014", path, f"in metadata these are not strings: {', '.join(wrong)}", line)
    if "license" in mapping:
        yield from _license(view, path, head)
    if "allowed-tools" in mapping:
        yield from _tools(path, mapping["allowed-tools"], head.lines.get("allowed-tools", 1))


_LICENSE_FILE = re.compile(r"\b(?:LICEN[CS]E|COPYING|NOTICE)(?:[-.][\w.-]*\w)?|\b[\w-]+\.(?:txt|md)\b")


def _license(view: View, path: bytes, head: Frontmatter) -> Iterator[Found]:
    text, line = head.mapping["license"], head.lines.get("license", 1)
    if not isinstance(text, str) or not text.strip():
        yield Found("SK015", path, "license is not a string", line)
        return
    if len(text) > standards.LICENSE_MAX or "\n" in text.strip():
        yield Found("SK015", path, "license is long: name it, or the file that holds it", line)
        return
    for match in _LICENSE_FILE.finditer(text):
        name = match[0].encode()
        if not view.has(join(os.path.dirname(path), name)) and not view.has(name):
            yield Found("SK015", path, f"license names the file {match[0]}, which is not there", line)


_TOOL = re.compile(r"[^\s,(]+(?:\([^)]{0,300}\)?)?|\([^)]{0,300}\)?")


def split_tools(text: str) -> list[str]:
    """Return the tools in a string, which blanks or commas part; what stands in parentheses stays together."""
    return _TOOL.findall(text)


def _tools(path: bytes, value: object, line: int) -> Iterator[Found]:
    if isinstance(value, str):
        tools = split_tools(value)
        if "," in re.sub(r"\([^)]{0,300}\)", "", value):
            yield Found("SK016", path, "allowed-tools has commas where spaces belong", line)
    elif isinstance(value, list):
        tools = [str(item) for item in value]
        yield Found("SK016", path, "allowed-tools is a list, not a string", line)
    else:
        yield Found("SK016", path, "allowed-tools is not a string", line)
        return
    for tool in tools:
        name, _, scope = tool.partition("(")
        if name == "Bash" and scope.strip(" )") in {"", "*", "*:*", ":*"}:
            yield Found("SK017", path, "Bash is not scoped: write for instance Bash(git:*)", line)
        elif name not in standards.TOOLS and not name.startswith("mcp__"):
            yield Found("SK017", path, f"the tool {name} is not known", line)
