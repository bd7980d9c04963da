"""Global options anywhere, and what `--` ends."""

from __future__ import annotations

import pytest

from drkit.cli.argv import hoist
from drkit.errors import UsageError


@pytest.mark.parametrize(
    ("line", "options", "rest", "tail"),
    [
        ("", "", "", None),
        ("ls", "", "ls", None),
        ("ls latest --json a/b", "--json", "ls latest a/b", None),
        ("ls -r /srv/x -q", "--repo=/srv/x -q", "ls", None),
        ("ls --repo=/srv/x -v", "--repo=/srv/x -v", "ls", None),
        ("--config f backup d --tag t", "--config=f", "backup d --tag t", None),
        ("backup --json -- -q --json", "--json", "backup", "-q --json"),
        ("guard exec p -- cmd -- -v", "", "guard exec p", "cmd -- -v"),
        ("ls --", "", "ls", ""),
        ("ls --repo --json", "--repo=--json", "ls", None),
        ("backup d --tag=-q", "", "backup d --tag=-q", None),
    ],
)
def test_global_options_come_first(line: str, options: str, rest: str, tail: str | None) -> None:
    args = hoist(line.split())
    assert args.options == options.split()
    assert args.rest == rest.split()
    assert args.tail == (None if tail is None else tail.split())


def test_the_parser_gets_everything_once() -> None:
    assert hoist(["ls", "-q", "x", "--", "--json"]).all == ["-q", "ls", "x", "--", "--json"]
    assert hoist(["ls", "-q"]).all == ["-q", "ls"]


@pytest.mark.parametrize("args", [["ls", "--repo"], ["ls", "-r"], ["--config", "--", "x"]])
def test_a_missing_value_is_not_taken_from_the_command(args: list[str]) -> None:
    with pytest.raises(UsageError, match="needs a value"):
        hoist(args)


def test_flags_are_known_before_parsing() -> None:
    args = hoist(["ls", "--quiet", "--", "--json"])
    assert args.has("-q", "--quiet")
    assert not args.has("--json")
