"""Runs that are killed, ended or doubled: nothing is paid or applied twice, and nobody is left without a status."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from drkit.errors import LockedError, StoreError
from enhance.model import FINAL, Material, Reply, Status
from enhance.pipeline import Selection, rollback, run
from enhance.pipeline.job import Step
from tests.support.enhancing import Market, Scripted, assert_true, skill
from tests.support.guarding import state_dir  # noqa: F401

NAMES = ("one", "two", "three")


class Counted(Scripted):
    """Counts its calls in a file, which outlives the process; `before` and `after` are what happens around a call."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.log = log
        self.before: Callable[[int], None] = lambda _number: None
        self.after: Callable[[int], None] = lambda _number: None

    @property
    def count(self) -> int:
        return len(self.log.read_bytes()) if self.log.exists() else 0

    def send(self, request: Any, material: Material, *, timeout_s: float) -> Reply:
        with open(self.log, "ab") as file:
            file.write(b".")
        number = self.count
        self.before(number)
        reply = super().send(request, material, timeout_s=timeout_s)
        self.after(number)
        return reply


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    made = Market(tmp_path, *NAMES)
    made.add("plugins/two", {"skills/two-use/SKILL.md": b"---\nname: two-use\n---\n# A person's\n\nKeep this.\n"})
    made.generator = Counted(tmp_path / "calls")
    yield made
    made.close()


def in_child(action: Callable[[], object]) -> int:
    """Do something in a child process; return how it ended."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except BaseException:  # noqa: BLE001  # a child of a test must never return
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die(*_args: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def edits(market: Market) -> list[str]:
    """Return the edits that the guard's audit tells of, by plugin."""
    rows = market.site().inventory.audit()
    return sorted(row.detail.split('"plugin":"')[1].split('"')[0] for row in rows if row.event == "edit")


def assert_finished(market: Market, killed: int) -> None:
    """Run to the end after some kills, and hold what came out against a run that nobody disturbed."""
    generator = market.generator
    assert isinstance(generator, Counted)
    report = market.run()
    assert set(report.statuses) <= {"verified", "skipped"}
    assert generator.count <= 6 + killed, "calls that were in flight count as used, and no others"
    for name in ("one", "three"):
        assert market.read(f"plugins/{name}/skills/{name}-use/SKILL.md") == skill(f"{name}-use")
    merged = market.read("plugins/two/skills/two-use/SKILL.md")
    assert merged.count(b"Keep this.") == merged.count(b"## Usage") == 1
    assert edits(market) == ["plugins/one", "plugins/three", "plugins/two"], "each once"
    again = market.run()
    assert (again.model_calls, again.files_changed) == (0, ())
    assert again.statuses == {"skipped": 3}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 7))
def test_killed_at_a_call(market: Market, number: int, when: str) -> None:
    def run_and_die() -> None:
        setattr(market.generator, when, lambda now: die() if now == number else None)
        market.run()

    assert in_child(run_and_die) == -signal.SIGKILL
    assert_finished(market, 1)


@pytest.mark.parametrize("status", [Status.PENDING, Status.PLANNED, Status.GENERATED, Status.VALIDATED, Status.APPLIED])
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_a_step(market: Market, name: str, status: Status) -> None:
    def notify(step: Step) -> None:
        if step.plugin == f"plugins/{name}".encode() and step.status is status:
            die()

    assert in_child(lambda: run(structs.replace(market.job(), notify=notify))) == -signal.SIGKILL
    assert_finished(market, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["start", "end"])
def test_killed_around_the_guards_work(market: Market, name: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from enhance.pipeline.applying import apply as plain

    def apply(job: Any, this: str, plugin: bytes, draft: Any, *, check: Any) -> Any:
        if plugin != f"plugins/{name}".encode():
            return plain(job, this, plugin, draft, check=check)
        if place == "end":
            plain(job, this, plugin, draft, check=check)
        return die()

    with monkeypatch.context() as patch:
        patch.setattr("enhance.pipeline.running.apply", apply)
        assert in_child(market.run) == -signal.SIGKILL
    assert_finished(market, 0)


def test_what_a_killed_run_did_can_be_taken_back(market: Market) -> None:
    before = market.tree()
    market.close()

    def notify(step: Step) -> None:
        if step.plugin == b"plugins/two" and step.status is Status.APPLIED:
            die()

    assert in_child(lambda: run(structs.replace(market.job(), notify=notify))) == -signal.SIGKILL
    done = rollback(market.job(), "latest")
    assert (done.plugins, done.conflicts) == (3, ())
    assert market.tree() == before


class Stop(BaseException):
    """What the command line makes of SIGTERM."""


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_what_ends_a_run_leaves_every_plugin_with_a_status_and_a_true_report(
    market: Market, error: type[BaseException]
) -> None:
    generator = market.generator
    assert isinstance(generator, Counted)

    def stop(number: int) -> None:
        if number == 4:
            raise error("enough")

    generator.before = stop
    job = market.job()
    with pytest.raises(error):
        run(job)
    record = job.records.run("latest")
    assert record.exit_code == (130 if error is KeyboardInterrupt else 143)
    rows = job.records.statuses(record.run)
    assert {row.status for row in rows} == {"verified", "parked"}
    assert all(row.status in FINAL for row in rows)
    assert record.report is not None
    assert record.report["statuses"] == {"verified": 1, "parked": 2}
    assert record.report["files_changed"] == ["plugins/one/skills/one-use/SKILL.md"]
    assert record.report["changed_by_others"] == []
    generator.before = lambda _number: None
    assert_finished(market, 1)


def test_a_signal_in_the_middle_of_an_edit_leaves_it_done_or_not_done(market: Market) -> None:
    def notify(step: Step) -> None:
        if step.plugin == b"plugins/three" and step.status is Status.APPLIED:
            raise Stop

    job = structs.replace(market.job(), notify=notify)
    with pytest.raises(Stop):
        run(job)
    report = job.records.run("latest").report
    assert report is not None
    assert "plugins/three/skills/three-use/SKILL.md" in report["files_changed"]
    assert report["changed_by_others"] == []
    assert_finished(market, 0)


def test_a_broken_repository_ends_the_run_and_parks_the_rest(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: Any, **_more: Any) -> Any:
        raise StoreError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr("enhance.pipeline.running.apply", broken)
        job = market.job()
        with pytest.raises(StoreError):
            run(job)
    assert {row.status for row in job.records.statuses(job.records.run("latest").run)} == {"parked"}
    assert_finished(market, 0)


def test_of_two_runs_at_once_the_second_waits_and_repeats_nothing(market: Market) -> None:
    generator = market.generator
    assert isinstance(generator, Counted)
    ready, wait = os.pipe()

    def linger(number: int) -> None:
        if number == 2:
            os.write(wait, b"x")
            time.sleep(0.5)

    def first() -> None:
        generator.before = linger
        market.run()

    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            first()
            os._exit(0)
        os._exit(1)
    os.close(wait)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    second = market.run()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert generator.count == 6
    assert second.statuses == {"skipped": 3}
    assert (second.model_calls, second.changed_by_others) == (0, ())


def test_who_does_not_want_to_wait_is_refused_and_touches_nothing(market: Market) -> None:
    refused: list[LockedError] = []
    generator = market.generator
    assert isinstance(generator, Counted)

    def another(_number: int) -> None:
        with pytest.raises(LockedError, match="another enhancement run") as caught:
            run(market.job(site=market.site(lock_timeout_s=0.05)))
        refused.append(caught.value)

    generator.before = another
    report = market.run()
    assert [error.code for error in refused] == [11] * 6
    assert report.statuses == {"verified": 3}
    assert len(market.job().records.runs()) == 1


def test_a_limit_goes_on_where_it_was(market: Market) -> None:
    for limit, calls in ((1, 2), (2, 2), (3, 2)):
        job = market.job(selection=Selection(limit=limit))
        report = run(job)
        assert_true(job, report)
        assert report.model_calls == calls
