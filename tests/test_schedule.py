"""Printed jobs are valid for what reads them, and do what they say."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from drkit.errors import UsageError
from drkit.schedule import Every, Job, cron, github, systemd
from tests.support.cli import Cli
from tests.test_docs import parse

EVERY = get_args(Every)
ODD = '/srv/it\'s 100% $HOME \\ "odd" é; x'
"""A path with what shells, crontabs, units and YAML each take for something else."""


def job(every: Every = "weekly", source: str = ODD) -> Job:
    return Job(("/opt/my tools/drkit",), "/srv/backups of 50%", source, every, 4)


def arguments(every: Every, source: str = ODD) -> list[list[str]]:
    """The two commands that a job must come to."""
    rpo = {"hourly": "3h", "daily": "2d", "weekly": "15d", "monthly": "63d"}[every]
    start = ["/opt/my tools/drkit", "--repo", "/srv/backups of 50%", "--quiet"]
    return [
        [*start, "backup", source, "--verify", "content"],
        [*start, "drill", "--sample", "4", "--rpo", rpo],
    ]


@pytest.mark.parametrize("every", EVERY)
def test_every_command_of_a_job_parses(every: Every) -> None:
    for command in job(every).commands():
        parse(command[1:])


class TestCron:
    @pytest.mark.parametrize("every", EVERY)
    def test_a_crontab_gives_the_shell_both_commands(self, every: Every) -> None:
        (file,) = cron(job(every))
        (line,) = file.content.splitlines()
        fields = line.split(None, 5)
        for field, top in zip(fields[:5], (59, 23, 31, 12, 7), strict=True):
            assert field == "*" or 0 <= int(field) <= top
        assert fields[:2] != ["*", "*"]
        # What cron does: an escaped % is a %, any other ends the command.
        assert not re.search(r"(?<!\\)%", fields[5])
        command = fields[5].replace("\\%", "%")
        first, second = arguments(every)
        assert shlex.split(command) == [*first, "&&", *second]
        assert subprocess.run(["sh", "-n", "-c", command], check=False).returncode == 0

    def test_the_second_command_runs_only_after_the_first(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        for code, lines in ((0, 2), (3, 1)):
            program = tmp_path / f"drkit {code}"
            program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$4" >> "{log}"\nexit {code}\n')
            program.chmod(0o755)
            log.write_text("")
            (file,) = cron(Job((str(program),), "repo", "source", "daily", 1))
            command = file.content.split(None, 5)[5].replace("\\%", "%")
            assert subprocess.run(["sh", "-c", command], check=False).returncode == code
            assert log.read_text().split() == ["backup", "drill"][:lines]


class TestSystemd:
    @pytest.mark.parametrize("every", EVERY)
    def test_units_have_their_parts(self, every: Every) -> None:
        service, timer = systemd(job(every))
        assert (service.name, timer.name) == ("drkit.service", "drkit.timer")
        lines = re.findall(r"^ExecStart=(.*)$", service.content, re.MULTILINE)
        assert [unquote(line) for line in lines] == arguments(every)
        assert "Type=oneshot" in service.content  # only then several commands run, one after another
        assert re.search(r"^OnCalendar=.", timer.content, re.MULTILINE)
        assert "WantedBy=timers.target" in timer.content

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
    @pytest.mark.parametrize("every", EVERY)
    def test_systemd_takes_them(self, every: Every, tmp_path: Path) -> None:
        program = tmp_path / "my drkit"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        files = systemd(Job((str(program),), "/srv/backups of 50%", ODD, every, 4))
        for file in files:
            (tmp_path / file.name).write_text(file.content)
        paths = [str(tmp_path / file.name) for file in files]
        done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
        about = [line for line in done.stderr.splitlines() if "drkit." in line]
        assert about == [], done
        (calendar,) = re.findall(r"^OnCalendar=(.*)$", files[1].content, re.MULTILINE)
        subprocess.run(["systemd-analyze", "calendar", calendar], check=True, capture_output=True)


def unquote(line: str) -> list[str]:
    """Split a command line as systemd does, its doubled % and $ undone."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line)
    plain = [re.sub(r"\\(.)", r"\1", quoted) if quoted else word for quoted, word in words]
    assert all("%" not in word.replace("%%", "") and "$" not in word.replace("$$", "") for word in plain)
    return [word.replace("%%", "%").replace("$$", "$") for word in plain]


class TestGithub:
    @pytest.mark.parametrize("every", EVERY)
    def test_a_workflow_is_yaml_with_commands_that_parse(self, every: Every) -> None:
        (file,) = github(job(every, source='it\'s "odd": é # x'))
        assert file.name == ".github/workflows/drkit.yml"
        workflow: Any = yaml.safe_load(file.content)
        on = workflow[True]  # YAML 1.1 reads the key `on` as true
        assert list(on) == ["schedule", "workflow_dispatch"]
        assert re.fullmatch(r"[\d*]+( [\d*]+){4}", on["schedule"][0]["cron"])
        (work,) = workflow["jobs"].values()
        assert work["env"] == {"DRKIT_REPO": "/srv/backups of 50%", "SOURCE": 'it\'s "odd": é # x'}
        assert all(("uses" in step) != ("run" in step) for step in work["steps"])
        runs = [step["run"] for step in work["steps"] if "run" in step]
        found = [words[1:] for run in runs for words in commands(run)]
        assert [words[0] for words in found] == ["snapshots", "init", "backup", "drill"]
        for words in found:
            parse(words)
        assert found[2][1] == "source/$SOURCE"
        for run in runs:
            assert subprocess.run(["bash", "-n", "-c", run], check=False).returncode == 0

    def test_without_a_repository_the_project_names_it(self) -> None:
        (file,) = github(Job(("drkit",), "", ".", "weekly", 3))
        (work,) = yaml.safe_load(file.content)["jobs"].values()
        assert work["env"]["DRKIT_REPO"].startswith("${{ vars.DRKIT_REPO")

    def test_a_source_outside_of_the_project_is_refused(self) -> None:
        with pytest.raises(UsageError, match="no directory of the project"):
            github(job())


def commands(run: str) -> list[list[str]]:
    """The drkit commands of a step."""
    parts = [part.strip() for part in run.split("||")]
    return [shlex.split(part) for part in parts if part.startswith("drkit ")]


@pytest.mark.parametrize("make", [systemd, cron, github])
def test_a_path_that_breaks_lines_is_refused(make: Any) -> None:
    with pytest.raises(UsageError, match="cannot stand in a schedule"):
        make(Job(("drkit",), "repo", "two\nlines", "daily", 1))


class TestCommand:
    def test_paths_become_absolute(self, tmp_path: Path) -> None:
        cli = Cli(tmp_path, DRKIT_REPO="repo")
        result = cli.ok("schedule", "print", "--cron", "--json", "--every", "daily", "--source", "here").json
        assert (result["target"], result["every"]) == ("cron", "daily")
        line = result["files"][0]["content"]
        assert f"--repo {tmp_path}/repo " in line
        assert f"backup {tmp_path}/here " in line
        assert "drill --sample 3" in line
        assert cli.ok("schedule", "print", "--cron", "--every", "daily", "--source", "here").text == line
        assert "--inventory" not in line
        line = cli.ok("schedule", "print", "--cron", "--inventory", "inv.db").text
        assert line.count(f"--inventory {tmp_path}/inv.db ") == 2

    def test_two_units_come_with_their_names(self, tmp_path: Path) -> None:
        cli = Cli(tmp_path, DRKIT_REPO="/srv/repo")
        text = cli.ok("schedule", "print", "--systemd").text
        units = re.split(r"^# (\S+)\n", text, flags=re.MULTILINE)
        files = json.loads(cli.ok("schedule", "print", "--systemd", "--json").out)["files"]
        assert units[1::2] == [file["name"] for file in files] == ["drkit.service", "drkit.timer"]
        assert [unit.strip() for unit in units[2::2]] == [file["content"].strip() for file in files]

    def test_a_workflow_alone_is_the_file(self, tmp_path: Path) -> None:
        assert yaml.safe_load(Cli(tmp_path).ok("schedule", "print", "--github").text)["jobs"]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--cron"], "no repository named"),
            ([], "give one of"),
            (["--cron", "--systemd"], "give one of"),
            (["--cron", "--every", "often"], "'often' is not one of"),
        ],
    )
    def test_what_is_missing_is_said(self, tmp_path: Path, words: list[str], message: str) -> None:
        run = Cli(tmp_path)("schedule", "print", "--json", *words)
        assert run.code == 2
        assert message in run.error["message"]
