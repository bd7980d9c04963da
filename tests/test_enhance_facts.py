"""What went wrong in the original system, point by point: each test fails if it could happen here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drkit.backup.live import InUse
from drkit.guard import Policy, take_snapshot
from drkit.model import Level
from drkit.progress import NullProgress
from drkit.query.cat import cat
from drkit.verify import verify
from enhance.generators.base import Blame, CallError
from enhance.model import Reply
from enhance.pipeline import Selection, look, rollback, run
from tests.support.enhancing import Market, as_somebody_else, assert_true, files, skill
from tests.support.guarding import state_dir  # noqa: F401

ONE = "plugins/one/skills/one-use/SKILL.md"


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    made = Market(tmp_path, "one", "two", "three")
    yield made
    made.close()


def test_1_an_answer_that_was_dropped_is_no_success(market: Market) -> None:
    """A fenced answer was dropped and logged as a success."""
    fenced = f"```json\n{files('one-use')}\n```"
    market.generator.says["one", "generate"] = [fenced]
    report = market.run()
    on_disk = set(market.source.rglob("SKILL.md"))
    assert len(on_disk) == report.statuses["verified"] == len(report.files_changed) == 2
    assert report.statuses["failed"] == 1
    assert report.exit_code == 3


def test_1_success_is_what_the_disk_says(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """A status comes from reading what is there: a write that did not happen is a failure, whatever returned well."""
    from enhance.pipeline.applying import apply as plain

    def lost(job: Any, this: str, plugin: bytes, draft: Any, *, check: Any) -> Any:
        applied = plain(job, this, plugin, draft, check=check)
        if plugin == b"plugins/one":
            with as_somebody_else():
                (market.source / ONE).unlink()
        return applied

    monkeypatch.setattr("enhance.pipeline.running.apply", lost)
    report = market.run()
    assert report.statuses == {"verified": 2, "failed": 1}
    assert "not on the disk" in report.reasons[b"plugins/one"]
    assert report.exit_code == 20, "and the claim is absent from the difference"


@pytest.mark.parametrize("phase", ["plan", "generate"])
def test_2_a_truncated_answer_is_never_a_finished_file(market: Market, phase: str) -> None:
    whole = '["one-use"]' if phase == "plan" else files("one-use")
    market.generator.says["one", phase] = [Reply(whole, "max_tokens")]
    report = market.run()
    assert report.statuses == {"verified": 2, "failed": 1}
    assert not (market.source / ONE).exists()
    assert "max_tokens" in report.reasons[b"plugins/one"]


def test_3_a_plan_that_is_not_json_loses_no_plugin(market: Market) -> None:
    market.generator.says["one", "plan"] = ['Sure! Here is the plan: ["one-use"]']
    market.generator.says["two", "plan"] = ["{}"]
    job = market.job()
    report = run(job)
    assert_true(job, report)
    rows = {row.plugin_path: row.status for row in job.records.statuses(report.run)}
    assert rows == {b"plugins/one": "failed", b"plugins/two": "failed", b"plugins/three": "verified"}
    assert sum(report.statuses.values()) == report.plugins == 3


def test_4_backups_are_whole_verified_recorded_and_restorable(market: Market) -> None:
    """They were keyed by name and second, unverified and unrecorded, and nothing restored them."""
    market.add("other/one")
    with as_somebody_else():
        site = market.site()
        site.in_use = (InUse(os.fsencode(market.inventory_path), site.inventory.copy_to),)
    job = market.job(site=site)
    before = take_snapshot(job.site).tree_sha256
    report = run(job)
    assert {row.plugin_path for row in job.records.statuses(report.run)} >= {b"plugins/one", b"other/one"}
    refs = job.site.repo.snapshots()
    assert len({ref.id for ref in refs}) == len(refs) >= 6, "one for each edit, the first and the last"
    assert len(job.site.inventory.snapshots()) == len(refs), "each recorded"
    assert len([one for one in job.site.inventory.verifications() if one.level == "restore"]) >= 4
    assert verify(job.site.repo, refs[-1:], level=Level.CONTENT, progress=NullProgress()).ok
    assert rollback(job, report.run).plugins == 4
    assert take_snapshot(job.site).tree_sha256 == before


def test_5_a_dry_run_writes_nothing(market: Market) -> None:
    job = market.job()
    before, rows = market.describe(), job.site.inventory.counts()
    look(job)
    assert (market.describe(), job.site.inventory.counts(), market.generator.calls) == (before, rows, [])


def test_5_a_second_pass_pays_for_nothing(market: Market) -> None:
    market.generator.says["one", "generate"] = ["no json"]
    assert market.run().model_calls == 6
    second = market.run()
    assert (second.model_calls, second.files_changed) == (0, ())


def test_6_a_permanent_refusal_opens_the_breaker_at_once(market: Market) -> None:
    """171 permanent 404s were each retried three times."""
    for name in ("one", "two", "three"):
        market.generator.says[name, "plan"] = [CallError("404 no such model", blame=Blame.RUN, status=404)]
    report = market.run()
    assert report.model_calls <= 2
    assert report.statuses == {"parked": 3}
    assert report.exit_code == 32


def test_7_placeholders_are_no_content(market: Market) -> None:
    boxes = "# One\n\n" + "- [ ] TODO: describe what this does\n" * 20
    market.generator.says["one", "generate"] = market.generator.says["one", "repair"] = [files("one-use", body=boxes)]
    report = market.run()
    assert report.statuses == {"verified": 2, "failed": 1}
    assert "SK022" in report.reasons[b"plugins/one"]
    assert not (market.source / ONE).exists()


def test_8_the_check_of_the_report_can_fail(market: Market) -> None:
    """The original's checks could not. Here a claim without a difference is 20, and a difference without a claim 3."""

    def undo() -> str:
        with as_somebody_else():
            (market.source / ONE).unlink()
        market.write("plugins/three/NEW.md", b"not the run's")
        return '["two-use"]'

    market.generator.says["two", "plan"] = [undo]
    report = market.run()
    assert report.absent == (ONE.encode(),)
    assert report.changed_by_others == (b"plugins/three/NEW.md",)
    assert report.exit_code == 20


@pytest.mark.parametrize(
    "text", ["Error: quota exceeded for model gemini-2.5-flash", "", "```", "---\nname: one-use\n"]
)
def test_9_an_error_message_is_never_written_and_the_good_one_is_kept(market: Market, text: str) -> None:
    """A message of the command line was written into SKILL.md, and the next backup stored it over the good one."""
    market.run()
    good = market.read(ONE)
    market.write("plugins/one/README.md", b"# one\n\n" + b"It does something else now, and does it well. " * 20)
    bad = json.dumps({"skills/one-use/SKILL.md": text})
    market.generator.says["one", "generate"] = market.generator.says["one", "repair"] = [bad]
    report = market.run()
    assert report.statuses["failed"] == 1
    assert market.read(ONE) == good == skill("one-use")
    # And had it been written by somebody, the generations before it are still there.
    market.write(ONE, text.encode())
    job = market.job()
    take_snapshot(job.site)
    older = job.site.repo.load(job.site.repo.resolve(report.snapshot_after))
    assert b"".join(cat(job.site.repo, older, ONE.encode())) == good


def test_without_a_proof_there_is_no_edit(market: Market) -> None:
    report = market.run(policy=Policy(copies=2))
    assert report.statuses == {"failed": 3}
    assert report.files_changed == ()
    assert "the guard refused" in report.reasons[b"plugins/one"]
    market.generator.calls.clear()
    assert market.run(selection=Selection(plugins=(b"one",))).statuses == {"verified": 1}
    assert market.generator.calls == [], "what was answered is not paid again"
