"""From a plugin's material to the text of a request: which files are shown, how they are quoted, how long it gets.

The prompts are the files beside this module, in `prompts/`. Places in double braces are filled in one pass, so that
nothing that comes in is looked at again. Whatever strangers wrote is cleaned, and stands between two lines that carry
a word which nobody can know who writes a file: it is drawn from the hash of all files.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
import re
from collections.abc import Iterable, Mapping

from enhance.generators.cleaning import clean
from enhance.model import Finding, Material

FAMILY = "skills-1"
"""The name of the prompts: raised when they are rewritten, while their hash follows every change."""
FILES = ("system.md", "plan.md", "generate.md", "repair.md")
MOST_FINDINGS = 40
_PLACE = re.compile(r"\{\{([a-z]+)\}\}")
_CHEAP = re.compile(r"[A-Za-z]+|\s+|[^\x00-\x7f]+")
_ORDER = (
    re.compile(rb"\.claude-plugin/"),
    re.compile(rb"readme[^/]*$", re.IGNORECASE),
    re.compile(rb"(commands|agents|skills|hooks)/"),
    re.compile(rb".*\.(md|mdx|rst|txt)$", re.IGNORECASE),
    re.compile(rb"(scripts|bin|src|lib|server)/"),
)


@functools.cache
def prompts() -> Mapping[str, str]:
    """The prompts by file name."""
    folder = importlib.resources.files("enhance.generators") / "prompts"
    return {name: (folder / name).read_text(encoding="utf-8") for name in FILES}


def version() -> str:
    """The name of the prompts and the beginning of a hash over their files: part of a generator's key."""
    whole = hashlib.sha256()
    for name, text in prompts().items():
        whole.update(f"{name}\n{len(text)}\n{text}".encode())
    return f"{FAMILY}-{whole.hexdigest()[:12]}"


def fill(name: str, values: Mapping[str, str]) -> str:
    """Return a prompt with its places filled. Values are not searched for places; a place without a value raises."""
    return _PLACE.sub(lambda match: values[match[1]], prompts()[name])


class Quoter:
    """Quotes what strangers wrote, for one plugin: cleaned, and between two lines with this plugin's own word."""

    def __init__(self, material: Material) -> None:
        whole = hashlib.sha256(f"{version()}\n{material.input_sha256}\n".encode() + material.plugin.path)
        for path, text in sorted(material.texts.items()):
            whole.update(path + b"\0" + text.encode("utf-8", "surrogatepass") + b"\0")
        self.boundary = whole.hexdigest()[:20]
        self.material = material

    def quote(self, text: str, name: str = "") -> str:
        """Return a text as data: cleaned, between its two lines, the first of which may name it."""
        inner = clean(text)[0].replace(self.boundary, "").strip("\n")
        return f"BEGIN {self.boundary} {clean(name)[0]}".rstrip() + f"\n{inner}\nEND {self.boundary}"

    def files(self, most: int) -> str:
        """Quote the plugin's files, the telling ones first, `most` characters of them; the rest by name and size."""
        parts, unseen, left = [], [], most
        for path in sorted(self.material.texts, key=_rank):
            text = clean(self.material.texts[path])[0].strip()
            if not text:
                continue
            if left <= 0:
                unseen.append(f"{label(path)} ({self.material.sizes.get(path, 0)} bytes)")
                continue
            shown = text if len(text) <= left else text[:left] + "\n[the rest is not shown]"
            left -= len(shown)
            parts.append(self.quote(shown, "file: " + label(path)))
        if unseen:
            parts.append(self.quote("\n".join(unseen[:200]), "files that are not shown"))
        plugin = self.material.plugin
        return "\n".join([self.quote(f"{plugin.name}\n{plugin.category}", "name and category"), *parts])

    def findings(self, findings: Iterable[Finding]) -> str:
        """Quote findings, one a line, the errors first: their messages may repeat what files say."""
        chosen = sorted(findings, key=lambda finding: finding.level != "error")[:MOST_FINDINGS]
        lines = [f"{item.rule} ({item.level}) {item.path}: {item.message}" for item in chosen]
        return self.quote("\n".join(line.replace("\n", " ") for line in lines) or "none")


def taken_out(material: Material) -> tuple[str, ...]:
    """Say of each file what was taken out of it before it was shown, for the record of a proposal."""
    return tuple(
        f"{label(path)}: not shown to the model: {', '.join(taken)}"
        for path in sorted(material.texts)
        if (taken := clean(material.texts[path])[1])
    )


def length(material: Material) -> str:
    """Say how long a skill should get."""
    if material.profile == "marketplace" and not material.thin:
        return (
            "Each skill comes to between 9,000 and 13,000 bytes, by going through all that the material holds: every "
            "command with its options and outcome, every agent, every failure that it mentions. Never by repetition."
        )
    return (
        "Each skill is as long as the material carries and no longer, between 1,000 and 9,000 bytes. "
        "A short skill that is exact is right; a long one that pads is wrong."
    )


def estimate(text: str) -> int:
    """Return more tokens than a text is likely to have, without asking anybody.

    Two letters, one run of blanks and one character of any other kind count as one token each; what is not ASCII
    counts as one token for each character. English prose comes out at about twice what tokenizers make of it; digits
    and punctuation, which they split into single characters, at their true number.
    """
    total, rest = 0, len(text)
    for match in _CHEAP.finditer(text):
        piece = match[0]
        rest -= len(piece)
        total += len(piece) if piece[0] > "\x7f" else (len(piece) + 1) // 2 if piece[0].isalpha() else 1
    return total + rest


def label(path: bytes) -> str:
    """Return a path as it stands in a prompt: on one line whatever its bytes are."""
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else json.dumps(text)


def _rank(path: bytes) -> tuple[int, int, bytes]:
    place = next((number for number, pattern in enumerate(_ORDER) if pattern.match(path)), len(_ORDER))
    return place, path.count(b"/"), path
