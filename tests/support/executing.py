"""A source with two plugins, and shell scripts that `drkit guard exec` runs in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Cli, Run
from tests.support.trees import snapshot_tree

ROOT = Path(__file__).parent.parent.parent
SOON = 30.0
WRECK = """
echo '```json' > plugins/one/.claude-plugin/plugin.json
rm plugins/one/README.md
rm -r plugins/two
echo broken > marketplace.json
mkdir scattered && echo x > scattered/file
"""
BUSY = (
    "echo x > marketplace.json; rm -r plugins/two; echo ready; while :; do echo x >> plugins/one/new; sleep 0.01; done"
)
"""Says that it is ready when something is wrecked, and goes on until it is ended."""


class Scene:
    """A source with two plugins, a repository, and drkit in this process or in another one."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.source = home / "source"
        for name in ("one", "two"):
            top = self.source / "plugins" / name
            (top / ".claude-plugin").mkdir(parents=True)
            (top / ".claude-plugin/plugin.json").write_text(json.dumps({"name": name}))
            (top / "README.md").write_text(f"This is {name}.\n")
            (top / "link").symlink_to("README.md")
        (self.source / "marketplace.json").write_text("{}\n")
        old = 1_700_000_000_000_000_000
        for directory, _, names in os.walk(self.source):
            for name in names:
                os.utime(os.path.join(directory, name), ns=(old, old), follow_symlinks=False)
        self.environ = {"DRKIT_REPO": str(home / "repo"), "DRKIT_STATE_DIR": str(home / "state")}
        self.cli = Cli(home, **self.environ)
        self.cli.ok("init", "-q")
        self.was = snapshot_tree(self.source)
        self.started: list[subprocess.Popen[str]] = []

    def exec(self, script: str, *options: str, plugins: tuple[str, ...] = ("one",)) -> Run:
        """Run a shell script, in the source, under the guard."""
        line = ("guard", "exec", *plugins, "--source", "source", "--json", *options)
        return self.cli(*line, "--", "sh", "-euc", f"cd {self.source}; {script}")

    def process(self, *words: str) -> subprocess.Popen[str]:
        """Start drkit as a process of its own, the first of its group."""
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("DRKIT_", "TURSO_"))}
        self.started.append(
            subprocess.Popen(
                [sys.executable, "-m", "drkit", *words],
                cwd=self.home,
                env={**outside, **self.cli.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return self.started[-1]

    def guarding(self, script: str, *options: str) -> subprocess.Popen[str]:
        """Start a guarded script, and wait until it has said a line; that is `ready`."""
        words = ("guard", "exec", "one", "--source", "source", *options, "--")
        process = self.process(*words, "sh", "-c", f"cd {self.source}; {script}")
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        return process

    def end(self) -> None:
        """End what a test has left."""
        for process in self.started:
            process.kill()
            process.communicate()

    def is_back(self) -> None:
        """The source is as it was, and no journal is left."""
        assert snapshot_tree(self.source) == self.was
        assert self.journals() == []

    def journals(self) -> list[str]:
        """Return the names of the journals that there are."""
        state = self.home / "state"
        return [name for name in (os.listdir(state) if state.exists() else []) if name.endswith(".journal")]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.end()
