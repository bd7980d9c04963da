"""The commands of `drkit enhance`: what they print, in which form, and how they exit."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from drkit.cli import Console, app
from enhance.cli import COMMANDS
from enhance.commands.narrator import Narrator
from enhance.generators import GENERATORS
from enhance.generators.base import Blame, CallError
from enhance.model import Status
from enhance.pipeline import Step
from tests.support.cli import Cli, Run
from tests.support.enhancing import Market, Scripted, as_somebody_else

ROOT = Path(__file__).parent.parent
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
CONTRACT = {
    "run": "run plugins statuses model_calls files_changed changed_by_others thin snapshot_before snapshot_after "
    "duration_s",
    "rollback": "run plugins files_changed conflicts",
    "validate": "findings plugins skills",
}


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


def environment(**more: str) -> dict[str, str]:
    """What another process needs to find drkit and the commands that it mounts."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("DRKIT_", "TURSO_"))}
    places = [str(ROOT), *(one for one in sys.path if "drkit-metadata-" in one)]
    return {**outside, "PYTHONPATH": os.pathsep.join(places), **more}


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


# A run


def test_a_run_tells_what_changed_and_a_second_one_asks_nothing(site: Enhancing) -> None:
    before = site.describe()
    report = site.run()
    assert (report["plugins"], report["statuses"], report["model_calls"]) == (3, {"verified": 3}, 6)
    changed = [f"plugins/{name}/skills/{name}-use/SKILL.md" for name in ("alpha", "beta", "gamma")]
    assert (report["files_changed"], report["changed_by_others"]) == (changed, [])
    diff = site.cli.ok("diff", report["snapshot_before"], report["snapshot_after"], "--json").json
    assert (diff["added"], diff["removed"], diff["modified"]) == (changed, [], [])
    again = site.run()
    assert (again["statuses"], again["model_calls"], again["files_changed"]) == ({"skipped": 3}, 0, [])
    assert len(site.generator.calls) == 6
    back = site.ok("rollback", report["run"], "--json").json
    assert (back["plugins"], back["files_changed"], back["conflicts"]) == (3, changed, [])
    assert site.describe() == before


def test_filters_choose_and_a_name_that_is_none_is_an_error(site: Enhancing) -> None:
    assert site.run("--limit", "1")["files_changed"] == ["plugins/alpha/skills/alpha-use/SKILL.md"]
    assert site.run("--plugin", "gamma")["plugins"] == 1
    assert site.run("--category", "plugins", "--limit", "2")["plugins"] == 2
    for args in (("--plugin", "delta"), ("--category", "delta"), ("--generator", "delta"), ("--profile", "delta")):
        run = site("run", site.source, *args)
        assert (run.code, "delta" in run.err) == (2, True), run


def test_a_failed_plugin_makes_3_and_only_failed_asks_again(site: Enhancing) -> None:
    site.generator.says["beta", "generate"] = ["no JSON"]
    run = site("run", site.source)
    assert run.code == 3
    assert run.text.startswith("failed plugins/beta: ")
    assert "2 verified" in run.text
    site.generator.says.clear()
    again = site.run("--only-failed")
    assert (again["plugins"], again["statuses"]) == (1, {"verified": 1})


def test_what_others_change_meanwhile_makes_3(site: Enhancing) -> None:
    def meddle() -> str:
        site.market.write("plugins/alpha/NOTES.md", b"mine")
        return json.dumps(["gamma-use"])

    site.generator.says["gamma", "plan"] = [meddle]
    run = site("run", site.source, "--json")
    assert (run.code, run.json["changed_by_others"], run.json["exit_code"]) == (3, ["plugins/alpha/NOTES.md"], 3)


def test_a_quota_that_is_used_up_makes_32_and_the_rest_is_parked(site: Enhancing) -> None:
    site.configure(day=4)
    run = site("run", site.source, "--json")
    assert run.code == 32
    assert run.json["statuses"] == {"verified": 2, "parked": 1}
    assert "4 calls are made" in run.json["stopped"]
    assert len(site.generator.calls) == 4
    told = site.ok("quota", "--json").json["quotas"]
    assert [(one["model"], one["requests_per_day"], one["day_left"]) for one in told] == [("m1", 4, 0)]
    assert "0 calls left" in site.ok("quota").text
    assert "stopped" in site("run", site.source).err


def test_a_refusal_stops_the_run_at_once(site: Enhancing) -> None:
    site.generator.says["alpha", "plan"] = [CallError("no such model", blame=Blame.RUN, status=404)]
    run = site("run", site.source, "--json")
    assert (run.code, len(site.generator.calls)) == (32, 1)
    assert "no such model" in run.json["stopped"]


# Looking ahead


def tree_and_repository(site: Enhancing) -> tuple[Any, Any]:
    repository = sorted(path for path in (site.cli.home / "repo").rglob("*") if path.is_file())
    return site.describe(), [(path, path.stat().st_mtime_ns) for path in repository]


def test_a_dry_run_makes_no_call_and_writes_nothing(site: Enhancing) -> None:
    bad = "plugins/beta/skills/wrong/SKILL.md"
    site.market.write(
        bad, b"---\nname: Wrong Name\ndescription: Does a thing. Use when asked.\nauthor: me\n---\n\n" + b"x " * 99
    )
    before = tree_and_repository(site)
    report = site.run("--dry-run")
    assert tree_and_repository(site) == before
    assert (report["run"], report["model_calls"], site.generator.calls) == ("", 0, [])
    shown = {one["path"]: one for one in report["preview"]["plugins"]}
    assert [one["rule"] for one in shown["plugins/beta"]["findings"] if one["level"] == "error"]
    assert f"+++ b/{bad}" in shown["plugins/beta"]["diff"] or "rename" in shown["plugins/beta"]["diff"]
    assert report["preview"]["calls"][0] >= 2
    assert report["preview"]["cost_usd"][1] > 0
    text = site.ok("run", site.source, "--dry-run").text
    assert "plugins/alpha: generate" in text
    assert "calls" in text
    assert site.ok("plan", site.source, "--json").json == report["preview"]
    assert site.ok("plan", site.source, "--format", "json").json == report["preview"]
    results = site.ok("plan", site.source, "--format", "sarif").json["runs"][0]["results"]
    assert {one["ruleId"] for one in results} >= {"SK005"}
    assert tree_and_repository(site) == before


def test_a_plan_is_applied_later_or_found_stale(site: Enhancing) -> None:
    before, file = site.describe(), str(site.cli.home / "plan.json")
    planned = site.run("--plan-out", file)
    assert (planned["files_changed"], planned["statuses"]) == ([], {"skipped": 3})
    assert site.describe() == before
    assert len(site.generator.calls) == 6
    with as_somebody_else():
        (site.market.source / "plugins/beta/README.md").write_bytes(b"changed since")
    run = site("run", site.source, "--apply", file, "--json")
    assert (run.code, run.error["code"]) == (31, 31)
    assert "plugins/beta" in run.error["message"]
    file = str(site.cli.home / "another.json")
    site.run("--plan-out", file)
    done = site.run("--apply", file)
    assert (done["statuses"], done["model_calls"]) == ({"verified": 3}, 0)
    for pair in (("--dry-run", "--apply"), ("--plan-out", "--apply")):
        words = [word for option in pair for word in ((option,) if option == "--dry-run" else (option, file))]
        assert site("run", site.source, *words).code == 2


def test_replay_answers_from_what_was_stored(site: Enhancing) -> None:
    site.run("--plan-out", str(site.cli.home / "plan.json"))
    made = len(site.generator.calls)
    done = site.run("--generator", "replay")
    assert (done["statuses"], done["model_calls"], len(site.generator.calls)) == ({"verified": 3}, 0, made)


# Looking back


def test_a_rollback_leaves_alone_what_somebody_changed_since(site: Enhancing) -> None:
    before = site.describe()
    run = site.run()["run"]
    mine = "plugins/beta/skills/beta-use/SKILL.md"
    site.market.write(mine, site.market.read(mine) + b"\nmine\n")
    back = site("rollback", run, "--json")
    assert (back.code, back.json["conflicts"], back.json["plugins"]) == (30, ["plugins/beta"], 2)
    assert site.market.read(mine).endswith(b"\nmine\n")
    assert "--force" in site("rollback", run).err
    assert site.ok("rollback", run, "beta", "--force", "--json").json["plugins"] == 1
    assert site.describe() == before
    assert site("rollback", "nonsense").code == 2


def test_status_report_and_watch_tell_the_same_run(site: Enhancing) -> None:
    site.generator.says["beta", "plan"] = ["no JSON"]
    done = site.run()
    run, code = done["run"], done["exit_code"]
    told = site.ok("status", "--json").json
    assert (told["run"], told["plugins"], told["done"], told["exit_code"]) == (run, 3, 3, code)
    assert (told["statuses"], told["success_rate"]) == ({"verified": 2, "failed": 1}, round(2 / 3, 4))
    assert (told["calls"], told["day_left"], told["eta"]) == (done["model_calls"], 100 - done["model_calls"], None)
    assert told["cost_usd"] > 0
    watched = site("watch", "--json")
    assert (watched.code, watched.json) == (code, told)
    assert "3 of 3 plugins: 2 verified, 1 failed" in site.ok("status").text
    report = site.ok("report", "--json").json
    assert [one["report"]["run"] for one in report["runs"]] == [run]
    assert [(one["path"], one["status"]) for one in report["plugins"]] == [
        ("plugins/alpha", "verified"),
        ("plugins/beta", "failed"),
        ("plugins/gamma", "verified"),
    ]
    assert "plugins/beta" in site.ok("report", run).text
    site.run()
    assert len(site.ok("report", "--all", "--json").json["runs"]) == 2
    assert run in site.ok("report", "--all").text


def test_others_see_a_run_while_it_goes_on(site: Enhancing) -> None:
    """The ledger and the statuses are read from the file, by drkit and by the stock sqlite, in the midst of a run."""
    seen: dict[str, Any] = {}

    def look(word: str) -> Callable[[], str]:
        def looked() -> str:
            args = [sys.executable, "-m", "drkit", "enhance", word, "--json"]
            given = environment(**site.cli.environ)
            with as_somebody_else():
                done = subprocess.run(args, cwd=site.cli.home, env=given, capture_output=True, check=True)
                seen[word] = json.loads(done.stdout)
                query = "SELECT status, COUNT(*) FROM enhancements GROUP BY status"
                script = f"import sqlite3,sys; print(dict(sqlite3.connect(sys.argv[1]).execute({query!r})))"
                file = str(site.cli.home / "data/drkit/inventory.db")
                shown = subprocess.run([sys.executable, "-c", script, file], capture_output=True, text=True, check=True)
                seen["sql"] = shown.stdout.strip()
            return json.dumps(["beta-use"])

        return looked

    site.generator.says["beta", "plan"] = [look("status")]
    done = site.run()
    status = seen["status"]
    assert (status["run"], status["ended"], status["done"], status["plugins"]) == (done["run"], None, 1, 3)
    assert (status["calls"], status["day_left"]) == (3, 97)
    assert status["eta"]["calls_left"] == pytest.approx(3, abs=2)
    assert "calls left" in status["eta"]["sentence"]
    assert seen["sql"] == "{'pending': 2, 'verified': 1}"
    connection = sqlite3.connect(site.cli.home / "data/drkit/inventory.db")
    [(average,)] = connection.execute("SELECT AVG(processing_time_seconds) FROM enhancements")
    connection.close()
    assert average > 0


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
