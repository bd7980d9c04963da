"""Runs: every plugin to one status, every answer stored and paid once, nothing twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from drkit.errors import BudgetExhausted, UsageError
from enhance.generators.base import Blame, CallError
from enhance.model import Material, Plan, Reply, Usage
from enhance.pipeline import Selection, run
from tests.support.enhancing import Market, Scripted, assert_true, files, skill
from tests.support.guarding import state_dir  # noqa: F401


@pytest.fixture
def market(tmp_path: Path) -> Any:
    made = Market(tmp_path, "one", "two", "three")
    yield made
    made.close()


def test_a_run_writes_skills_and_a_second_makes_no_call_and_no_change(market: Market) -> None:
    first = market.run()
    assert first.statuses == {"verified": 3}
    assert first.exit_code == 0
    assert first.model_calls == len(market.generator.calls) == 6
    assert first.files_changed == tuple(
        f"plugins/{name}/skills/{name}-use/SKILL.md".encode() for name in ("one", "three", "two")
    )
    assert market.read("plugins/one/skills/one-use/SKILL.md") == skill("one-use")
    tree = market.tree()
    second = market.run()
    assert second.statuses == {"skipped": 3}
    assert (second.model_calls, second.files_changed, second.exit_code) == (0, (), 0)
    assert market.tree() == tree
    third = market.run()
    assert (third.model_calls, third.statuses) == (0, {"skipped": 3})
    assert first.run in third.reasons[b"plugins/one"]


def test_untouched_files_keep_everything(market: Market) -> None:
    market.age()
    before = market.describe()
    report = market.run()
    after = market.describe()
    changed = {path for path in before if before[path] != after[path]}
    made = {path for path in after if path not in before}
    assert made == {
        path for one in report.files_changed for path in (one, one.rpartition(b"/")[0], one.rsplit(b"/", 2)[0])
    }
    assert changed <= {b"plugins/one", b"plugins/two", b"plugins/three"}, "only the times of directories that got one"


def test_every_answer_is_stored_before_anybody_reads_it(market: Market) -> None:
    stored: list[int] = []

    class Looking(Scripted):
        def _read(self, reply: Reply) -> Any:
            stored.append(job.site.inventory.counts()["responses"])
            return super()._read(reply)

    market.generator = Looking()
    job = market.job()
    run(job)
    assert stored == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("phase", "said", "reason"),
    [
        ("plan", "no json", "it is not JSON"),
        ("plan", "{}", "no list"),
        ("plan", Reply("[", "max_tokens"), "max_tokens"),
        ("generate", "```", "it is not JSON"),
        ("generate", Reply("", "safety"), "safety"),
        ("generate", Reply(files("one-use"), "max_tokens"), "max_tokens"),
        ("generate", files("one-use", body="- [ ] TODO: write this. " * 20), "SK022"),
        ("generate", CallError("bad argument", blame=Blame.REQUEST), "bad argument"),
    ],
)
def test_a_failure_is_not_paid_twice_and_never_its_analysis(market: Market, phase: str, said: Any, reason: str) -> None:
    generator = market.generator
    generator.says["one", phase] = [said]
    generator.says["one", "repair"] = [said]
    first = market.run()
    assert first.statuses == {"failed": 1, "verified": 2}
    assert first.exit_code == 3
    assert reason in first.reasons[b"plugins/one"]
    assert not any(path.startswith(b"plugins/one/") for path in first.files_changed)
    generator.calls.clear()
    second = market.run()
    assert (second.model_calls, second.statuses) == (0, {"failed": 1, "skipped": 2})
    assert second.reasons[b"plugins/one"] == first.reasons[b"plugins/one"]
    assert market.run().statuses == {"failed": 1, "skipped": 2}
    generator.says.clear()
    mended = market.run(selection=Selection(only_failed=True))
    assert mended.statuses == {"verified": 1}
    assert generator.calls == ([("one", "plan")] if phase == "plan" else []) + [("one", "generate")]
    assert market.run(selection=Selection(only_failed=True)).plugins == 0


@pytest.mark.parametrize("blame", [Blame.TRANSIENT, Blame.DAY, Blame.MINUTE, Blame.RUN])
def test_reasons_that_pass_are_tried_again(market: Market, blame: Blame) -> None:
    market.generator.says["one", "generate"] = [CallError("not now", blame=blame)]
    first = market.run()
    assert first.statuses.get("verified", 0) == (2 if blame is Blame.TRANSIENT else 0)
    assert first.exit_code == (3 if blame is Blame.TRANSIENT else 32)
    market.generator.says.clear()
    market.generator.calls.clear()
    second = market.run()
    assert second.statuses.get("verified") == (1 if blame is Blame.TRANSIENT else 3)
    assert ("one", "plan") not in market.generator.calls, "the analysis is paid already"
    assert second.exit_code == 0


def test_a_refusal_stops_the_calls_at_once_and_what_needs_none_goes_on(market: Market) -> None:
    market.add("plugins/done", {"skills/done/SKILL.md": skill("done")})
    market.generator.says["one", "plan"] = [CallError("no such model", blame=Blame.RUN)]
    report = market.run()
    assert report.model_calls == 1
    assert report.statuses == {"parked": 3, "skipped": 1}
    assert report.exit_code == 32
    assert "no such model" in report.stopped


def test_a_budget_parks_the_rest(market: Market) -> None:
    class Two:
        left = 2

        def ask(self, send: Callable[[], Reply], *, tokens: int, timeout_s: float) -> Reply:
            if not self.left:
                raise BudgetExhausted("the day is used up")
            self.left -= 1
            return send()

    report = market.run(calls=lambda _run: Two())
    assert report.statuses == {"verified": 1, "parked": 2}
    assert (report.exit_code, report.model_calls) == (32, 2)
    rest = market.run()
    assert rest.statuses == {"skipped": 1, "verified": 2}
    assert rest.model_calls == 4


def test_without_a_network_not_everybody_is_tried(market: Market) -> None:
    for name in ("four", "five", "six"):
        market.add(f"plugins/{name}")
    for name in ("one", "two", "three", "four", "five", "six"):
        market.generator.says[name, "plan"] = [CallError("no route", blame=Blame.TRANSIENT)]
    report = market.run()
    assert report.model_calls == 3
    assert report.statuses == {"failed": 3, "parked": 3}
    market.generator.says.clear()
    assert market.run().statuses == {"verified": 6}


def test_what_calls_cost_is_told_and_recorded(market: Market) -> None:
    market.generator.says["one", "plan"] = [Reply('["one-use"]', "stop", Usage(1000, 500))]
    job = market.job(price=lambda usage: (usage.tokens_in + 2 * usage.tokens_out) / 1000)
    report = run(job)
    assert report.cost_usd == 2.0
    assert sum(one.cost_usd for one in job.records.responses(report.run)) == 2.0


def test_one_turn_of_repair(market: Market) -> None:
    bad = files("one-use", body="lorem ipsum " * 30)
    market.generator.says["one", "generate"] = [bad]
    report = market.run()
    assert report.statuses == {"verified": 3}
    assert [phase for name, phase in market.generator.calls if name == "one"] == ["plan", "generate", "repair"]
    market.generator.says["two", "generate"] = market.generator.says["two", "repair"] = [files("x", body="TODO " * 40)]
    market.add("plugins/two")
    market.write("plugins/two/README.md", b"# two\n\nAnother text, much longer than what was there before.\n")
    market.generator.calls.clear()
    assert market.run().statuses == {"skipped": 2, "failed": 1}
    assert [phase for _, phase in market.generator.calls] == ["plan", "generate", "repair"]


def test_a_changed_validator_judges_stored_answers_again_without_a_call(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    from enhance.pipeline import worker
    from enhance.validators import check_plugin as plain

    bad = files("one-use", body="- [ ] TODO: write this. " * 20)
    market.generator.says["one", "generate"] = market.generator.says["one", "repair"] = [bad]
    assert market.run().statuses == {"failed": 1, "verified": 2}
    market.generator.calls.clear()
    monkeypatch.setattr(worker, "STANDARDS_SHA256", "other")
    assert market.run().statuses == {"failed": 1, "verified": 2}, "as bad as before, and the others as good"
    monkeypatch.setattr(worker, "STANDARDS_SHA256", "lenient")

    def lenient(*args: Any, **more: Any) -> Any:
        return [one for one in plain(*args, **more) if one.rule != "SK022"]

    monkeypatch.setattr(worker, "check_plugin", lenient)
    report = market.run()
    assert report.statuses == {"verified": 3}
    assert report.files_changed == (b"plugins/one/skills/one-use/SKILL.md",)
    monkeypatch.setattr(worker, "STANDARDS_SHA256", "strict")
    monkeypatch.setattr(worker, "check_plugin", plain)
    tree = market.tree()
    assert market.run().statuses.get("failed") == 1
    assert market.tree() == tree
    assert market.generator.calls == []


def test_what_changes_the_key_and_what_does_not(market: Market) -> None:
    market.run()
    market.generator.calls.clear()
    market.write("plugins/one/README.md", b"# one\n\n" + b"It does something else now, and does it well. " * 20)
    assert market.run().statuses == {"verified": 1, "skipped": 2}
    assert {name for name, _ in market.generator.calls} == {"one"}
    market.generator = Scripted("m2")
    assert market.run().model_calls == 6
    assert market.run().model_calls == 0


def test_a_plugin_inside_of_another_has_its_own_key(market: Market) -> None:
    market.add("plugins/one/plugins/inner")
    assert market.run().statuses == {"verified": 4}
    market.generator.calls.clear()
    market.write("plugins/one/plugins/inner/README.md", b"# inner\n\n" + b"Another text of the inner one. " * 20)
    assert market.run().statuses == {"verified": 1, "skipped": 3}
    assert {name for name, _ in market.generator.calls} == {"inner"}


def test_smart_skipping(market: Market) -> None:
    market.add("plugins/done", {"skills/done/SKILL.md": skill("done")})
    report = market.run(selection=Selection(plugins=(b"done",)))
    assert report.statuses == {"skipped": 1}
    assert report.reasons == {b"plugins/done": "it meets the profile as it is"}
    assert (report.model_calls, market.generator.calls) == (0, [])


def test_repairs_without_a_model(market: Market) -> None:
    odd = skill("odd").replace(b"---\n\n# ", b"category: tools\n---\n\n# ")
    market.add("plugins/odd", {"skills/odd/SKILL.md": odd})
    report = market.run(selection=Selection(plugins=(b"odd",)))
    assert (report.statuses, report.model_calls) == ({"verified": 1}, 0)
    mended = market.read("plugins/odd/skills/odd/SKILL.md")
    assert b"metadata:\n  category: tools" in mended
    assert mended.endswith(odd.partition(b"---\n\n")[2])
    assert market.run(selection=Selection(plugins=(b"odd",))).statuses == {"skipped": 1}


def test_filters_and_limit(market: Market) -> None:
    market.add("other/one")
    assert market.run(selection=Selection(limit=2)).plugins == 2
    assert market.run(selection=Selection(plugins=(b"plugins/one", b"two"))).plugins == 2
    assert market.run(selection=Selection(categories=("other",), limit=5)).plugins == 1
    with pytest.raises(UsageError, match="other/one, plugins/one"):
        market.run(selection=Selection(plugins=(b"one",)))
    with pytest.raises(UsageError, match="no plugin"):
        market.run(selection=Selection(plugins=(b"nobody",)))
    with pytest.raises(UsageError, match="no category"):
        market.run(selection=Selection(categories=("nothing",)))
    assert market.run(selection=Selection(limit=0)).plugins == 0


def test_a_persons_file_is_merged_with_the_first_proposal(market: Market) -> None:
    mine = b"---\nname: one-use\n---\n# My own\n\nKeep this line.\n"
    market.add("plugins/one", {"skills/one-use/SKILL.md": mine})
    report = market.run()
    assert report.statuses == {"verified": 3}
    merged = market.read("plugins/one/skills/one-use/SKILL.md")
    assert b"# My own\n\nKeep this line.\n" in merged
    assert b"## Usage" in merged
    assert market.run().model_calls == 0, "also where the input was a part of what was written"
    market.write("plugins/one/skills/one-use/SKILL.md", merged.replace(b"Keep this line.", b"Keep this line, too."))
    market.generator.says["one", "generate"] = [files("one-use", body="# New\n\n## Usage\n\n" + "Do it anew. " * 20)]
    assert market.run().statuses == {"verified": 1, "skipped": 2}
    again = market.read("plugins/one/skills/one-use/SKILL.md")
    assert b"Keep this line, too." in again
    assert b"Do it anew." in again


def test_a_conflict_goes_to_the_audit(market: Market) -> None:
    market.run()
    path = "plugins/one/skills/one-use/SKILL.md"
    market.write(path, market.read(path).replace(b"Run the steps", b"Think about the steps"))
    market.generator.says["one", "generate"] = [files("one-use", body="# X\n\n## Usage\n\n" + "Do it anew. " * 20)]
    market.run()
    assert b"Think about the steps" in market.read(path)
    (told,) = [row for row in market.site().inventory.audit() if row.event == "enhance-conflict"]
    assert "Do it anew." in told.detail
    assert "Think about" in told.detail


def test_what_a_person_deleted_comes_back_only_when_it_is_asked_for(market: Market) -> None:
    market.run()
    (market.source / "plugins/one/skills/one-use/SKILL.md").unlink()
    assert market.run().statuses == {"skipped": 3}
    market.generator = Scripted("m2")
    report = market.run(selection=Selection(plugins=(b"two", b"three")))
    assert report.statuses == {"verified": 2}
    assert market.run().reasons[b"plugins/one"].startswith("what is proposed was removed")
    report = market.run(selection=Selection(plugins=(b"one",)))
    assert (report.statuses, report.model_calls) == ({"verified": 1}, 0)
    assert market.read("plugins/one/skills/one-use/SKILL.md") == skill("one-use")


def test_what_was_written_to_a_copy_is_not_missed_here(market: Market, tmp_path: Path) -> None:
    market.generator.says["one", "generate"] = [CallError("no such model", blame=Blame.RUN)]
    assert market.run().statuses == {"parked": 3}
    market.generator.says.clear()
    here, copy = market.source, tmp_path / "copy"
    shutil.copytree(here, copy)
    market.source = copy
    assert market.run().statuses == {"verified": 3}
    market.source = here
    report = market.run()
    assert (report.statuses, report.reasons) == ({"verified": 3}, {})
    assert market.read("plugins/two/skills/two-use/SKILL.md") == skill("two-use")


def test_a_generator_that_breaks_fails_its_plugin_alone(market: Market) -> None:
    class Broken(Scripted):
        def read_plan(self, reply: Reply, material: Material) -> Plan:
            raise ZeroDivisionError("oops")

    market.generator.says["one", "generate"] = market.generator.says["one", "repair"] = [files("../../two/x")]
    report = market.run()
    assert report.statuses == {"failed": 1, "verified": 2}
    market.generator = Broken()
    market.generator.says["one", "plan"] = [CallError("as before", blame=Blame.REQUEST)]
    market.write("plugins/two/README.md", b"# two\n\n" + b"It is another one now, and a better one. " * 20)
    report = market.run()
    assert report.statuses == {"failed": 2, "skipped": 1}
    assert "ZeroDivisionError" in report.reasons[b"plugins/two"]


@pytest.mark.parametrize("path", ["../two/README.md", ".claude-plugin/plugin.json", "/etc/passwd", "link/x.md", "a//b"])
def test_a_proposal_stays_where_it_belongs(market: Market, path: str) -> None:
    (market.source / "plugins/one/link").symlink_to("../two")
    answer = json.dumps({path: "x"})
    market.generator.says["one", "generate"] = market.generator.says["one", "repair"] = [answer]
    report = market.run()
    assert report.statuses == {"failed": 1, "verified": 2}
    assert not [one for one in report.files_changed if one.startswith(b"plugins/one")]


def test_steps_and_records_tell_the_same(market: Market) -> None:
    steps: list[Any] = []
    job = structs.replace(market.job(), notify=steps.append)
    report = run(job)
    assert_true(job, report)
    of_one = [step.status for step in steps if step.plugin == b"plugins/one"]
    assert of_one == ["pending", "planned", "generated", "validated", "applied", "verified"]
    assert [step.done for step in steps][-1] == steps[-1].total == 3
    _, rows = job.site.inventory.sql("SELECT status, COUNT(*) FROM enhancements GROUP BY status")
    assert rows == [("verified", 3)]
    _, ((average,),) = job.site.inventory.sql("SELECT AVG(processing_time_seconds) FROM enhancements")
    assert average > 0
