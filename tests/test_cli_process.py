"""The console script as a process: start-up, signals, pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drkit.repo import Repository
from tests.support.cli import Cli

ROOT = Path(__file__).parent.parent
HEAVY = {"typer", "msgspec", "zstandard", "rich", "pydantic", "pathlib", "inspect", "asyncio"}


def environ(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DRKIT_")}
    own = {"XDG_CACHE_HOME": str(home / "cache"), "XDG_DATA_HOME": str(home / "data")}
    return {**kept, **own, "PYTHONPATH": str(ROOT), "DRKIT_REPO": str(home / "repo")}


def python(home: Path, *args: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, *args], cwd=home, env=environ(home), capture_output=True, check=False)


def modules_after(home: Path, *words: str) -> set[str]:
    """Return what a run of the command line has imported."""
    code = f"import sys; from drkit.cli.main import main; main({list(words)!r}); sys.stderr.write(repr([*sys.modules]))"
    run = python(home, "-c", code)
    assert run.returncode == 0, run
    return {name.strip("[] '\"") for name in run.stderr.decode().split(",")}


def test_the_module_is_the_command(tmp_path: Path) -> None:
    run = python(tmp_path, "-m", "drkit", "snapshots")
    assert (run.returncode, run.stdout) == (10, b"")
    assert run.stderr.startswith(b"error: there is no drkit repository in ")


def test_the_version_imports_nothing_heavy(tmp_path: Path) -> None:
    modules = modules_after(tmp_path, "--version")
    assert "drkit.cli.main" in modules
    assert not HEAVY & modules


def test_a_command_imports_no_other_command_and_no_display(tmp_path: Path) -> None:
    Cli(tmp_path).ok("init", "-r", "repo")
    modules = modules_after(tmp_path, "snapshots")
    assert {name for name in modules if name.startswith("drkit.cli.commands.")} == {"drkit.cli.commands.snapshots"}
    assert not {"rich", "pydantic", "pyfastcdc", "drkit.backup", "drkit.restore", "drkit.verify", "tomllib"} & modules


def test_a_reader_that_leaves_early_sees_no_error(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(os.urandom(1_000_000))
    cli = Cli(tmp_path, DRKIT_REPO="repo")
    cli.ok("init")
    cli.ok("backup", "source")
    command = [sys.executable, "-m", "drkit", "cat", "latest", "big"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, env=environ(tmp_path), stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_closed_streams_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/f").touch()
    script = f"'{sys.executable}' -m drkit init >&- 2>&- && '{sys.executable}' -m drkit backup source --json >&- 2>&-"
    assert subprocess.run(["sh", "-c", script], cwd=tmp_path, env=environ(tmp_path), check=False).returncode == 0
    assert len(Cli(tmp_path).ok("snapshots", "-r", "repo", "--json").json["snapshots"]) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_clean_up_and_have_their_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    cleaned = []
    if number == signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler)  # ignored in the background of a shell

    def interrupted(_: Repository) -> None:
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(True)

    cli = Cli(tmp_path, DRKIT_REPO="repo")
    cli.ok("init")
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Repository, "snapshots", interrupted)
    run = cli("snapshots", "--json")
    assert (run.code, run.error["code"]) == (code, code)
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("where", ["Console", "hoist", "_report"])
def test_an_interrupt_anywhere_is_quiet(tmp_path: Path, where: str) -> None:
    """At the start, before there is a console to report on, and while another error is reported."""
    code = f"""
import signal
from drkit.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it

def interrupted(*args, **kwargs):
    signal.raise_signal(signal.SIGINT)

main.{where} = interrupted
main.run()
"""
    run = python(tmp_path, "-c", code)
    assert run.returncode == 130, run
    assert b"Traceback" not in run.stderr
