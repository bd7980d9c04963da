"""Pacing of one run: limits with headroom, pauses and their evidence, and the estimate of the time left."""

from __future__ import annotations

import random
import threading
import time
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from drkit.clock import utc_now
from drkit.errors import BudgetExhausted, UsageError
from drkit.inventory import Call, Caps, Inventory
from enhance.generators.base import Blame, CallError
from enhance.model import Reply, Usage
from enhance.pace import Forecast, Ledger, Limit, Pace, Pacer, boot_time
from enhance.pace.policy import judge
from tests.support.pacing import (
    FAST,
    NOON,
    STEADY,
    Model,
    VirtualClock,
    ask,
    clock,
    ledger,
    make_pacer,
    open_ledger,
    refusal,
)

__all__ = ["clock", "ledger"]

# Limits


def test_headroom_divides_every_limit_and_leaves_at_least_one() -> None:
    limit = Limit(requests_per_minute=15, tokens_per_minute=1000, requests_per_day=2, usd_per_run=0.9)
    assert limit.caps == Caps(5, 333, 1, 300_000_000)
    assert Limit(requests_per_minute=2, headroom=1.0).caps.requests_per_minute == 2
    assert Limit(requests_per_minute=2, headroom=1.5).caps.requests_per_minute == 1
    assert Limit().caps == Caps()


@pytest.mark.parametrize(
    "limit",
    [
        Limit(requests_per_minute=-1),
        Limit(headroom=0.5),
        Limit(headroom=float("nan")),
        Limit(usd_per_run=1.0),
        Limit(usd_per_million_tokens_in=-1.0),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(ledger: Ledger, clock: VirtualClock, limit: Limit) -> None:
    with pytest.raises(UsageError):
        make_pacer(ledger, clock, limit)


@pytest.mark.parametrize(
    "pace", [Pace(delay_s=(-1, 0)), Pace(prove=0), Pace(start_s=(9, 3)), Pace(rest_s=float("inf"))]
)
def test_paces_that_cannot_be_meant_are_refused(ledger: Ledger, clock: VirtualClock, pace: Pace) -> None:
    with pytest.raises(UsageError):
        make_pacer(ledger, clock, None, pace)


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "requests_per_day"])
def test_a_limit_of_zero_stops_the_run_without_a_call(ledger: Ledger, clock: VirtualClock, name: str) -> None:
    model = Model(clock)
    with pytest.raises(CallError, match="is 0") as told:
        ask(make_pacer(ledger, clock, msgspec.structs.replace(Limit(model="m"), **{name: 0})), model)
    assert told.value.blame is Blame.RUN
    assert model.at == []


def test_a_request_that_no_minute_can_hold_is_refused_without_a_call(ledger: Ledger, clock: VirtualClock) -> None:
    pacer = make_pacer(ledger, clock, Limit(model="m", tokens_per_minute=900))
    model = Model(clock)
    with pytest.raises(CallError) as told:
        ask(pacer, model, tokens=901)
    assert told.value.blame is Blame.REQUEST
    ask(pacer, model, tokens=900)  # more than its third: it has the minute for itself
    assert len(model.at) == 1


def test_the_reservation_is_committed_before_the_call(ledger: Ledger, clock: VirtualClock, tmp_path: Path) -> None:
    seen = []

    def send() -> Reply:
        with Inventory.open(bytes(tmp_path / "inventory.db"), now=utc_now) as other:
            seen.extend(other.engine.execute("SELECT outcome, run, tokens FROM quota_ledger"))
        return Reply("text", "stop")

    ask(make_pacer(ledger, clock), send)
    assert seen == [("open", "run", 1000)]


def test_the_minute_is_kept_by_waiting(ledger: Ledger, clock: VirtualClock) -> None:
    model = Model(clock)
    ask(make_pacer(ledger, clock, Limit(model="m", requests_per_minute=6)), model, 9)
    assert model.at == [0, 5, 65, 70, 130, 135, 195, 200, 260]


def test_money_is_estimated_then_settled_and_ends_the_run(ledger: Ledger, clock: VirtualClock) -> None:
    """A call may cost 0.01 and costs 0.001: nine fit beside one more estimate."""
    limit = Limit(
        model="m", usd_per_run=0.019, headroom=1.0, usd_per_million_tokens_in=10, usd_per_million_tokens_out=10
    )
    pacer, model = make_pacer(ledger, clock, limit), Model(clock)
    with pytest.raises(BudgetExhausted, match="dollars"):
        ask(pacer, model, 20)
    assert len(model.at) == 10
    assert pacer.state().cost_usd == pytest.approx(0.01)
    ask(make_pacer(ledger, clock, limit, run="another"), model)


def test_the_day_parks(ledger: Ledger, clock: VirtualClock) -> None:
    pacer, model = make_pacer(ledger, clock, Limit(model="m", requests_per_day=9)), Model(clock)
    ask(pacer, model, 3)
    with pytest.raises(BudgetExhausted, match="day") as told:
        ask(pacer, model)
    assert "2026-11-23 08:01 UTC" in told.value.hint
    assert len(model.at) == 3
    assert pacer.state().day_left == 0


# Pauses


def test_pauses_start_conservative_and_are_halved_as_calls_prove(ledger: Ledger, clock: VirtualClock) -> None:
    model = Model(clock)
    ask(make_pacer(ledger, clock, pace=STEADY), model, 12)
    assert model.gaps() == [80, 40, 40, 20, 20, 10, 10, 5, 5, 5, 5]
    pace = Pace()
    assert pace.pauses(0) == (90, 120)
    assert pace.pauses(pace.steps) == (5, 7.5)


def test_what_is_proved_holds_for_the_next_run_and_a_day(ledger: Ledger, clock: VirtualClock, tmp_path: Path) -> None:
    model = Model(clock)
    ask(make_pacer(ledger, clock, pace=STEADY), model, 10)
    ask(make_pacer(open_ledger(tmp_path, clock), clock, pace=STEADY, run="next"), model, 3)
    assert model.gaps()[-3:] == [5, 5, 5]
    clock.passed += 25 * 3600
    ask(make_pacer(ledger, clock, pace=STEADY, run="old"), model, 2)
    assert model.gaps()[-1] == 80


def test_a_refusal_goes_one_step_back(ledger: Ledger, clock: VirtualClock) -> None:
    model = Model(clock)
    pacer = make_pacer(ledger, clock, pace=STEADY)
    ask(pacer, model, 10)
    model.script = [refusal(Blame.MINUTE)]
    ask(pacer, model, 4)
    assert model.gaps()[-4:] == [61.5, 10, 5, 5]


def test_jitter_lies_between_the_shortest_and_the_longest_pause(ledger: Ledger, clock: VirtualClock) -> None:
    model = Model(clock)
    pace = Pace(delay_s=(3, 4), start_s=(0, 0), rest_every=0)
    ask(make_pacer(ledger, clock, pace=pace, chance=random.Random(1).random), model, 60)
    assert min(model.gaps()) >= 3
    assert max(model.gaps()) <= 7
    assert max(model.gaps()) - min(model.gaps()) > 3


def test_a_rest_follows_every_so_many_calls(ledger: Ledger, clock: VirtualClock) -> None:
    model = Model(clock)
    ask(make_pacer(ledger, clock, pace=Pace(delay_s=(1, 0), start_s=(0, 0), rest_every=3, rest_s=30)), model, 7)
    assert model.gaps() == [1, 1, 31, 1, 1, 31]


def test_answers_that_become_slow_are_given_more_time() -> None:
    calls = [Call("done", 5.0, n) for n in range(30)]
    assert not judge(calls, STEADY).slow
    slow = judge([*calls, *[Call("done", 11.0, 99)] * 5], STEADY)
    assert slow.slow
    assert slow.pauses == (10, 10)
    assert "twice as long" in slow.sentence


def test_the_time_to_finish_by_shortens_pauses_before_they_are_proved(ledger: Ledger, clock: VirtualClock) -> None:
    model = Model(clock)
    pacer = make_pacer(ledger, clock, pace=STEADY, finish_by=NOON + timedelta(seconds=400))
    forecast = Forecast(pacer, 20)
    for _ in range(20):
        ask(pacer, model)
        forecast.finished(1, 1)
    assert clock.passed <= 400
    assert min(model.gaps()) >= 5


def test_nothing_is_begun_after_the_time_to_finish_by(ledger: Ledger, clock: VirtualClock) -> None:
    model = Model(clock)
    pacer = make_pacer(ledger, clock, pace=STEADY, finish_by=NOON + timedelta(seconds=100))
    with pytest.raises(BudgetExhausted, match="finish by"):
        ask(pacer, model, 50)
    assert model.at[-1] < 100
    assert clock.passed < 105
    with pytest.raises(UsageError):
        make_pacer(ledger, clock, finish_by=NOON.replace(tzinfo=None))


def test_the_evidence_is_told(ledger: Ledger, clock: VirtualClock) -> None:
    pacer, model = make_pacer(ledger, clock), Model(clock)
    pacer.pace = Pace()
    assert pacer.state().sentence == "90 to 120 s between calls: nothing is proved yet"
    ask(pacer, model, 6)
    state = pacer.state()
    assert state.sentence == (
        "45 to 60 s between calls: 6 answered, 0 refused in the last 24 h, half of them within 5.0 s and nine in ten "
        "within 5.0 s; faster after 4 more without a refusal"
    )
    assert (state.calls, state.delay_s, state.evidence.step, state.cost_usd) == (6, (45, 60), 1, 0)


# The estimate


def test_the_estimate_counts_calls_and_plans_the_pauses(ledger: Ledger, clock: VirtualClock) -> None:
    pacer, model = make_pacer(ledger, clock, pace=Pace(delay_s=(5, 0), start_s=(0, 0), rest_every=10)), Model(clock)
    ask(pacer, model, 5)
    forecast = Forecast(pacer, 100)
    eta = forecast.eta()
    assert eta.calls_left == 100
    assert eta.seconds == pytest.approx(100 * 10 + 10 * 60, rel=0.1)
    assert eta.reason == ""
    assert eta.sentence == "100 calls left, about 27 min"


def test_a_limit_that_lies_ahead_gives_a_range_and_its_reason(ledger: Ledger, clock: VirtualClock) -> None:
    pacer, model = make_pacer(ledger, clock, Limit(model="m", requests_per_day=90), FAST), Model(clock)
    ask(pacer, model, 10)
    eta = Forecast(pacer, 40).eta()
    assert eta.low_s == pytest.approx(20 * 5, rel=0.1)
    assert eta.high_s > 11 * 3600
    assert eta.reason == "the day's quota ends after 20 more calls, the rest is parked until 2026-11-23 08:00 UTC"
    assert "2 min to 12 h" in eta.sentence
    assert Forecast(pacer, 20).eta().reason == ""


def test_money_and_waits_and_the_time_to_finish_by_are_reasons_too(ledger: Ledger, clock: VirtualClock) -> None:
    limit = Limit(model="m", usd_per_run=0.03, usd_per_million_tokens_in=10, usd_per_million_tokens_out=10)
    pacer, model = make_pacer(ledger, clock, limit, FAST, finish_by=NOON + timedelta(seconds=90)), Model(clock)
    ask(pacer, model, 1, tokens=100)
    with pytest.raises(CallError), pacer.call(100, 30):
        raise refusal(Blame.MINUTE)
    reason = Forecast(pacer, 100).eta().reason
    for part in ("asked to wait 62 s", "money ends after about 8 more", "nothing is begun after 20:01 UTC"):
        assert part in reason


# Threads


def test_threads_of_one_process_share_the_quota_exactly(tmp_path: Path) -> None:
    path = bytes(tmp_path / "inventory.db")
    Inventory.open(path, now=utc_now).close()
    limit = Limit(model="m", requests_per_minute=40, headroom=1.0)
    seen: list[float] = []
    ends: list[BaseException] = []

    def send() -> Reply:
        seen.append(boot_time())
        return Reply("text", "stop", Usage(1, 1))

    def work(seed: int) -> None:
        with Inventory.open(path, now=utc_now) as inventory:
            pacer = Pacer(
                *(Ledger(inventory), limit, Pace(delay_s=(0, 0), start_s=(0, 0), rest_every=0, patience_s=1)),
                run="run",
                now=utc_now,
                monotonic=boot_time,
                sleep=time.sleep,
                random=random.Random(seed).random,
            )
            try:
                for _ in range(100):
                    pacer.ask(send, tokens=1, timeout_s=30)
            except BudgetExhausted as error:
                ends.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(ends) == 3
    assert len(seen) == 40 or seen[40] - seen[0] > 60
