"""The ledger, rule by rule: the minute, the day, and clocks that are set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drkit.errors import UsageError
from drkit.inventory import Caps, Denied, Key
from drkit.inventory.ledger import days
from tests.support.ledgers import KEY, PACIFIC, Bench, bench, claim, midnight, most_in_a_window
from tests.support.pacing import VirtualClock

__all__ = ["bench"]

# The minute


def test_a_call_occupies_its_minute_from_reservation_until_60_s_after_its_end(bench: Bench) -> None:
    caps = Caps(requests_per_minute=1)
    row = bench.reserve(caps, claim(timeout_s=30))
    assert bench.denied(caps, claim()) == Denied("minute", 90_000)
    bench.clock.passed += 20
    bench.ledger.settle(row, bench.at, "done", latency_s=20)
    assert bench.denied(caps, claim()) == Denied("minute", 60_000)
    bench.clock.passed += 59.999
    assert bench.denied(caps, claim()) == Denied("minute", 1)
    bench.clock.passed += 0.001
    bench.reserve(caps, claim())


def test_reservations_alone_would_let_27_calls_through_where_15_are_allowed(bench: Bench) -> None:
    """Calls of 50 s, as many at once as there may be: counted by their beginning, 27 and more reach the server."""
    caps = Caps(requests_per_minute=15)
    arrivals: list[float] = []
    under_way: list[tuple[float, int]] = []
    for _ in range(400):
        while isinstance(row := bench.ledger.reserve(KEY, caps, claim(timeout_s=60), bench.at), int):
            # What is sent early arrives late, and what is sent late arrives early.
            slow = len(under_way) % 2 == 0
            arrivals.append(bench.clock.passed + (50 if slow else 0))
            under_way.append((bench.clock.passed + 50, row))
        bench.clock.passed += 1
        for end, row in [one for one in under_way if one[0] <= bench.clock.passed]:
            bench.ledger.settle(row, bench.at, "done", latency_s=50)
            under_way.remove((end, row))
    assert len(arrivals) >= 45
    assert most_in_a_window(arrivals, 60) <= 15


def test_a_crashed_call_occupies_its_minute_until_60_s_after_its_time_limit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, owner="gone", boot="b", alive=lambda owner: owner != "gone")
    caps = Caps(requests_per_minute=1, requests_per_day=2)
    bench.reserve(caps, claim(timeout_s=30))
    bench.clock.passed += 89.999
    assert bench.denied(caps, claim()) == Denied("minute", 1)
    bench.clock.passed += 0.001
    bench.reserve(caps, claim())
    bench.clock.passed += 3600
    assert bench.denied(caps, claim()).why == "day"  # both count as used


def test_a_call_that_outlives_its_time_limit_counts_as_long_as_its_process_lives(tmp_path: Path) -> None:
    """A laptop that was closed, a process that was stopped: its call may still be on its way."""
    living = {"slow", "other"}
    clock = VirtualClock()
    slow = Bench(tmp_path, clock, owner="slow", boot="b", alive=living.__contains__)
    other = Bench(tmp_path, clock, owner="other", boot="b", alive=living.__contains__)
    caps = Caps(requests_per_minute=1)
    row = slow.reserve(caps, claim(timeout_s=10))
    clock.passed += 3600
    assert other.denied(caps, claim()) == Denied("minute", 60_000)
    clock.passed += 3600
    assert other.denied(caps, claim()) == Denied("minute", 60_000)
    slow.ledger.settle(row, slow.at, "done")
    clock.passed += 60
    other.reserve(caps, claim())


def test_models_and_projects_have_their_own_minutes(bench: Bench) -> None:
    caps = Caps(requests_per_minute=1)
    for key in (KEY, Key("q", "us-central1", "m"), Key("p", "europe-west1", "m"), Key("p", "us-central1", "n")):
        bench.reserve(caps, claim(), key)
    assert bench.denied(caps, claim()).why == "minute"


def test_tokens_are_estimated_until_the_call_says_what_it_used(bench: Bench) -> None:
    caps = Caps(tokens_per_minute=100)
    row = bench.reserve(caps, claim(tokens=80))
    assert bench.denied(caps, claim(tokens=30)).why == "tokens"
    bench.ledger.settle(row, bench.at, "done", tokens=70)
    second = bench.reserve(caps, claim(tokens=30))
    assert bench.denied(caps, claim(tokens=1)).why == "tokens"
    bench.ledger.settle(second, bench.at, "transient")
    assert bench.denied(caps, claim(tokens=1)) == Denied("tokens", 60_000)  # a failed call keeps its estimate
    bench.clock.passed += 60
    bench.reserve(caps, claim(tokens=100))


def test_a_request_larger_than_the_minute_has_it_for_itself(bench: Bench) -> None:
    caps = Caps(tokens_per_minute=100)
    bench.call(caps, seconds=5, tokens=1)
    assert bench.denied(caps, claim(tokens=150)) == Denied("tokens", 60_000)
    bench.clock.passed += 60
    bench.reserve(caps, claim(tokens=150, timeout_s=10))
    assert bench.denied(caps, claim(tokens=1)) == Denied("tokens", 70_000)


def test_the_pause_counts_from_the_end_of_the_last_call_of_anybody(bench: Bench, tmp_path: Path) -> None:
    bench.call(Caps(), seconds=7)
    other = Bench(tmp_path, bench.clock)
    assert other.denied(Caps(), claim(pause_s=100)) == Denied("pause", 100_000)
    bench.clock.passed += 100
    other.reserve(Caps(), claim(pause_s=100))


def test_money_is_counted_for_a_run_and_exact_beyond_32_bits(bench: Bench) -> None:
    caps = Caps(money=9_000_000_000)
    row = bench.reserve(caps, claim(money=5_000_000_000))
    assert bench.denied(caps, claim(money=4_000_000_001)) == Denied("money", None)
    bench.reserve(caps, claim(money=4_000_000_001, run="another"))
    bench.ledger.settle(row, bench.at, "done", money=4_999_999_999)
    bench.reserve(caps, claim(money=4_000_000_001))
    used = bench.ledger.used(KEY, caps, "r", bench.at)
    assert (used.run_money, used.run_requests) == (9_000_000_000, 2)


# The day


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-08", 23), ("2026-11-01", 25), ("2026-11-22", 24), ("2026-12-31", 24)]
)
def test_days_begin_at_midnight_of_the_zone(day: str, hours: int) -> None:
    begin = datetime.fromisoformat(day).replace(tzinfo=PACIFIC)
    at = int((begin + timedelta(hours=12)).timestamp() * 1000)
    ((first, end),) = days(at, at, "America/Los_Angeles")
    assert first == begin.timestamp() * 1000
    assert end - first == hours * 3_600_000


def test_an_unknown_zone_is_a_usage_error(bench: Bench) -> None:
    for zone in ("Mars/Olympus", "", "../etc/passwd"):
        with pytest.raises(UsageError, match="zone"):
            bench.ledger.reserve(KEY, Caps(requests_per_day=1, zone=zone), claim(), bench.at)


@pytest.mark.parametrize("zone_day", ["2026-03-09", "2026-11-02", "2026-11-23"])
def test_the_day_opens_a_minute_after_midnight(tmp_path: Path, zone_day: str) -> None:
    opens = datetime.fromisoformat(zone_day).replace(tzinfo=PACIFIC).astimezone(UTC)
    bench = Bench(tmp_path, VirtualClock(opens - timedelta(hours=20)))
    caps = Caps(requests_per_day=2)
    bench.call(caps)
    bench.call(caps)
    wait = bench.denied(caps, claim())
    assert wait == Denied("day", (20 * 3600 - 10 + 60) * 1000)
    bench.clock.passed += 20 * 3600 - 10 + 59.9
    assert bench.denied(caps, claim()).why == "day"
    bench.clock.passed += 0.1
    bench.reserve(caps, claim())


@pytest.mark.parametrize(("before", "also_next"), [(-200, False), (-70, False), (-64, True), (-3, True)])
def test_a_call_close_to_midnight_counts_in_both_days(tmp_path: Path, before: float, also_next: bool) -> None:
    """It ends 5 s later; within 60 s of the boundary, which day the server counts it in is not known."""
    bench = Bench(tmp_path, midnight(before))
    caps = Caps(requests_per_day=1)
    bench.call(caps, seconds=5, timeout_s=10)
    bench.clock.passed = -before + 3600
    used = bench.ledger.used(KEY, caps, "r", bench.at)
    assert used.day_requests == int(also_next)
    assert isinstance(bench.ledger.reserve(KEY, caps, claim(), bench.at), Denied) is also_next


def test_a_call_just_after_midnight_must_fit_the_day_before(tmp_path: Path) -> None:
    bench = Bench(tmp_path, midnight(-3600))
    caps = Caps(requests_per_day=1)
    bench.call(caps)
    bench.clock.passed = 3600 + 59
    assert bench.denied(caps, claim()) == Denied("day", 1000)
    bench.clock.passed += 1
    bench.reserve(caps, claim())


def test_a_refusal_of_the_day_parks_everybody_until_the_day_opens(tmp_path: Path) -> None:
    bench = Bench(tmp_path, midnight(-7200))
    row = bench.reserve(Caps(), claim())
    bench.ledger.settle(row, bench.at, "day")
    other = Bench(tmp_path, bench.clock)
    bench.clock.passed = 7200 - 61
    assert other.denied(Caps(), claim()).why == "refused"
    bench.clock.passed = 7200 + 60
    other.reserve(Caps(), claim())


def test_a_refusal_just_after_midnight_may_be_of_the_day_before(tmp_path: Path) -> None:
    bench = Bench(tmp_path, midnight(30))
    bench.ledger.settle(bench.reserve(Caps(), claim()), bench.at, "day")
    bench.clock.passed += 120
    bench.reserve(Caps(), claim())


# Clocks


@pytest.mark.parametrize("jump", [-86_400.0 * 400, -3600, -61, 61, 3600, 13 * 3600, 86_400 * 400])
def test_a_clock_that_is_set_moves_no_call_out_of_its_minute_or_day(bench: Bench, jump: float) -> None:
    caps = Caps(requests_per_minute=2, requests_per_day=2)
    bench.call(caps)
    bench.clock.ahead = jump
    bench.call(caps)
    denied = bench.denied(caps, claim())
    assert denied.why == "day"
    assert denied.wait_ms is not None
    assert denied.wait_ms <= 25 * 3_600_000  # and a wrong clock parks nobody for longer than a day
    assert bench.denied(Caps(requests_per_minute=2), claim()) == Denied("minute", 55_000)


def test_a_day_is_over_only_when_every_clock_says_so(bench: Bench) -> None:
    """Noon; three hours later the clock is set to one in the morning, when what was made at noon is of yesterday."""
    caps = Caps(requests_per_day=1)
    bench.call(caps)
    bench.clock.passed = 3 * 3600
    bench.clock.ahead = 10 * 3600
    assert bench.denied(caps, claim()) == Denied("day", (9 * 3600 + 60) * 1000)
    bench.clock.passed = 12 * 3600 + 60
    bench.reserve(caps, claim())


def test_a_restart_of_the_machine_forgets_no_day(tmp_path: Path) -> None:
    clock = VirtualClock()
    before = Bench(tmp_path, clock, owner="x", boot="first")
    caps = Caps(requests_per_minute=1, requests_per_day=2)
    before.call(caps)
    clock.uptime = -clock.passed + 20  # 20 s after the start
    after = Bench(tmp_path, clock, owner="y", boot="second")
    assert after.denied(caps, claim()) == Denied("minute", 40_000)
    clock.passed += 40
    after.call(caps)
    clock.passed += 600
    assert after.denied(caps, claim()).why == "day"
    clock.ahead = -3 * 86_400  # the calls of the first start now lie in the future
    assert after.denied(caps, claim()).why == "day"
