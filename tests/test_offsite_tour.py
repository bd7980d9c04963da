"""The tour of docs/offsite.md is real: its commands, run again against the same kinds of servers, print the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import METADATA
from tests.support.tour import PAGE, ROOT, machine, play, varying


def test_the_tour_is_what_the_commands_print(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for name in ("moto", "flask", "obstore", "cryptography"):
        pytest.importorskip(name)
    home = tmp_path / "home"
    home.mkdir()
    commands = []
    with machine(home, f"{ROOT}:{request.config.stash[METADATA]}") as tour:
        for command, shown, expected, code, printed in play(tour, PAGE.read_text(encoding="utf-8")):
            assert code == expected, (command, printed)
            assert len(printed) == len(shown), (command, printed)
            for line, now in zip(shown, printed, strict=True):
                wanted, found = varying(line), varying(now)
                if "…" in (line[-1:], now[-1:]):
                    length = min(len(wanted), len(found)) - 8  # the cut is at another place when a number is longer
                    wanted, found = wanted[:length], found[:length]
                assert found == wanted, (command, line, now)
            commands.append(command)
    assert len(commands) > 20
