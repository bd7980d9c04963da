"""The command line in this process: what it prints and how it exits."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from drkit.cli.main import main


class Run(NamedTuple):
    """The exit code and the output of one run."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        """The one JSON object on stdout."""
        assert self.out.count(b"\n") == 1, self
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The one JSON object on stderr."""
        assert self.out == b"", self
        error: dict[str, Any] = json.loads(self.err)
        return error


class Cli:
    """Runs drkit in a directory of its own, with nothing of the caller's environment and configuration."""

    def __init__(self, home: Path, **environ: str) -> None:
        self.home = home
        self.environ = {
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_DATA_HOME": str(home / "data"),
            "COLUMNS": "100",
            **environ,
        }

    def __call__(self, *args: str) -> Run:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("DRKIT_", "TURSO_"))}
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
        with (
            mock.patch.dict(os.environ, {**outside, **self.environ}, clear=True),
            contextlib.chdir(self.home),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main(args)
        out.flush()
        err.flush()
        return Run(code, out.buffer.getvalue(), err.buffer.getvalue().decode())

    def ok(self, *args: str) -> Run:
        """Run it, and expect exit code 0."""
        run = self(*args)
        assert run.code == 0, (args, run)
        return run


def with_two_plugins(home: Path) -> Cli:
    """A command line with a source of two plugins and an empty repository beside it."""
    for plugin in ("one", "two"):
        directory = home / "source" / plugin / ".claude-plugin"
        directory.mkdir(parents=True)
        (directory / "plugin.json").write_text(f'{{"name": "the-{plugin}", "version": "1.2"}}')
        (directory.parent / "SKILL.md").write_text(f"# {plugin}\n")
    cli = Cli(home, DRKIT_REPO=str(home / "repo"))
    cli.ok("init")
    return cli


def backup(cli: Cli, *args: str) -> str:
    """Back up the source; return the snapshot's id."""
    snapshot: str = cli.ok("backup", "source", "--json", *args).json["snapshot"]
    return snapshot
