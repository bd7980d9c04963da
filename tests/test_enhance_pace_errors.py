"""What follows from each kind of error: whom it stops, who waits and for how long, and what is tried again."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.errors import BudgetExhausted
from drkit.inventory import Call
from enhance.generators.base import Blame, CallError
from enhance.pace import Ledger, Limit
from enhance.pace.policy import judge
from tests.support.pacing import STEADY, Model, VirtualClock, ask, clock, ledger, make_pacer, open_ledger, refusal

__all__ = ["clock", "ledger"]


def test_the_phase_of_permanent_errors_costs_one_call(ledger: Ledger, clock: VirtualClock) -> None:
    """The night made three calls for each of 171."""
    model = Model(clock, *[refusal(Blame.RUN, "404 no such model", status=404)] * 600)
    pacer = make_pacer(ledger, clock)
    for _ in range(171):
        with pytest.raises(CallError, match="404 no such model") as told:
            ask(pacer, model)
        assert told.value.blame is Blame.RUN
    assert len(model.at) == 1


def test_the_same_words_twice_before_any_answer_concern_the_run(ledger: Ledger, clock: VirtualClock) -> None:
    model = Model(clock, *[refusal(Blame.REQUEST, "400 unknown field", status=400)] * 600)
    pacer = make_pacer(ledger, clock)
    for _ in range(171):
        with pytest.raises(CallError):
            ask(pacer, model)
    assert len(model.at) == 2


def test_errors_of_single_requests_stop_nothing(ledger: Ledger, clock: VirtualClock) -> None:
    same = [refusal(Blame.REQUEST, "400 blocked", status=400)] * 2
    model = Model(clock, refusal(Blame.REQUEST, "400 a", status=400), refusal(Blame.REQUEST, "400 b", status=400))
    pacer = make_pacer(ledger, clock)
    for _ in range(2):
        with pytest.raises(CallError):
            ask(pacer, model)
    ask(pacer, model)
    model.script = list(same)
    for _ in range(2):
        with pytest.raises(CallError):
            ask(pacer, model)
    ask(pacer, model)
    assert len(model.at) == 6


def test_the_servers_word_for_the_day_parks_this_run_and_the_next(ledger: Ledger, clock: VirtualClock) -> None:
    model = Model(clock, refusal(Blame.DAY, "quota per day"))
    for run in ("one", "two"):
        with pytest.raises(BudgetExhausted):
            ask(make_pacer(ledger, clock, run=run), model)
        clock.passed += 1000
    assert len(model.at) == 1
    assert make_pacer(ledger, clock).state().day_left == 0
    clock.passed = 12 * 3600 + 60
    ask(make_pacer(ledger, clock, run="three"), model)


@pytest.mark.parametrize(("after", "least"), [(47.0, 47.0), (None, 60.0), (200.0, 200.0)])
def test_a_refused_minute_is_waited_for_as_the_server_asks(
    ledger: Ledger, clock: VirtualClock, after: float | None, least: float
) -> None:
    model = Model(clock, refusal(Blame.MINUTE, after=after))
    ask(make_pacer(ledger, clock), model)
    assert least <= model.gaps()[0] <= least * 1.05


def test_other_processes_wait_for_a_refused_minute_too(ledger: Ledger, clock: VirtualClock, tmp_path: Path) -> None:
    model = Model(clock, refusal(Blame.MINUTE, after=100.0))
    with (
        pytest.raises(CallError),
        make_pacer(ledger, clock).call(10, 30) as ticket,
    ):
        model()
    assert ticket.settled
    ask(make_pacer(open_ledger(tmp_path, clock), clock, run="other"), model)
    assert 100 <= model.gaps()[0] <= 105


def test_a_minute_refused_for_longer_than_patience_parks(ledger: Ledger, clock: VirtualClock) -> None:
    model = Model(clock, refusal(Blame.MINUTE, after=7200.0))
    with pytest.raises(BudgetExhausted):
        ask(make_pacer(ledger, clock), model)
    assert len(model.at) == 1
    assert clock.passed < 3600


def test_a_minute_refused_again_and_again_is_waited_for_longer_and_not_for_ever(
    ledger: Ledger, clock: VirtualClock
) -> None:
    model = Model(clock, *[refusal(Blame.MINUTE)] * 100)
    with pytest.raises(CallError):
        ask(make_pacer(ledger, clock), model)
    assert len(model.at) == 8
    assert [round(gap / 1.025) for gap in model.gaps()] == [60, 120, 240, 300, 300, 300, 300]


def test_a_burst_in_one_window_is_backed_off_from_once() -> None:
    """Eight calls that were under way together, refused together."""
    clean = [Call("done", 5.0, n * 10_000) for n in range(40)]
    burst = [Call("minute", 0.2, 500_000 + n * 1000) for n in range(8)]
    before, after = judge(clean, STEADY), judge([*clean, *burst], STEADY)
    assert (before.step, after.step, after.backoffs, after.refused) == (4, 3, 1, 8)
    later = judge([*clean, *burst, Call("minute", 0.2, 700_000)], STEADY)
    assert (later.step, later.backoffs) == (2, 2)


def test_passing_errors_are_tried_again_a_few_times(ledger: Ledger, clock: VirtualClock) -> None:
    passing = refusal(Blame.TRANSIENT, "503", status=503)
    model = Model(clock, passing, passing, None)
    ask(make_pacer(ledger, clock), model)
    assert len(model.at) == 3
    assert all(gap > 1 for gap in model.gaps())
    model.script = [passing] * 9
    with pytest.raises(CallError, match="503"):
        ask(make_pacer(ledger, clock), model)
    assert len(model.at) == 3 + 4


def test_retry_after_of_a_passing_error_is_honoured(ledger: Ledger, clock: VirtualClock) -> None:
    model = Model(clock, refusal(Blame.TRANSIENT, "503", after=33.0, status=503))
    ask(make_pacer(ledger, clock), model)
    assert model.gaps()[0] >= 33


def test_a_call_that_was_cut_off_counts_with_its_estimate(ledger: Ledger, clock: VirtualClock) -> None:
    pacer = make_pacer(ledger, clock, Limit(model="m", requests_per_minute=1, tokens_per_minute=5000, headroom=1))
    with pytest.raises(KeyboardInterrupt), pacer.call(3000, 30):
        raise KeyboardInterrupt
    state = pacer.state()
    assert (state.calls, state.minute_left, state.tokens_left) == (1, 0, 2000)
