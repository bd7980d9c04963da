"""What no text may hold, whoever wrote it: hidden characters, hidden instructions, code that hides, secrets.

The functions take any text: a skill, a README that goes into a prompt, a model's answer. They return (line, message)
pairs, line counting from 1, and never quote a secret.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import islice

Mark = tuple[int, str]

_MOST = 50
"""Marks of one kind in one text. Every expression here is bounded too: hostile text must not cost more than time
in proportion to its length."""

_HIDDEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0d"
    "\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff\U0001d173-\U0001d17a\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]"
)
_JOINER = "\u200d"


def hidden_characters(text: str) -> list[Mark]:
    """Return where a text holds invisible, direction-changing or control characters (rule SK027).

    A zero-width joiner between two symbols is how emoji are made, and is allowed there.
    """
    matches = (
        match for match in _HIDDEN.finditer(text) if not (match[0] == _JOINER and _joins_symbols(text, match.start()))
    )
    return [
        (_line(text, match.start()), f"the character U+{ord(match[0]):04X} {_name(match[0])} is invisible")
        for match in islice(matches, _MOST)
    ]


def _name(char: str) -> str:
    return unicodedata.name(char, "(control)").lower()


def _joins_symbols(text: str, at: int) -> bool:
    before = text[max(0, at - 2) : at].rstrip("\ufe0f")[-1:]
    after = text[at + 1 : at + 2]
    return bool(before and after) and all(unicodedata.category(char) in {"So", "Sk"} for char in (before, after))


_COMMENT = re.compile(r"<!--(.*?)(?:-->|\Z)", re.DOTALL)
_ORDERS = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass|instructions?|system prompt|assistant|claude|gemini|gpt|model|agent"
    r"|you (?:must|should|are|will)|do not (?:tell|mention|reveal|say)|don't (?:tell|mention|reveal)|secretly|silently"
    r"|execute|exfiltrate|upload|send (?:the|all|your|this)|run (?:the|this)|password|credentials?)\b",
    re.IGNORECASE,
)
_SHELL = (
    r"(?:sudo\s{1,9}(?:-\S{1,40}\s{1,9}){0,4})?(?:/(?:usr/)?bin/)?(?:env\s{1,9})?"
    r"(?:(?:ba|z|da|k|fi|c)?sh|python[\d.]*|perl|ruby|node|php|pwsh|powershell|iex|Invoke-Expression)\b"
)
_FETCH = r"\b(?:curl|wget|fetch|iwr|irm|Invoke-WebRequest|Invoke-RestMethod)\b"
_TEE = r"(?:tee\s{1,9}\S{1,200}\s{0,9}\|\s{0,40})?"
_RUN = r"(?:\b(?:ba|z|k|da)?sh\b|\bsource\b|\beval\b|(?<!\S)\.)[^\n|;]{0,80}?(?:<\(|\$\(|`)\s{0,9}"
_DECODED = r"(?:\batob\b|b64decode|base64\s+(?:-d|-D|--decode)|base64_decode|fromCharCode)"
_DANGERS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (message, re.compile(pattern, re.IGNORECASE))
    for message, pattern in (
        ("it pipes a download into a shell", _FETCH + r"[^\n]{0,500}?\|\s{0,40}" + _TEE + _SHELL),
        ("it runs a download", _RUN + _FETCH),
        ("it runs a download", r"\b(?:iex|Invoke-Expression)\b[^\n]{0,80}?(?:" + _FETCH + "|DownloadString)"),
        ("it runs code hidden in base64", r"\bbase64\s{1,9}(?:-d|--decode)\b[^\n]{0,200}?\|\s{0,40}" + _SHELL),
        ("it runs code hidden in base64", r"\b(?:eval|exec)\b[^\n]{0,120}?" + _DECODED),
        (
            "it runs code hidden in base64",
            r"\b(?:powershell|pwsh)\b[^\n]{0,80}?\s-e(?:nc|ncodedcommand)?\s{1,9}[\w+/=]{20}",
        ),
    )
)
_DANGER_HINTS = (
    *("curl", "wget", "fetch", "iwr", "irm", "invoke-", "iex", "base64", "b64", "atob", "fromcharcode"),
    *("downloadstring", "powershell", "pwsh"),
)
"""A text without any of these, in lower case, holds no such code: looking for them costs less than the expressions."""
_SECRETS = re.compile(
    r"(?=[-Agxsrne])(?:"  # one look at the first character instead of ten
    r"(?P<key>-----BEGIN (?:[A-Z]{1,20} ){0,4}PRIVATE KEY-----)"
    r"|(?P<aws>\b(?:AKIA|ASIA)[0-9A-Z]{16}\b)"
    r"|(?P<github>\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}))"
    r"|(?P<gitlab>\bglpat-[A-Za-z0-9_-]{20,})"
    r"|(?P<google>\bAIza[0-9A-Za-z_-]{35}\b)"
    r"|(?P<slack>\bxox[abprs]-[0-9A-Za-z-]{20,})"
    r"|(?P<api>\bsk-(?:ant-|proj-|live-)?[A-Za-z0-9_-]{32,})"
    r"|(?P<stripe>\b[sr]k_live_[A-Za-z0-9]{20,})"
    r"|(?P<npm>\bnpm_[A-Za-z0-9]{36}\b)"
    r"|(?P<token>\beyJ[A-Za-z0-9_-]{15,300}\.eyJ[A-Za-z0-9_-]{15,}))"
)
_KINDS = {
    "key": "a private key",
    "aws": "an AWS access key",
    "github": "a GitHub token",
    "gitlab": "a GitLab token",
    "google": "a Google API key",
    "slack": "a Slack token",
    "api": "an API key",
    "stripe": "a Stripe key",
    "npm": "an npm token",
    "token": "a signed token",
}
_SECRET_HINTS = (
    *("-----BEGIN ", "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "AIza", "xox"),
    *("sk-", "k_live_", "npm_", "eyJ"),
)
_SAMPLE = re.compile(r"example|sample|your|dummy|fake|placeholder|xxxx|\.\.\.|1234567890|(.)\1{7}", re.IGNORECASE)


def dangers(text: str) -> list[Mark]:
    """Return what in a text would harm its reader (rule SK028).

    Instructions in HTML comments, downloads that are piped into a shell, code hidden in base64, and secrets. A key
    whose text shows that it is a sample is none.
    """
    found = list(_comments(text)) if "<!--" in text else []
    if _any(_DANGER_HINTS, text.lower()):
        # a NUL keeps count of the lines that a backslash joins
        joined = text.replace("\0", " ").replace("\\\r\n", "  \0").replace("\\\n", " \0")
        for message, pattern in _DANGERS:
            starts = [match.start() for match in islice(pattern.finditer(joined), _MOST)]
            found += [(_line(joined, at) + joined.count("\0", 0, at), message) for at in starts]
    for match in islice(_SECRETS.finditer(text), _MOST) if _any(_SECRET_HINTS, text) else ():
        kind = match.lastgroup or "key"
        if kind == "key" or not _SAMPLE.search(match[0]):
            found.append((_line(text, match.start()), f"it holds {_KINDS[kind]}"))
    return sorted(set(found))


def _any(hints: tuple[str, ...], text: str) -> bool:
    return any(hint in text for hint in hints)


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _comments(text: str) -> Iterator[Mark]:
    for match in islice(_COMMENT.finditer(text), _MOST):
        if _ORDERS.search(match[1]):
            yield _line(text, match.start()), "an HTML comment holds instructions"
        elif not match[0].endswith("-->"):
            yield _line(text, match.start()), "an HTML comment is not closed, so that the rest cannot be seen"


_FENCE = re.compile(r"[ \t>]*(?:[-*+]\s+|\d+[.)]\s+)?(`{3,}|~{3,})(.*)")


def open_fence(text: str) -> int:
    """Return the line on which a code fence is opened that nothing closes, 0 if every fence is closed."""
    opened, mark = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        if "```" not in line and "~~~" not in line:
            continue
        match = _FENCE.match(line)
        if match is None:
            continue
        fence, info = match[1], match[2]
        if not mark:
            if fence[0] == "~" or "`" not in info:
                opened, mark = number, fence
        elif fence[0] == mark[0] and len(fence) >= len(mark) and not info.strip():
            opened, mark = 0, ""
    return opened


_PLACEHOLDER = re.compile(r"\bTODO\b|\bFIXME\b|\[(?:Your|YOUR|your|INSERT|Insert|insert)\b|(?i:\blorem ipsum\b)")
_PLACEHOLDER_HINTS = ("TODO", "FIXME", "[Your", "[YOUR", "[your", "[INSERT", "[Insert", "[insert")
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(?:(?!\1).)+?(?<!`)\1(?!`)")


def placeholders(text: str) -> list[Mark]:
    """Return where a text holds words that stand for text to be written (rule SK022).

    Inside of a code span such a word is spoken of, not used: `TODO` is no placeholder in a skill that finds them.
    """
    if not _any(_PLACEHOLDER_HINTS, text) and "ipsum" not in text.lower():
        return []
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        bare = _CODE_SPAN.sub("", line) if "`" in line else line
        if match := _PLACEHOLDER.search(bare):
            found.append((number, f"there is a placeholder: {match[0]}"))
    return found


_BACKSLASH = re.compile(
    r"(?<![\w\\])(?:\.{1,2}\\){0,8}(?:scripts|references|assets|commands|agents|skills|hooks|docs|src|lib|bin)\\[A-Za-z0-9_.-]+"
)
_HOME = re.compile(r"(?<![\w./~}-])(?:/home/[A-Za-z0-9_.-]+|/Users/[A-Za-z0-9_.-]+|/root(?=/))(?:/|\b)")
_DRIVE = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]:(?:\\[A-Za-z0-9_]|/(?=[A-Za-z0-9_]))")
_SHARE = re.compile(r"(?<![\\\w])\\\\[A-Za-z0-9_.-]+\\[A-Za-z0-9_$.-]+")


_FOREIGN = (
    ("\\", "a path with backslashes", _BACKSLASH),
    ("/home/", "an absolute home path", _HOME),
    ("/Users/", "an absolute home path", _HOME),
    ("/root/", "an absolute home path", _HOME),
    (":\\", "an absolute drive path", _DRIVE),
    (":/", "an absolute drive path", _DRIVE),
    ("\\\\", "an absolute drive path", _SHARE),
)
"""What a text must hold for an expression to be tried, what the expression finds, and the expression."""


def foreign_paths(text: str) -> list[Mark]:
    """Return where a text names a path that only works on one system or for one user (rule SK024)."""
    found: set[Mark] = set()
    for pattern, what in {pattern: what for hint, what, pattern in _FOREIGN if hint in text}.items():
        found |= {(_line(text, one.start()), f"{what}: {one[0]}") for one in islice(pattern.finditer(text), _MOST)}
    return sorted(found)
