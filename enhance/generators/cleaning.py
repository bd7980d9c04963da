"""What is taken out of a plugin's texts before a model sees them, because it must not reach what the model writes.

A model repeats what it reads, and obeys it now and then. So it never sees what a person would not see (invisible
characters, HTML comments), what speaks to a model and not to a reader, commands that run what they download or decode,
and secrets. What is taken out is named, so that a report can say it. The validators look at the output again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

LEFT_OUT = "[left out]"

_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff9-\ufffb"
    "\ud800-\udfff\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_STYLES = str.maketrans("", "", "\ufe0e\ufe0f")
"""Whether an emoji has colour: invisible, and in half of all READMEs; taken out without a word."""
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_ADDRESSED = re.compile(
    r"""
    \b(?:ignore|disregard|forget|override|bypass)\b[^.\n]{0,40}
        \b(?:previous|prior|above|earlier|preceding|system|all|your|these|those)\b[^.\n]{0,40}
        \b(?:instructions?|prompts?|rules?|guidelines?|directions?|context|messages?)\b
    | \b(?:new|updated|hidden|secret|real|actual)\s+(?:system\s+)?instructions?\s*:
    | \b(?:reveal|print|repeat|output|leak)\b[^.\n]{0,40}\bsystem\s+prompt\b
    | \b(?:do\s+not|don't|never)\s+(?:tell|inform|mention|reveal|show|alert|warn)\b[^.\n]{0,40}
        \b(?:the\s+)?(?:user|human)s?\b
    | \byou\s+are\s+now\b
    | \b(?:note|notice|message|attention|important|instructions?)\s+(?:to|for)\s+(?:all\s+|any\s+|the\s+)?
        (?:ai|llms?|models?|language\s+models?|assistants?|agents?|chatbots?|copilots?)\b
    | \b(?:ai|llms?|language\s+models?|assistants?)\s+(?:reading\s+this|who\s+reads?|that\s+reads?)\b
    | </?(?:system|assistant|user|instructions?|im_start|im_end|human)\b[^>\n]*>
    | <\|[^|\n]{1,40}\|>
    | ^\s*(?:system|assistant|human)\s*:(?:\s+\S+){3}
    """,
    re.VERBOSE | re.IGNORECASE,
)
_RUNS_DOWNLOAD = re.compile(
    r"""
    \b(?:curl|wget|fetch|iwr|irm|invoke-webrequest|invoke-restmethod)\b[^\n]*\|\s*
        (?:sudo\s+(?:-\S+\s+)*)?(?:env\s+)?(?:/\S*/)?(?:ba|z|da|k|fi)?(?:sh|python[\d.]*|perl|ruby|node|php|iex|invoke-expression)\b
    | \b(?:ba|z|da|k)?sh\b[^\n]*(?:<\(|\$\(|`)\s*(?:curl|wget)\b
    | \b(?:eval|source|\.|iex)\s*["'(]?\s*(?:<\(|\$\(|`|\()?\s*(?:curl|wget|iwr|irm)\b
    | \bbase64\b[^\n]*(?:-d|-D|--decode)\b[^\n]*\|\s*
        (?:sudo\s+)?(?:\S*/)?(?:ba|z|da|k)?(?:sh|python[\d.]*|perl|ruby|node)\b
    | \b(?:eval|exec)\s*\(?[^\n]*\b(?:b64decode|atob|base64)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SECRET = re.compile(
    r"""
    -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    | \bAKIA[0-9A-Z]{16}\b
    | \bAIza[0-9A-Za-z_-]{35}
    | \bgh[pousr]_[0-9A-Za-z]{36,}
    | \bgithub_pat_[0-9A-Za-z_]{22,}
    | \bglpat-[0-9A-Za-z_-]{20,}
    | \bsk-(?:ant-|proj-)?[0-9A-Za-z_-]{20,}
    | \bsk_live_[0-9A-Za-z]{16,}
    | \bxox[abposr]-[0-9A-Za-z-]{10,}
    | \beyJ[0-9A-Za-z_-]{10,}\.eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}
    """,
    re.VERBOSE | re.DOTALL,
)


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


def _without_lines(pattern: re.Pattern[str]) -> Callable[[str], str]:
    """Return what replaces every line in which a pattern is found; a line that a backslash continues is one line."""

    def take(text: str) -> str:
        return "".join(
            LEFT_OUT + line[len(line.rstrip("\n")) :] if pattern.search(line.replace("\\\n", " ")) else line
            for line in _lines(text)
        )

    return take


def _lines(text: str) -> Iterator[str]:
    held = ""
    for line in text.splitlines(keepends=True):
        held += line
        if not line.endswith("\\\n"):
            yield held
            held = ""
    if held:
        yield held


_STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("invisible characters", lambda text: _INVISIBLE.sub("", text)),
    ("HTML comments", lambda text: _COMMENT.sub("", text)),
    ("secrets", lambda text: _SECRET.sub(LEFT_OUT, text)),
    ("commands that run what they fetch or decode", _without_lines(_RUNS_DOWNLOAD)),
    ("lines that address a model", _without_lines(_ADDRESSED)),
)
