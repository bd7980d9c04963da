"""The commands of `drkit enhance`: how they come to be there, what they print, and in which form."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from drkit.cli import Console, app
from enhance.cli import COMMANDS
from enhance.commands.narrator import Narrator
from enhance.generators.base import Blame, CallError
from enhance.model import Status
from enhance.pipeline import Step
from tests.support.cli import Cli
from tests.support.enhance_cli import ROOT, Enhancing, environment, site
from tests.support.enhancing import as_somebody_else

__all__ = ["site"]

CONTRACT = {
    "run": "run plugins statuses model_calls files_changed changed_by_others thin snapshot_before snapshot_after "
    "duration_s",
    "rollback": "run plugins files_changed conflicts",
    "validate": "findings plugins skills",
}


# How the commands come to be there


def test_without_the_metadata_of_an_installation_it_fails_clearly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    cli = Cli(tmp_path)
    run = cli("enhance", "run", ".")
    assert run.code == 2
    assert "'enhance' is not installed" in run.err
    assert "pip install" in run.err
    text = cli.ok("--help").text
    assert "  backup " in text
    assert "  enhance " not in text


def test_other_commands_know_nothing_of_it() -> None:
    script = (
        "import sys; from drkit.cli.main import main; main(['snapshots', '--help']);"
        "print([name for name in sys.modules if name.split('.')[0] == 'enhance' or name == 'importlib.metadata'])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_only_the_word_that_runs_is_imported() -> None:
    script = (
        "import sys; from drkit.cli.main import main; main(['enhance', 'quota', '--help']);"
        "from enhance.cli import COMMANDS; print([word for word, name in COMMANDS.items() if name in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['quota']"


@pytest.mark.parametrize("word", CONTRACT)
def test_the_keys_of_the_contract_are_documented(word: str) -> None:
    assert set(CONTRACT[word].split()) <= set(import_module(COMMANDS[word]).KEYS)


@pytest.mark.parametrize("word", COMMANDS)
def test_json_has_exactly_the_documented_keys(site: Enhancing, word: str) -> None:
    keys = dict(app.commands())[f"enhance {word}"].KEYS
    first = site.run()
    args = {"run": [site.source], "plan": [site.source], "validate": [site.source], "rollback": ["latest"]}
    run = site(word, "--json", *args.get(word, []))
    assert run.code in {0, 31}
    assert first["statuses"] == {"verified": 3}
    assert list(run.json) == list(keys)
    for key, text in keys.items():
        if items := re.search(r"\{(.+?)\}", text):
            found = run.json[key]
            for item in found if isinstance(found, list) else [found] if found else []:
                assert list(item) == items[1].split(", ")


# What is said on the way


def test_each_event_is_a_line_of_fields(site: Enhancing) -> None:
    site.generator.says["beta", "generate"] = ['no "JSON"\n']
    run = site("run", site.source)
    events = [dict(part.split("=", 1) for part in shlex.split(line)) for line in run.err.splitlines()]
    plugins = [one for one in events if one["event"] == "plugin"]
    assert [(one["plugin"], one["status"], one["done"]) for one in plugins] == [
        ("plugins/alpha", "verified", "1"),
        ("plugins/beta", "failed", "2"),
        ("plugins/gamma", "verified", "3"),
    ]
    assert "calls left" in plugins[0]["eta"]
    assert plugins[1]["reason"]
    calls = [one for one in events if one["event"] == "call"]
    assert len(calls) == len(site.generator.calls)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one["time"]) for one in events)
    assert events[0]["event"] == "pace"
    assert site("run", site.source, "-q").err == ""


def test_with_json_the_lines_are_objects(site: Enhancing) -> None:
    site.generator.says["alpha", "plan"] = [CallError("busy", blame=Blame.REQUEST, status=400)]
    run = site("run", site.source, "--json")
    events = [json.loads(line) for line in run.err.splitlines()]
    assert {one["type"] for one in events} == {"progress"}
    [failed] = [one for one in events if one.get("blame")]
    assert (failed["event"], failed["error"], failed["blame"]) == ("call", "busy", "request")


class Terminal(io.StringIO):
    """Where people read."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_one_line_that_changes() -> None:
    stream = Terminal()
    with Narrator(Console(err=stream), {}) as narrator:
        for done, status in enumerate((Status.PENDING, Status.VERIFIED, Status.SKIPPED), 1):
            narrator.step(Step("r", b"plugins/\x1b\xff", status, "", done, 3, 0))
        narrator.pace("slow\nand steady")
    lines = stream.getvalue().split("\r\x1b[K")
    assert [line.partition(";")[0] for line in lines[1:3]] == ["2 of 3: 1 verified", "3 of 3: 1 skipped, 1 verified"]
    assert lines[-1] == ""
    assert all(line.isprintable() for line in lines)


# Rules


def test_validate_speaks_three_languages_and_needs_no_repository(site: Enhancing) -> None:
    bad = "plugins/alpha/skills/x/SKILL.md"
    site.market.write(bad, b"no frontmatter")
    del site.cli.environ["DRKIT_REPO"]
    run = site("validate", site.source, "--json")
    assert (run.code, run.json["plugins"], run.json["skills"]) == (31, 3, 1)
    assert {"SK002"} <= {one["rule"] for one in run.json["findings"] if one["path"] == bad}
    assert site("validate", site.source, "--format", "json").json == run.json
    text = site("validate", site.source)
    assert (text.code, f"{bad}:" in text.text, "3 plugins, 1 skills" in text.text) == (31, True, True)
    sarif = site("validate", site.source, "--format", "sarif")
    [log] = sarif.json["runs"]
    assert (sarif.code, sarif.json["version"]) == (31, "2.1.0")
    assert len(log["results"]) == len(run.json["findings"])
    assert site("validate", site.source, "--format", "sarif", "--json").code == 2
    with as_somebody_else():
        shutil.rmtree(site.market.source / "plugins/alpha/skills")
    assert site("validate", site.source).code == 0
    assert site("validate", str(site.cli.home / "nowhere")).code == 2
    assert site("validate", site.source, "--profile", "delta").code == 2
