"""The order of the command line: global options may stand anywhere before the first `--`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from drkit.errors import UsageError

WITH_VALUE = {"--repo": "--repo=", "-r": "--repo=", "--inventory": "--inventory=", "--config": "--config="}
FLAGS = ("--json", "--quiet", "-q", "--verbose", "-v")


class Argv(NamedTuple):
    """The arguments in the parser's order: global options, the command and its own, what follows `--`."""

    options: list[str]
    rest: list[str]
    tail: list[str] | None

    @property
    def all(self) -> list[str]:
        """Everything, as the parser takes it."""
        return [*self.options, *self.rest] + (["--", *self.tail] if self.tail is not None else [])

    def has(self, *flags: str) -> bool:
        """Whether one of the global `flags` was given."""
        return any(option in flags for option in self.options)


def hoist(args: Sequence[str]) -> Argv:
    """Move the global options to the front. A value that looks like one of them needs `=`: `--tag=-q`.

    UsageError if a global option lacks its value.
    """
    end = args.index("--") if "--" in args else len(args)
    options: list[str] = []
    rest: list[str] = []
    joined = tuple(WITH_VALUE.values())
    words = iter(args[:end])
    for word in words:
        if word in FLAGS or word.startswith(joined):
            options.append(word)
        elif word in WITH_VALUE:
            value = next(words, None)
            if value is None:
                raise UsageError(f"option {word} needs a value")
            options.append(WITH_VALUE[word] + value)
        else:
            rest.append(word)
    return Argv(options, rest, list(args[end + 1 :]) if end < len(args) else None)
