"""The documents say what the parser does: every command in them parses, and every command is in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer

from drkit.cli.app import build
from drkit.cli.app import commands as every_command
from drkit.cli.argv import hoist
from drkit.cli.output import Console
from drkit.cli.reference import MARK, commands
from drkit.cli.session import Session

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("README.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("runbooks/*.md")]
OPERATORS = re.compile(r"[|&;<>()]+")


def command_lines(text: str) -> Iterator[list[str]]:
    """Yield the words of every drkit command that begins a line of a code block, up to the first shell operator."""
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"(\$ )?drkit ", line):
                lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
                lexer.whitespace_split = True
                words = list(lexer)
                end = next((at for at, word in enumerate(words) if OPERATORS.fullmatch(word)), len(words))
                yield words[1:end]


def parse(words: list[str]) -> None:
    """Run the real parser over a command line, and nothing else."""
    parser: Any = typer.main.get_command(build())
    for command in parser.commands.values():
        for one in getattr(command, "commands", {"": command}).values():
            one.callback = lambda **_: None
    args = hoist(words)
    if args.rest == ["--version"]:
        return  # answered before there is a parser
    with (
        suppress(typer.Exit),
        parser.make_context("drkit", args.all, obj=Session(Console())) as context,
    ):  # --help exits
        parser.invoke(context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_parses(page: Path) -> None:
    for words in command_lines(page.read_text(encoding="utf-8")):
        try:
            parse(words)
        except Exception as error:
            message = f"{page.name}: drkit {shlex.join(words)}: {error}"
            raise AssertionError(message) from error


def test_a_wrong_command_is_found() -> None:
    found = list(
        command_lines("```sh\n$ drkit ls --frobnicate | head  # a comment\ndrkit \\\n  snapshots\n```\ndrkit x\n")
    )
    assert found == [["ls", "--frobnicate"], ["snapshots"]]
    parse(["snapshots"])
    parse(["--version", "--json"])
    parse(["ls", "--help"])
    for words in (["ls", "--frobnicate"], ["frobnicate"], ["diff", "latest"], ["ls", "--repo"]):
        with pytest.raises(Exception, match=r"frobnicate|Missing|needs a value"):
            parse(words)


def test_the_reference_is_current() -> None:
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert page.partition(MARK)[2] == "\n" + commands(), "run 'python -m drkit.cli.reference'"


def test_every_command_has_its_section_and_examples() -> None:
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    shown = [" ".join(words) + " " for words in command_lines(page)]
    for name, module in every_command():
        assert f"### {name}\n" in page
        begin = [line for line in shown if line.startswith(f"{name} ")]
        assert len(begin) >= len(module.EXAMPLES.strip().splitlines())
