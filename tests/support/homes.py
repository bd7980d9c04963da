"""Home directories with a source, a repository, and stores that a configuration names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from drkit.model import Level
from drkit.progress import NullProgress
from drkit.repo import Repository
from drkit.store import LocalStore
from drkit.verify import verify
from tests.support.cli import Cli, Run

STORES = """
repo = "repo"
[stores.usb]
url = "usb"
[stores.box]
url = "libsql-file:box.db"
"""


class Home(Cli):
    """A home directory with a source, a repository, and a configuration that names two stores."""

    def configure(self, text: str) -> None:
        (self.home / "drkit.toml").write_text(text)

    def change(self, text: str = "") -> None:
        plugin = self.home / "source/one/.claude-plugin"
        plugin.mkdir(parents=True, exist_ok=True)
        (plugin / "plugin.json").write_text('{"name": "one"}')
        (self.home / "source/one/SKILL.md").write_text(text or os.urandom(8).hex())

    def backup(self, *args: str) -> Run:
        self.change()
        return self("backup", "source", "--json", *args)

    def copies(self, *args: str) -> dict[str, dict[str, Any]]:
        """Back up; return what became of each store, by its name."""
        run = self.backup(*args)
        assert run.code == 0, run
        return {copy["name"]: copy for copy in run.json["copies"]}

    def store(self, name: str) -> str:
        return str(self.home / name)

    def broken(self, name: str) -> None:
        """Put something in the place of a store that is no store."""
        path = self.home / name
        if path.is_dir():
            path.rename(path.with_suffix(".away"))
        path.write_text("no store")

    def mended(self, name: str) -> None:
        path = self.home / name
        path.unlink()
        away = path.with_suffix(".away")
        if away.exists():
            away.rename(path)


def configured(path: Path) -> Home:
    """Make a home with the stores of STORES; nothing is in the repository yet."""
    home = Home(path)
    home.configure(STORES)
    home.change()
    home.ok("init")
    return home


def assert_equal(home: Home, url: str) -> None:
    """A store holds every snapshot of the repository, whole."""
    mine = Repository.open(LocalStore(home.store("repo")))
    there = Repository.open(LocalStore(home.store(url)))
    assert [ref.name for ref in there.snapshots()] == [ref.name for ref in mine.snapshots()]
    report = verify(there, there.snapshots(), level=Level.CONTENT, every_pack=True, progress=NullProgress())
    assert report.findings == ()
