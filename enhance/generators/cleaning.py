"""What is taken out of a plugin's texts before a model sees them, because it must not reach what the model writes.

A model repeats what it reads, and obeys it now and then. So it never sees what a person would not see (invisible
characters, HTML comments), what speaks to a model and not to a reader, and what rule SK028 would find in the output:
commands that run what they download or decode, and secrets. What is taken out is named, so that a report can say it.
The validators look at the output again.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

from enhance.validators import dangers

LEFT_OUT = "[left out]"
MOST_ROUNDS = 100
"""How often a text is looked at again; what is harmful after that is left out whole."""

_STYLES = str.maketrans("", "", "\ufe0e\ufe0f")
"""Whether an emoji has colour: invisible, and in half of all READMEs; taken out without a word."""
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff9-\ufffb"
    "\ud800-\udfff\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}-----|\Z)", re.DOTALL)
_ADDRESSED = re.compile(
    r"""
    \b(?:ignore|disregard|forget|override|bypass)\b[^.]{0,40}
        \b(?:previous|prior|above|earlier|preceding|system|all|your|these|those)\b[^.]{0,40}
        \b(?:instructions?|prompts?|rules?|guidelines?|directions?|context|messages?)\b
    | \b(?:ignore|disregard|forget|override|bypass)\b[^.]{0,40}
        \b(?:instructions?|prompts?|rules?|guidelines?)\b[^.]{0,20}\b(?:above|before|so\s{1,9}far|given|told)\b
    | \b(?:new|updated|hidden|secret|real|actual)\s{1,9}(?:system\s{1,9})?instructions?\s{0,9}:
    | \b(?:reveal|print|repeat|output|leak)\b[^.]{0,40}\bsystem\s{1,9}prompt\b
    | \b(?:do\s{1,9}not|don't|never)\s{1,9}(?:tell|inform|mention|reveal|show|alert|warn)\b[^.]{0,40}
        \b(?:user|human)s?\b
    | \byou\s{1,9}are\s{1,9}now\b
    | \b(?:note|notice|message|attention|important|instructions?)\s{1,9}(?:to|for)\s{1,9}(?:all\s|any\s|the\s)?\s{0,9}
        (?:ai|llms?|models?|language\s{1,9}models?|assistants?|agents?|chatbots?|copilots?)\b
    | \b(?:ai|llms?|language\s{1,9}models?|assistants?)\s{1,9}(?:reading\s{1,9}this|(?:who|that)\s{1,9}reads?)\b
    | \b(?:exfiltrate|send|post|upload)\b[^.]{0,60}\b(?:secrets?|credentials|tokens?|passwords?)\b[^.]{0,40}\bto\b
    | </?(?:system|assistant|user|instructions?|im_start|im_end|human)\b[^>]{0,200}>
    | <\|[^|]{1,40}\|>
    | ^\s{0,9}(?:assistant|human)\s{0,9}:(?:\s{1,9}\S{1,99}){3}
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Bounded everywhere: hostile text must not cost more time than in proportion to its length."""


def clean(text: str) -> tuple[str, tuple[str, ...]]:
    """Return a text without what a model must not see, and what was taken out of it, in words."""
    taken = []
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_STYLES)
    for word, take in _STEPS:
        after = take(text)
        if after != text:
            taken.append(word)
        text = after
    return text, tuple(taken)


def _without_dangers(text: str) -> str:
    """Leave out every line that rule SK028 names; what it names in one look is bounded, so it looks again."""
    for _ in range(MOST_ROUNDS):
        bad = {line for line, _ in dangers(text)}
        if not bad:
            return text
        lines = text.split("\n")
        text = "\n".join(LEFT_OUT if number in bad else line for number, line in enumerate(lines, 1))
    return LEFT_OUT


def _without_addresses(text: str) -> str:
    """Leave out what speaks to a model: sentences run over line ends, so each line is read with the next one."""
    lines = text.split("\n")
    bad = {number for number, line in enumerate(lines) if _ADDRESSED.search(line)}
    for number, (line, after) in enumerate(itertools.pairwise(lines)):
        if not {number, number + 1} & bad and _ADDRESSED.search(f"{line[-200:]} {after[:200].lstrip()}"):
            bad |= {number, number + 1}
    return "\n".join(LEFT_OUT if number in bad else line for number, line in enumerate(lines))


_STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("invisible characters", lambda text: _INVISIBLE.sub("", text)),
    ("HTML comments", lambda text: _COMMENT.sub(" ", text)),  # nothing may close up to a new one
    ("a private key", lambda text: _PRIVATE_KEY.sub(LEFT_OUT, text)),
    ("secrets, or commands that run what they fetch or decode", _without_dangers),
    ("lines that address a model", _without_addresses),
)
