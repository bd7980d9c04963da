"""Help, version and completion of the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from drkit import __version__
from drkit.cli.app import NAMES, commands
from tests.support.cli import Cli


def test_version(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    assert cli.ok("--version").text == f"drkit {__version__}\n"
    assert cli.ok("--version", "--json").json == {"version": __version__}


def test_help_groups_the_commands_and_names_the_environment(tmp_path: Path) -> None:
    text = Cli(tmp_path).ok("--help").text
    for name in NAMES:
        assert re.search(rf"^  {name} +[A-Z]", text, re.MULTILINE)
    for heading in ("Back up and restore:", "Look inside:", "Prove:", "Environment:", "Exit codes:", "Examples:"):
        assert heading in text
    assert "DRKIT_REPO" in text
    assert "..." not in text.partition("Back up")[2].partition("Environment")[0], "a summary is cut off"


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_has_help_with_examples(tmp_path: Path, name: str) -> None:
    cli = Cli(tmp_path)
    text = cli.ok(*name.split(), "--help").text
    assert text == cli.ok(*name.split(), "-h", "-q").text
    assert f"Usage: drkit {name}" in text
    examples = text.partition("  Examples:\n")[2].splitlines()
    assert examples
    assert all(line.startswith("    drkit ") for line in examples)


def test_a_bare_call_shows_the_help(tmp_path: Path) -> None:
    run = Cli(tmp_path)()
    assert run.code == 2
    assert "Look inside:" in run.text
    assert "no command given" in run.err


def test_completion_knows_every_command_and_option(tmp_path: Path) -> None:
    cli = Cli(tmp_path, _DRKIT_COMPLETE="complete_bash", COMP_WORDS="drkit ", COMP_CWORD="1")
    assert cli.ok().text.split() == list(NAMES)
    cli.environ |= {"COMP_WORDS": "drkit ls --lo", "COMP_CWORD": "2"}
    assert cli.ok().text.split() == ["--long"]
    assert "complete -o default" in Cli(tmp_path, _DRKIT_COMPLETE="source_bash").ok().text
