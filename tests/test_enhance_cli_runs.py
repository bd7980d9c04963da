"""`drkit enhance` over a marketplace: a run, what it would do, what it did, and how it is taken back."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from enhance.generators.base import Blame, CallError
from tests.support.enhance_cli import Enhancing, environment, site
from tests.support.enhancing import as_somebody_else

__all__ = ["site"]

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
