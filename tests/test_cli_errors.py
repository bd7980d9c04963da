"""The command line where something is wrong, and where its values come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.cli.main import Terminated
from drkit.errors import LockedError
from tests.support.cli import Cli, backup, with_two_plugins


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return with_two_plugins(tmp_path)


# Errors


@pytest.mark.parametrize(
    ("words", "help_of"),
    [(("verify", "latest", "--all"), "drkit verify --help"), (("verify", "--repo"), "drkit --help")],
)
def test_the_hint_of_a_usage_error_names_the_command(cli: Cli, words: tuple[str, ...], help_of: str) -> None:
    run = cli(*words)
    assert run.code == 2
    assert f"hint: see '{help_of}'\n" in run.err


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"),
    [
        ([], 2, "no command given", "drkit --help"),
        (["lst"], 2, "No such command 'lst'. Did you mean 'ls'?", "drkit --help"),
        (["ls", "--frobnicate"], 2, "No such option: --frobnicate", "drkit ls --help"),
        (["diff", "latest"], 2, "Missing argument 'SNAP'", "drkit diff --help"),
        (["backup", "source", "--level", "20"], 2, "--level", "drkit backup --help"),
        (["backup", "source", "--verify", "all"], 2, "'all' is not one of 'exists', 'packs'", "drkit backup --help"),
        (["ls", "--repo"], 2, "--repo needs a value", ""),
        (["ls", "--repo", "nowhere"], 10, "no drkit repository in", "drkit init"),
        (["ls", "--repo", "ftp://x/y"], 2, "ftp:", ""),
        (["ls", "--config", "none.toml"], 2, "none.toml", "--config"),
        (["ls", "ffff"], 2, "'ffff' is not a snapshot", "drkit snapshots"),
        (["ls", ""], 2, "is not a snapshot", "drkit snapshots"),
        (["ls", "latest", "nothing"], 2, "there is no nothing", "drkit ls"),
        (["cat", "latest", "one"], 2, "plain bytes", "leave out --json"),
        (["manifest", "latest"], 2, "plain bytes", "leave out --json"),
        (["init"], 2, "there is a repository in", ""),
        (["backup", "missing"], 2, "does not exist", ""),
        (["backup", "repo"], 2, "inside the repository", ""),
        (["verify", "latest", "--all"], 2, "not both", ""),
        (["restore", "--target", "source"], 2, "not empty", ""),
        (["restore-plugin", "the-ones", "--target", "out"], 2, "near: the-one", "drkit plugins"),
        (["restore-plugin", "the-one"], 2, "--target", ""),
    ],
)
def test_errors_name_the_thing_and_the_next_step(
    cli: Cli, words: list[str], code: int, message: str, hint: str
) -> None:
    backup(cli)
    run = cli("--json", *words)
    error = run.error
    assert list(error) == ["type", "code", "message", "hint"]
    assert (error["type"], error["code"], run.code) == ("error", code, code)
    assert message in error["message"]
    assert hint in error["hint"]
    assert error["hint"]


def test_without_a_repository_the_hint_names_the_variable(tmp_path: Path) -> None:
    error = Cli(tmp_path)("snapshots", "--json").error
    assert error["code"] == 2
    assert "DRKIT_REPO" in error["hint"]


def test_an_ambiguous_prefix_lists_the_candidates(cli: Cli) -> None:
    ids = [backup(cli) for _ in range(17)]
    firsts = [snapshot[0] for snapshot in ids]
    prefix = next(first for first in firsts if firsts.count(first) > 1 and first != "2")  # as all times begin
    error = cli("ls", prefix, "--json").error
    assert "ambiguous" in error["message"]
    assert sum(snapshot[:12] in error["message"] for snapshot in ids if snapshot[0] == prefix) > 1


def test_the_parsers_errors_are_text_without_json(cli: Cli) -> None:
    run = cli("ls", "--frobnicate")
    assert (run.code, run.out) == (2, b"")
    assert run.err == "error: No such option: --frobnicate\nhint: see 'drkit ls --help'\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (LockedError("held by somebody"), 11, "held by somebody"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated(), 143, "terminated"),
        (OSError(5, "Input/output error"), 1, "OSError: [Errno 5] Input/output error"),
        (RuntimeError("a bug"), 1, "RuntimeError: a bug"),
    ],
)
def test_every_error_has_its_exit_code(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("drkit.repo.Repository.snapshots", fail)
    run = cli("snapshots", "--json")
    assert run.code == code
    assert (run.error["code"], run.error["message"]) == (code, message)
    run = cli("snapshots")
    assert run.code == code
    assert run.err.splitlines()[0] == f"error: {message}"
    assert "Traceback" not in run.err
    assert "Traceback" in cli("snapshots", "-v").err


# Where values come from


def test_option_before_environment_before_configuration(cli: Cli) -> None:
    for name in ("by-option", "by-environment", "by-config"):
        cli.ok("init", "--repo", name)
    (cli.home / "drkit.toml").write_text('repo = "by-config"')
    (cli.home / "elsewhere.toml").write_text('repo = "repo"')
    cli.environ["DRKIT_REPO"] = "by-environment"
    assert "by-option" in cli("ls", "-r", "by-option/no").err
    assert "by-environment" in cli("init", "--json").error["message"]
    del cli.environ["DRKIT_REPO"]
    assert "by-config" in cli("init", "--json").error["message"]
    cli.environ["DRKIT_CONFIG"] = "elsewhere.toml"
    assert "repo already" in cli("init", "--json").error["message"]


def test_the_configuration_adds_excludes_and_markers(cli: Cli) -> None:
    (cli.home / "drkit.toml").write_text(
        '[backup]\nexclude = ["plugin.json"]\n[plugins]\nmarkers = ["SKILL.md"]\nglobs = ["one/.claude-plugin"]'
    )
    (cli.home / "source/two/x.log").touch()
    report = cli.ok("backup", "source", "--json", "--exclude", "*.log").json
    assert (report["files"], report["plugins"]) == (2, 3)


def test_global_options_stand_anywhere(cli: Cli) -> None:
    backup(cli)
    for words in (["--json", "ls"], ["ls", "--json"], ["ls", "latest", "--json", "one"], ["ls", "-q", "--json"]):
        assert "entries" in cli.ok(*words).json


def test_what_follows_two_dashes_is_no_option(cli: Cli) -> None:
    (cli.home / "-q").mkdir()
    (cli.home / "-q/--json").touch()
    run = cli.ok("backup", "--", "-q")
    assert "1 file" in run.text
    assert cli.ok("cat", "--", "latest", "--json").out == b""
