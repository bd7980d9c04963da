"""An encrypted repository with a history and a copy, made once and as good as new for each test."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from tests.support.cli import Cli
from tests.support.mini_repo import scan

PLUGIN = "plugins/p1"


class Home:
    """A source of six plugins, and an encrypted repository with a backup of it, opened with a key file."""

    def __init__(self, path: Path) -> None:
        self.path, self.source, self.repo, self.copy = path, path / "source", path / "repo", path / "copy"
        self.key = path / "key"
        self.cli = Cli(path, DRKIT_REPO=str(self.repo), DRKIT_KEY_FILE=str(self.key), DRKIT_STATE_DIR=str(path / "s"))
        for number in range(6):
            self.write(f"plugins/p{number}/.claude-plugin/plugin.json", b'{"name":"p%d"}' % number)
            for skill in range(5):
                content = hashlib.shake_256(b"%d %d" % (number, skill)).digest(30_000)
                self.write(f"plugins/p{number}/skills/s{skill}.md", content)
        del self.cli.environ["DRKIT_KEY_FILE"]  # there is none yet: init makes it
        self.cli.ok("init", "--encrypt", "--key-file", str(self.key))
        self.cli.environ["DRKIT_KEY_FILE"] = str(self.key)
        self.back_up()

    def write(self, path: str, data: bytes) -> None:
        (self.source / path).parent.mkdir(parents=True, exist_ok=True)
        (self.source / path).write_bytes(data)

    def back_up(self) -> str:
        return str(self.cli.ok("backup", str(self.source), "--json").json["snapshot"])

    def more(self) -> None:
        """Two more backups, each with something new."""
        for number in range(2):
            self.write(f"{PLUGIN}/skills/s{number}.md", os.urandom(20_000))
            self.back_up()

    def restored(self, *arguments: str) -> bool:
        """Whether everything comes back, equal to the source."""
        target = self.path / "target"
        shutil.rmtree(target, ignore_errors=True)
        done = self.cli("restore", "--target", str(target), *arguments)
        return done.code == 0 and scan(target) == scan(self.source)

    def objects(self, folder: str = "", root: Path | None = None) -> dict[str, bytes]:
        root = root or self.repo
        files = (path for path in sorted((root / folder).rglob("*")) if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}

    def change(self, name: str, data: bytes) -> None:
        path = self.repo / name
        path.chmod(0o644)
        path.write_bytes(data)

    def flip(self, name: str, at: int) -> None:
        data = (self.repo / name).read_bytes()
        self.change(name, data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])

    def largest_pack(self) -> str:
        packs = self.objects("packs")
        return max(packs, key=lambda name: len(packs[name]))


def made_once(path: Path) -> Path:
    """Make a home with three snapshots and a copy; keep another like it, for `as_new`."""
    home = Home(path)
    home.more()
    home.cli.ok("copy", "--to", str(home.copy), "--verify", "content")
    shutil.copytree(home.path, home.path.with_name("kept"), symlinks=True)
    return home.path


def as_new(made: Path) -> Home:
    """Put the home that was made back as it was, at the same path."""
    shutil.rmtree(made)
    shutil.copytree(made.with_name("kept"), made, symlinks=True)
    found = Home.__new__(Home)
    found.path, found.source, found.repo, found.copy = made, made / "source", made / "repo", made / "copy"
    found.key = made / "key"
    found.cli = Cli(made, DRKIT_REPO=str(found.repo), DRKIT_KEY_FILE=str(found.key), DRKIT_STATE_DIR=str(made / "s"))
    return found
