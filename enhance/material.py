"""What a generator may know of a plugin: its own texts, without placeholders and without what enhance wrote itself."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping

from drkit.format import TreeHash
from drkit.source import open_file
from enhance.discover import SKILL, join, shown
from enhance.model import Finding, Material, Plugin

TEXT_MAX = 64 * 1024
"""Bytes of each text that a generator sees; what is cut off is not shown to it."""
READ_MAX = 1024 * 1024
"""Files over this are not texts of a plugin: not read as such, only hashed."""
ENOUGH = {"portable": 600, "claude-code": 600, "marketplace": 8000}
"""Bytes of own material under which a plugin is thin, by profile."""
_LICENSES = re.compile(rb"(?:LICEN[CS]E|COPYING|NOTICE)(?:\.[A-Za-z]+)?\Z", re.IGNORECASE)
_BOX = re.compile(r"[-*+] \[ ?\](?:\s|$)")
_EMPTY_WORDS = re.compile(
    r"\b(?:TODO|FIXME|TBD|PLACEHOLDER)\b|\[(?:Your|INSERT)\b|lorem ipsum|coming soon", re.IGNORECASE
)


def material(source: bytes, plugin: Plugin, *, profile: str, written: Mapping[bytes, str] | None = None) -> Material:
    """Read a plugin and return what a generator may know of it.

    `written` maps paths relative to the plugin to the SHA-256 (hexadecimal) of what enhance last wrote there: a file
    that still is that is left out. Files that cannot be read are findings. `input_sha256` is the tree hash
    (docs/format.md, section 6) of the plugin's regular files, without directories, nested plugins and what enhance
    wrote; it does not depend on the profile.
    """
    texts: dict[bytes, str] = {}
    sizes: dict[bytes, int] = {}
    findings: list[Finding] = []
    tree = TreeHash()
    written = written or {}
    for path in plugin.files:
        full = join(source.rstrip(b"/"), join(plugin.path, path))
        try:
            fd, status = open_file(full)
            with open(fd, "rb") as file:
                data = file.read(READ_MAX + 1)
                digest = hashlib.sha256(data)
                while more := file.read(READ_MAX):
                    digest.update(more)
        except OSError as error:
            message = f"it cannot be read: {error.strerror or error}"
            findings.append(Finding("PM001", "warning", shown(plugin, path), message))
            continue
        if written.get(path) == digest.hexdigest():
            continue
        tree.add(path, "f", status.st_mode & 0o7777, digest.digest())
        sizes[path] = status.st_size
        text = readable(data)
        if text is not None and not is_placeholder(path, text):
            texts[path] = text
    return Material(
        plugin=plugin,
        profile=profile,
        texts=texts,
        sizes=sizes,
        input_sha256=tree.hexdigest(),
        thin=sum(sizes[path] for path in texts if grounds(path)) < ENOUGH[profile],
        findings=(*plugin.problems, *findings),
    )


def readable(data: bytes) -> str | None:
    """Return the beginning of a text, at most `TEXT_MAX` bytes of it; None for what is not UTF-8 text."""
    if len(data) > READ_MAX or b"\0" in data:
        return None
    try:
        data.decode()
    except UnicodeDecodeError:
        return None
    return data[:TEXT_MAX].decode("utf-8", "ignore")


def grounds(path: bytes) -> bool:
    """Whether a file counts as material to write from: not a licence, and not a skill, which is what is written."""
    return (
        not _LICENSES.match(os.path.basename(path))
        and not path.startswith(b"skills/")
        and os.path.basename(path) != SKILL
    )


def is_placeholder(path: bytes, text: str) -> bool:
    """Whether a text stands where content should be: empty, or a list of things that somebody meant to write.

    Headings and blank lines are no content. A README with open boxes and hardly anything else is a placeholder, and
    so is any Markdown whose every line is an open box or holds TODO, FIXME, "coming soon" and the like.
    """
    if not text.strip():
        return True
    if not path.lower().endswith((b".md", b".markdown", b".txt")):
        return False
    lines = [line.strip() for line in text.splitlines()]
    content = [line for line in lines if line and not line.startswith("#") and line.strip("-=*_ ")]
    boxes = [line for line in content if _BOX.match(line)]
    rest = [line for line in content if not _BOX.match(line) and not _EMPTY_WORDS.search(line)]
    if os.path.basename(path).lower().startswith(b"readme") and boxes:
        return len(rest) <= 3 and sum(map(len, rest)) <= 400
    vague = [line for line in content if _EMPTY_WORDS.search(line)]
    return bool(content) and not rest and bool(vague)
