"""Text for made-up plugins: prose, lists, tables and code that compress about as well as real documentation.

Only `Random.random()` is drawn from, because Python promises the same sequence for it in every version: the
same seed gives the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from marketplace_words import ADJECTIVES, GLUE, JOINS, NOUNS, SMALL, TOPICS, VERBS

T = TypeVar("T")

_SHAPES = (
    "{A} {n} {v}s {d} {n} {j} {d} {a} {n}",
    "{V} {d} {n} {g} {v} {d} {a} {n}",
    "{D} {n} {v}s {d} {n}, {g} {d} {a} {n} {v}s {d} {t}",
    "{V} {j} {d} {t} {g} {d} {n} {v}s",
    "{D} {t} {v}s {d} {n} {j} {d} {n} {j} {d} {a} {n} {g} {d} {n} {v}s {d} {t}",
    "Use `{i}` to {v} {d} {t}, {g} `{i}` to {v} {d} {n}",
    "{D} {a} {t} {j} `{i}` {v}s {num} {n}s",
    "{G} {d} {t} {v}s {d} {n}, {v} {d} {a} {n} {j} {d} {n}",
    "**{N}**: {d} {n} {v}s {num} {t}s {j} {d} {a} {n}",
    "{V} {d} {a} {t} {j} {d} {n} ({num} {n}s, {num}% {a})",
    "{D} {n} {j} `{i}` is {a}; {v} it {g} {d} {t} {v}s {d} {n}",
    "Never {v} {d} {t} {g} {d} {n} is {a}: {v} {d} {n} first",
)

_HEADINGS = (
    "Overview", "Usage", "Features", "Requirements", "When to use it", "How it works", "Notes", "Examples",
    "Configuration", "Troubleshooting", "Output", "Error handling", "Limits", "Related", "Tips", "Steps",
)  # fmt: skip


def pick(rng: Random, options: Sequence[T]) -> T:
    """Return one of `options`, each equally likely."""
    return options[int(rng.random() * len(options))]


def between(rng: Random, low: int, high: int) -> int:
    """Return a number from `low` to `high`, both included."""
    return low + int(rng.random() * (high - low + 1))


def subset(rng: Random, options: Sequence[T], count: int) -> list[T]:
    """Return `count` of `options`, in an order of their own; fewer if there are not so many."""
    keyed = sorted((rng.random(), index) for index in range(len(options)))
    return [options[index] for _, index in keyed[:count]]


class Writer:
    """Writes about one topic with a share of the vocabulary: the files of one plugin resemble each other."""

    def __init__(self, rng: Random, topic: str) -> None:
        self._rng = rng
        self._things = TOPICS[topic].split()
        self._nouns = subset(rng, NOUNS.split(), 110)
        self._verbs = subset(rng, VERBS.split(), 80)
        self._adjectives = subset(rng, ADJECTIVES.split(), 60)
        small, joins, glue = SMALL.split(), JOINS.split(), GLUE.split()
        self._slots: dict[str, Callable[[], str]] = {
            "n": lambda: self._common(self._nouns),
            "v": lambda: self._common(self._verbs),
            "a": lambda: self._common(self._adjectives),
            "t": lambda: pick(rng, self._things),
            "d": lambda: pick(rng, small),
            "j": lambda: pick(rng, joins),
            "g": lambda: pick(rng, glue),
            "i": self.identifier,
            "num": self.number,
        }

    def _common(self, words: Sequence[str]) -> str:
        """Return a word; those at the front come far more often, as in any language."""
        return words[int(self._rng.random() ** 1.7 * len(words))]

    def identifier(self) -> str:
        """Return a name as programs have them."""
        parts = [self._common(self._verbs), pick(self._rng, self._things), self._common(self._nouns)]
        style = self._rng.random()
        if style < 0.5:
            return "_".join(parts[: between(self._rng, 2, 3)]).replace("-", "_")
        if style < 0.75:
            return parts[0] + parts[1].title().replace("-", "") + parts[2].title().replace("-", "")
        return "--" + parts[2] + ("" if style < 0.9 else "-" + parts[0])

    def number(self) -> str:
        """Return a number; now and then a duration or a version."""
        style = self._rng.random()
        if style < 0.6:
            return str(between(self._rng, 2, 500))
        if style < 0.8:
            return f"{between(self._rng, 1, 90)}.{between(self._rng, 0, 99)}"
        return f"{between(self._rng, 1, 12)}.{between(self._rng, 0, 30)}.{between(self._rng, 0, 9)}"

    def sentence(self) -> str:
        """Return one sentence without its full stop."""
        out: list[str] = []
        for part in pick(self._rng, _SHAPES).split("{"):
            slot, closing, rest = part.partition("}")
            if not closing:
                out.append(slot)
                continue
            word = self._slots[slot if slot == "num" else slot.lower()]()
            out.append((word.capitalize() if slot.isupper() else word) + rest)
        return "".join(out)

    def paragraph(self, sentences: int) -> str:
        """Return so many sentences on one line."""
        return " ".join(self.sentence() + "." for _ in range(sentences))

    def bullets(self, count: int, mark: str = "-") -> str:
        """Return a list of so many points; a `mark` of `1.` numbers them."""
        marks = (f"{i + 1}." if mark == "1." else mark for i in range(count))
        return "\n".join(f"{each} {self.sentence()}" for each in marks)

    def table(self, rows: int) -> str:
        """Return a Markdown table of three columns."""
        lines = ["| Name | Default | Meaning |", "|------|---------|---------|"]
        lines += [f"| `{self.identifier()}` | {self.number()} | {self.sentence()} |" for _ in range(rows)]
        return "\n".join(lines)

    def code(self, lines: int) -> str:
        """Return a fenced block of Python, shell, JSON or SQL."""
        rng, name, number = self._rng, self.identifier, self.number
        thing = self._slots["t"]
        makers: tuple[tuple[str, Callable[[], str]], ...] = (
            (
                "python",
                lambda: f"    {name()} = {name()}({name()}, {number()})  # {self._common(self._nouns)}",
            ),
            ("python", lambda: f"    if {name()} > {number()}:\n        return self.{name()}({name()!r})"),
            ("bash", lambda: f"{thing()}-cli {self._common(self._verbs)} {name()} --{name()}"),
            ("json", lambda: f'  "{name()}": "{self._common(self._adjectives)}-{number()}",'),
            ("sql", lambda: f"SELECT {name()}, {name()} FROM {thing()}s WHERE id = {number()};"),
        )
        language, maker = pick(rng, makers)
        return "\n".join([f"```{language}", *(maker() for _ in range(lines)), "```"])

    def document(self, title: str, size: int, *, front: dict[str, str] | None = None) -> str:
        """Return a Markdown document of about `size` characters, with `front` matter if there is any."""
        parts = [f"# {title}"]
        if front:
            parts.insert(0, "\n".join(["---", *(f"{key}: {value}" for key, value in front.items()), "---"]))
        if size > 300:
            parts.append(self.paragraph(between(self._rng, 1, 3)))
        blocks: tuple[Callable[[], str], ...] = (
            lambda: self.paragraph(between(self._rng, 2, 5)),
            lambda: self.bullets(between(self._rng, 3, 7)),
            lambda: self.bullets(between(self._rng, 3, 6), "1."),
            lambda: self.code(between(self._rng, 2, 12)),
            lambda: self.table(between(self._rng, 3, 6)),
        )
        length = sum(map(len, parts))
        while length < size:
            section = f"## {pick(self._rng, _HEADINGS)}\n\n{pick(self._rng, blocks)()}"
            parts.append(section)
            length += len(section) + 2
        return "\n\n".join(parts) + "\n"


def shell_script(writer: Writer, rng: Random, size: int) -> str:
    """Return a shell script of about `size` characters."""
    lines = ["#!/usr/bin/env bash", f"# {writer.sentence()}.", "set -euo pipefail", ""]
    length = sum(map(len, lines))
    while length < size:
        name = writer.identifier().strip("-").replace("-", "_")
        body = [f'    echo "{writer.sentence()}"', f'    local value="${{1:-{writer.number()}}}"']
        body += [f'    [[ -n "$value" ]] || return {between(rng, 1, 9)}'] if rng.random() < 0.5 else []
        chunk = "\n".join([f"{name}() {{", *body, "}", ""])
        lines.append(chunk)
        length += len(chunk)
    return "\n".join(lines) + "\n"
