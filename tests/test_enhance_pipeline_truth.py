"""The report is true, the watch over writes works, plans go out and come in, and what was done is taken back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from drkit.errors import ProposalRejected, UsageError
from drkit.guard import protect
from enhance.discover import discover
from enhance.pipeline import Selection, apply_file, look, plan_out, rollback, run
from tests.support.enhancing import (
    Market,
    Scripted,
    StrayWrite,
    as_somebody_else,
    assert_true,
    files,
    skill,
    strays,
    watch,
)
from tests.support.guarding import state_dir  # noqa: F401

ONE = "plugins/one/skills/one-use/SKILL.md"


@pytest.fixture
def market(tmp_path: Path) -> Any:
    made = Market(tmp_path, "one", "two", "three")
    yield made
    made.close()


# The report


def test_changes_by_others_are_listed_and_never_claimed(market: Market) -> None:
    def meddle() -> str:
        market.write("plugins/one/NEW.md", b"somebody's")
        market.write("loose.txt", b"somebody's")
        with as_somebody_else():
            (market.source / "plugins/three/README.md").unlink()
            os.chmod(market.source / "plugins/three/commands/three.md", 0o600)
            os.symlink("nowhere", market.source / "link")
            os.mkdir(market.source / "a directory counts for nothing")
        return files("two-use")

    market.generator.says["two", "generate"] = [meddle]
    report = market.run()
    assert report.changed_by_others == (
        b"link",
        b"loose.txt",
        b"plugins/one/NEW.md",
        b"plugins/three/README.md",
        b"plugins/three/commands/three.md",
    )
    assert report.exit_code == 3


def test_what_others_made_of_a_written_file_is_theirs(market: Market) -> None:
    def meddle() -> str:
        market.write(ONE, b"mine now")
        return '["two-use"]'

    market.generator.says["two", "plan"] = [meddle]
    report = market.run()
    assert report.changed_by_others == (ONE.encode(),)
    assert ONE.encode() not in report.files_changed


def test_claimed_but_absent_is_20(market: Market) -> None:
    def undo() -> str:
        with as_somebody_else():
            (market.source / ONE).unlink()
        return '["two-use"]'

    market.generator.says["two", "plan"] = [undo]
    report = market.run()
    assert report.absent == (ONE.encode(),)
    assert report.exit_code == 20


def test_a_plugin_that_somebody_changes_meanwhile_is_left_alone_and_tried_again(market: Market) -> None:
    mine = b"---\nname: one-use\n---\n# Mine\n"

    def meddle() -> str:
        market.write(ONE, mine)
        return files("one-use")

    market.generator.says["one", "generate"] = [meddle]
    report = market.run()
    assert report.statuses == {"failed": 1, "verified": 2}
    assert market.read(ONE) == mine
    assert report.changed_by_others == (ONE.encode(),)
    market.generator.says.clear()
    assert market.run().statuses == {"skipped": 2, "verified": 1}
    assert b"# Mine" in market.read(ONE)


def test_the_inventory_in_the_source_is_in_neither_list(tmp_path: Path) -> None:
    from drkit.backup.live import InUse

    market = Market(tmp_path, "one")
    market.inventory_path = market.source / "inventory.db"
    site = market.site()
    site.in_use = (InUse(os.fsencode(market.inventory_path), site.inventory.copy_to),)
    with as_somebody_else():
        report = run(market.job(site=site))
    assert report.files_changed == (ONE.encode(),)
    assert report.changed_by_others == ()
    market.close()


# The watch


def test_the_watch_sees_what_enhance_and_drkit_write_without_a_permit(market: Market) -> None:
    target = market.source / "plugins/one/README.md"
    watch(market.source)
    target.write_bytes(b"the test's own doing is its own business")
    for code in (
        "open({path!r}, 'w')",
        "open({path!r}, 'r+b')",
        "os.open({path!r}, os.O_WRONLY)",
        "os.open('README.md', os.O_RDWR, dir_fd=os.open({top!r}, os.O_RDONLY))",
        "os.remove({path!r})",
        "os.unlink('README.md', dir_fd=os.open({top!r}, os.O_RDONLY))",
        "os.rename({path!r}, {path!r} + 'x')",
        "os.replace('/etc/nothing', {path!r})",
        "os.mkdir({top!r} + '/x')",
        "os.rmdir({top!r})",
        "os.link('/etc/hosts', {top!r} + '/x')",
        "os.symlink('x', {top!r} + '/x')",
        "os.chmod({path!r}, 0o600)",
        "os.chmod(os.open({path!r}, os.O_RDONLY), 0o600)",
        "os.utime({path!r})",
        "os.truncate({path!r}, 0)",
        "os.chown({path!r}, -1, -1)",
        "os.chdir({top!r}) or os.remove('README.md')",
    ):
        here = os.getcwd()
        text = code.format(path=str(target), top=str(target.parent))
        try:
            with pytest.raises(StrayWrite):
                exec(text, {"__name__": "enhance.somewhere", "os": os})
        finally:
            os.chdir(here)
        assert len(strays()) == 1, text
    exec(f"open({str(target)!r}).close()", {"__name__": "enhance.somewhere"})
    exec(f"open({str(market.root / 'elsewhere')!r}, 'w').close()", {"__name__": "enhance.somewhere"})
    assert strays() == []


def test_the_watch_notices_sources_by_itself_and_lets_the_guard_pass(market: Market) -> None:
    source = os.fsencode(market.source)
    assert len(discover(source).plugins) == 3
    with protect(b"plugins/one", market.site()) as permit:
        permit.write(b"README.md", b"permitted")
        with pytest.raises(StrayWrite):
            exec(f"open({ONE!r}[:0] + {str(market.source)!r} + '/x', 'w')", {"__name__": "enhance.somewhere"})
    assert market.read("plugins/one/README.md") == b"permitted"
    assert len(strays()) == 1


# Dry runs, plans


def test_a_dry_run_calls_nobody_and_writes_nothing(market: Market) -> None:
    odd = skill("odd").replace(b"---\n\n# ", b"category: tools\n---\n\n# ")
    market.add("plugins/odd", {"skills/odd/SKILL.md": odd})
    job = market.job()
    before, counts = market.describe(), job.site.inventory.counts()
    preview = look(job)
    assert market.generator.calls == []
    assert market.describe() == before
    assert job.site.inventory.counts() == counts
    assert job.site.repo.snapshots() == []
    assert preview.calls == (3, 9)
    by_path = {one.path: one for one in preview.plugins}
    assert "+  category: tools" in by_path[b"plugins/odd"].diff
    assert by_path[b"plugins/odd"].calls == (0, 0)
    json.dumps(preview.plain())
    run(job)
    assert look(market.job()).calls == (0, 0)


def test_a_plan_goes_out_and_comes_in(market: Market, tmp_path: Path) -> None:
    file = str(tmp_path / "plan.json")
    before = market.describe()
    job = market.job()
    report = plan_out(job, file)
    assert_true(job, report)
    assert market.describe() == before
    assert (report.files_changed, report.statuses, report.model_calls) == ((), {"skipped": 3}, 6)
    market.generator.calls.clear()
    job = market.job()
    applied = apply_file(job, file)
    assert_true(job, applied)
    assert applied.statuses == {"verified": 3}
    assert market.read(ONE) == skill("one-use")
    with pytest.raises(ProposalRejected) as caught:
        apply_file(market.job(), file)
    assert caught.value.code == 31
    assert market.run().statuses == {"skipped": 3}
    assert market.generator.calls == []


def test_a_stale_plan_writes_nothing_at_all(market: Market, tmp_path: Path) -> None:
    file = str(tmp_path / "plan.json")
    plan_out(market.job(), file)
    market.write("plugins/two/README.md", b"changed")
    before = market.describe()
    with pytest.raises(ProposalRejected, match="plugins/two"):
        apply_file(market.job(), file)
    assert market.describe() == before


def test_a_plan_is_no_way_round_the_rules(market: Market, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    plan_out(market.job(selection=Selection(plugins=(b"one",))), str(file))
    plan = json.loads(file.read_text())
    writes = plan["plugins"][0]["writes"]
    (path,) = writes
    for bad in (
        {path: {"text": "no head"}},
        {"../two/x": {"text": "x"}},
        {".claude-plugin/plugin.json": {"text": "{}"}},
    ):
        plan["plugins"][0]["writes"] = bad
        file.write_text(json.dumps(plan))
        report = apply_file(market.job(), str(file))
        assert report.statuses == {"failed": 1}
        assert report.files_changed == ()
    for text in ("{}", "[]", "no json", json.dumps({**plan, "drkit_enhance_plan": 2})):
        file.write_text(text)
        with pytest.raises(UsageError):
            apply_file(market.job(), str(file))


def test_where_a_plan_cannot_be_written_is_told_before_any_call(market: Market, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(market.source / "plugins/one/README.md")
    for file in (market.source / "plan.json", link):
        with pytest.raises(UsageError, match="is in the source"):
            plan_out(market.job(), str(file))
    for file in (tmp_path / "gone" / "plan.json", tmp_path):
        with pytest.raises(UsageError, match="cannot be written"):
            plan_out(market.job(), str(file))
    assert market.generator.calls == []


# Rollback


def test_rollback_gives_the_tree_hash_back(market: Market) -> None:
    odd = skill("odd").replace(b"name: odd", b"name: Odd One").replace(b"---\n\n# ", b"category: tools\n---\n\n# ")
    market.add("plugins/odd", {"skills/odd/SKILL.md": odd, "skills/odd/scripts/run.sh": b"#!/bin/sh\n"})
    os.chmod(market.source / "plugins/odd/skills/odd/scripts/run.sh", 0o755)
    os.chmod(market.source / "plugins/odd/skills/odd/SKILL.md", 0o640)
    os.chmod(market.source / "plugins/odd/skills/odd", 0o750)
    market.add("plugins/one/inner")
    before = market.tree()
    report = market.run()
    assert report.statuses == {"verified": 5}
    assert b"plugins/odd/skills/odd-one/scripts/run.sh" in report.files_changed
    assert market.tree() != before
    done = rollback(market.job(), "latest")
    assert market.tree() == before
    assert (done.plugins, done.conflicts, done.exit_code) == (5, (), 0)
    assert set(done.files_changed) == set(report.files_changed)
    assert rollback(market.job(), report.run).plugins == 0
    job = market.job()
    assert {row.status for row in job.records.statuses(report.run)} == {"rolled_back"}
    market.generator.calls.clear()
    assert market.run(selection=Selection(plugins=(b"three",))).statuses == {"verified": 1}
    rollback(market.job(), "latest")
    again = market.run()
    assert again.statuses == {"skipped": 5}, "what a person took back does not come again each night"
    assert market.run(selection=Selection(plugins=(b"two",))).statuses == {"verified": 1}
    assert market.generator.calls == []


def test_rollback_of_one_plugin(market: Market) -> None:
    report = market.run()
    done = rollback(market.job(), report.run[:10], (b"two",))
    assert done.files_changed == (b"plugins/two/skills/two-use/SKILL.md",)
    assert (market.source / ONE).exists()
    assert not (market.source / "plugins/two/skills").exists()
    with pytest.raises(UsageError):
        rollback(market.job(), report.run, (b"nobody",))
    assert rollback(market.job(), report.run).plugins == 2


@pytest.mark.parametrize("path", [ONE, "plugins/one/README.md", "plugins/one/skills/one-use/mine.md"])
def test_what_somebody_changed_since_is_a_conflict(market: Market, path: str) -> None:
    before = market.tree()
    report = market.run()
    market.write(path, b"somebody's")
    done = rollback(market.job(), report.run)
    assert (done.conflicts, done.plugins, done.exit_code) == ((b"plugins/one",), 2, 30)
    assert market.read(path) == b"somebody's"
    forced = rollback(market.job(), report.run, force=True)
    assert (forced.conflicts, forced.plugins) == ((), 1)
    if path == ONE:
        assert market.tree() == before
    else:
        assert market.read(path) == b"somebody's", "only what the run wrote is put back"


def test_rollback_of_the_second_run_brings_back_the_first(market: Market) -> None:
    market.run()
    first = market.tree()
    market.generator = Scripted("m2")
    market.generator.says["one", "generate"] = [files("one-use", body="# Z\n\n## Usage\n\n" + "Do it anew. " * 20)]
    second = market.run()
    assert second.files_changed == (ONE.encode(),)
    rollback(market.job(), second.run)
    assert market.tree() == first
    market.generator = Scripted("m3")
    market.generator.says["one", "generate"] = [files("one-use", body="# Y\n\n## Usage\n\n" + "And once more. " * 20)]
    assert market.run().files_changed == (ONE.encode(),)
    assert b"And once more." in market.read(ONE)
    assert b"Run the steps" not in market.read(ONE), "it is not taken for a person's text"


def test_rollback_of_a_run_elsewhere_is_refused(market: Market) -> None:
    job = market.job()
    report = run(job)
    job.site.source = os.fsencode(market.root)
    with pytest.raises(UsageError, match="was a run on"):
        rollback(structs.replace(job), report.run)
