"""What of a plugin's text may go on into a skill, and in which form. What cannot be made harmless is left out.

A plugin's text is data. It may try to speak to the model that reads the skill, hide letters, carry keys, or hold the
leftovers of a template; none of it may come out. Nothing is ever added here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from enhance.generators.offline.markdown import Block, Section
from enhance.validators import text as rules

_SPEAKS_TO_THE_MODEL = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,60}\b(?:instructions?|prompts?|guidelines|system message)\b"
    r"|\b(?:system|developer)\s+prompt\b|\bdo\s+not\s+(?:tell|inform|mention|reveal)\b.{0,40}\buser\b"
    r"|\b(?:without|never)\b.{0,30}\b(?:telling|informing|asking)\b.{0,20}\bthe\s+user\b"
    r"|\byou\s+are\s+now\b|\bnew\s+instructions?\s*:|<\s*/?\s*(?:system|instructions?|assistant)\b|\bjailbreak"
    r"|\b(?:exfiltrat\w+|send|post|upload)\b.{0,60}\b(?:secrets?|credentials|tokens?|env(?:ironment)?\s+variables)\b"
    r".{0,40}\bto\b",
    re.IGNORECASE,
)
_WORDS_TO_THE_MODEL = ("instruction", "prompt", "guidelines", "system", "user", "now", "assistant", "jailbreak", " to ")
_SECRET = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bsk[-_][A-Za-z0-9_-]{16,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[0-9A-Za-z_-]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY|\bglpat-[A-Za-z0-9_-]{16,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.|://[^/\s:@]+:[^/\s:@$<{\[]{3,}@"
    r"|\b(?:r|s)k_(?:live|test)_[A-Za-z0-9]{10,}|hooks\.slack\.com/services/T"
    r"|(?i:\b(?:api[_-]?key|secret|token|passw(?:or)?d)\b[\"']?\s*[:=]\s*[\"'](?=[^\"']*[0-9])(?=[^\"']*[A-Z])[A-Za-z0-9+/_=-]{20,}[\"'])"
)
_LEFTOVER = re.compile(r"(?i)\bTBD\b|coming soon|\{\{\s*placeholder|PLACEHOLDER")
_WIPES = re.compile(r"\brm\s+-[rRf]+\s+(?:/|~|\$HOME)(?:\s|\*|$)")
_MARKETPLACE = re.compile(r"(?i)/plugin\s+(?:install|marketplace|uninstall|update|enable|disable)\b|claude\s+plugin\s")
_HAZARDS = (
    ("a secret", _SECRET),
    ("wipes a disk", _WIPES),
    ("a placeholder", _LEFTOVER),
    ("installs from a marketplace", _MARKETPLACE),
)
_TAG = re.compile(
    r"(?i)</?(?:a|b|br|center|code|dd|details|div|dl|dt|em|font|h[1-6]|hr|i|img|kbd|li|ol|p|picture|small|source|span"
    r"|strong|sub|summary|sup|table|tbody|td|th|thead|tr|u|ul|video|script|style|iframe)(?:\s[^<>]{0,400})?/?>"
)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_IMAGE = re.compile(r"\[?!\[[^\]]{0,200}\]\([^)\s]{0,500}(?:\s+\"[^\"]*\")?\)(?:\]\([^)]{0,500}\))?")
_LINK = re.compile(r"\[([^\[\]]{1,300})\]\(([^()\s]{0,800})(?:\s+\"[^\"]*\")?\)")
_YOUR_SLOT = re.compile(r"\[\s*(?:your|insert)\s+(\w)", re.IGNORECASE)
_UNTICKED = re.compile(r"^\s*\[[ xX]\]\s+")
_PICTURES = "\u2190-\u21ff\u2300-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
_LEADING_PICTURE = re.compile(rf"^[{_PICTURES}\s:|-]*[{_PICTURES}][{_PICTURES}\s]*")


_UNSEEN = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_HARMLESS = frozenset(["a placeholder", "a path of one machine"])
"""Reasons for which a long program is not left out as a whole: its beginning, before the line, may be used."""
_LONG_CODE = 20


def visible(text: str) -> str:
    """Drop what cannot be seen: controls, joiners, direction marks, tag characters, variation selectors."""
    if not text.isascii():
        text = _UNSEEN.sub("", text)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else _space(char) for char in text)


def _space(char: str) -> str:
    return " " if unicodedata.category(char) == "Zs" else ""


def hazard(text: str) -> str:
    """Say why a piece of text must not go into a skill; empty if it may."""
    lower = text.lower()
    if any(word in lower for word in _WORDS_TO_THE_MODEL) and _SPEAKS_TO_THE_MODEL.search(text):
        return "speaks to the model"
    for why, pattern in _HAZARDS:
        if pattern.search(text):
            return why
    for why, marks in (
        ("dangerous", rules.dangers),
        ("a placeholder", rules.placeholders),
        ("a path of one machine", rules.foreign_paths),
    ):
        if marks(text):
            return why
    return ""


def prose(text: str) -> str:
    """Return a line or a few of prose without HTML, images and links that lead nowhere from a skill's directory."""
    text = _COMMENT.sub("", _IMAGE.sub("", text))
    text = _outside_code(text, lambda part: _LINK.sub(_link, _TAG.sub("", part)))
    return _slots(re.sub(r"^\*\*\s+(?=\S)", "**", text)).strip()


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """Change what is not between backticks."""
    parts = re.split(r"(`+[^`]*`+)", text)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))


def _link(found: re.Match[str]) -> str:
    label, target = found[1], found[2]
    return found[0] if target.startswith(("https://", "http://")) and "://" not in label else label


def _slots(text: str) -> str:
    """Write slots of a template in the neutral way: `[Your Agency]` is `[Agency]`."""
    return _YOUR_SLOT.sub(lambda found: "[" + found[1].upper(), text)


def heading(text: str) -> str:
    """Return a heading's words: no pictures, marks, numbers of steps only where a word follows."""
    text = visible(prose(text.replace("**", "").replace("__", "")))
    text = _LEADING_PICTURE.sub("", text)
    return "" if hazard(text) else " ".join(text.split()).strip(" #:-–—*").strip()


def block(found: Block) -> Block | None:
    """Return a block as it may be used, or None."""
    match found.kind:
        case "code":
            return _code(found)
        case "list":
            items = tuple(item for part in found.parts if (item := _item(part)))
            return Block("list", items, found.info) if items else None
        case "table":
            rows = tuple(row for part in found.parts if (row := prose(visible(part))) and not hazard(row))
            return Block("table", rows) if len(rows) > 2 and _is_rule(rows[1]) else None
        case _:
            lines = tuple(line for part in found.parts if (line := prose(_LEADING_PICTURE.sub("", visible(part)))))
            whole = "\n".join(lines)
            return Block(found.kind, lines, found.info) if whole.strip("*_-= \n") and not hazard(whole) else None


def _is_rule(row: str) -> bool:
    return not row.strip("|:- \t")


def _code(found: Block) -> Block | None:
    lines = [_slots(visible(part).rstrip()) for part in found.parts]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    text = "\n".join(lines)
    info = re.sub(r"[^\w+#.-]", "", found.info)[:20]
    if not text or "<!--" in text:
        return None
    if not (why := hazard(text)):
        return Block("code", tuple(lines), info)
    if why in _HARMLESS and len(lines) > _LONG_CODE:
        good = next((number for number, line in enumerate(lines) if hazard(line)), 0)
        if good > _LONG_CODE and not hazard("\n".join(lines[:good])):
            return Block("code", tuple(lines[:good]), info, cut=True)
    return None


def _item(text: str) -> str:
    """An item with what is nested in it. Lines that may not be used go; the item goes with its first line."""
    text = visible(text)
    lines = text.split("\n")
    if "```" in text or "~~~" in text:
        if hazard(text) or any(text.count(mark) % 2 for mark in ("```", "~~~")) or "<!--" in text:
            return ""
        return _slots(text).strip()
    lines[0] = _LEADING_PICTURE.sub("", _UNTICKED.sub("", lines[0]))
    kept = []
    for number, line in enumerate(lines):
        indent = line[: len(line) - len(line.lstrip())].replace("\t", "    ")
        bare = prose(re.sub(r"^([-*+]\s+)\[[ xX]\]\s+", r"\1", line.strip()))
        if hazard(bare) or not bare.strip("*_-+ "):
            if number == 0:
                return ""
            continue
        kept.append(indent + bare)
    return "\n".join(kept)


def section(found: Section) -> Section:
    """Return a section with only what may be used; headings that may not be used keep no title."""
    return Section(
        found.level,
        heading(found.title),
        tuple(clean for part in found.blocks if (clean := block(part))),
        tuple(child for part in found.children if (child := section(part)).title and (child.blocks or child.children)),
    )
