"""A marketplace, a repository, and the commands of `drkit enhance` with a generator whose calls count."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from enhance.generators import GENERATORS
from tests.support.cli import Cli, Run
from tests.support.enhancing import Market, Scripted

ROOT = Path(__file__).parent.parent.parent
CONFIG = """
[enhance]
generator = "scripted"
model = "m1"

[enhance.pace]
delay_s = [0, 0]
start_s = [0, 0]
rest_every = 0

[[enhance.quota]]
model = "m1"
requests_per_day = {day}
headroom = 1
usd_per_million_tokens_in = 1
usd_per_million_tokens_out = 1
"""


class Enhancing:
    """A marketplace of three plugins, a repository, and a generator whose calls count."""

    def __init__(self, home: Path) -> None:
        self.market = Market(home, "alpha", "beta", "gamma")
        self.market.age()
        self.source = str(self.market.source)
        self.generator = Scripted()
        self.cli = Cli(home, DRKIT_STATE_DIR=str(home / "state"), DRKIT_REPO=str(home / "repo"))
        self.configure(day=100)
        self.cli.ok("init")

    def configure(self, *, day: int) -> None:
        (self.cli.home / "drkit.toml").write_text(CONFIG.format(day=day))

    def __call__(self, word: str, *args: str) -> Run:
        return self.cli("enhance", word, *args)

    def ok(self, word: str, *args: str) -> Run:
        return self.cli.ok("enhance", word, *args)

    def run(self, *args: str) -> Any:
        """Run over the source and return the JSON result, whatever the exit code."""
        return self("run", self.source, "--json", *args).json

    def describe(self) -> dict[bytes, Any]:
        """Describe the source; the times of directories are everybody's who works in them."""
        found = self.market.describe()
        for node in found.values():
            if stat.S_ISDIR(node["type"]):
                del node["mtime_ns"]
        return found


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Enhancing:
    made = Enhancing(tmp_path)
    monkeypatch.setitem(GENERATORS, "scripted", lambda _options: made.generator)
    return made


def environment(**more: str) -> dict[str, str]:
    """What another process needs to find drkit and the commands that it mounts."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("DRKIT_", "TURSO_"))}
    places = [str(ROOT), *(one for one in sys.path if "drkit-metadata-" in one)]
    return {**outside, "PYTHONPATH": os.pathsep.join(places), **more}
