"""The ledger: whatever processes do, and however clocks are set, no server sees more calls than its limit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drkit.errors import UsageError
from drkit.inventory import Caps, Claim, Denied, Inventory, Key, Ledger, Moment
from drkit.inventory.ledger import days
from tests.support.pacing import NOON, VirtualClock, open_ledger

KEY = Key("p", "us-central1", "m")
PACIFIC = ZoneInfo("America/Los_Angeles")


def moment(clock: VirtualClock) -> Callable[[], Moment]:
    return lambda: Moment(round(clock.now().timestamp() * 1000), round(clock.monotonic() * 1000))


def claim(timeout_s: float = 30.0, tokens: int = 10, money: int = 0, run: str = "r", pause_s: float = 0) -> Claim:
    return Claim(run, tokens, money, round(timeout_s * 1000), round(pause_s * 1000))


class Bench:
    """A ledger in virtual time, for one process."""

    def __init__(self, tmp_path: Path, clock: VirtualClock | None = None, **options: object) -> None:
        self.clock = clock or VirtualClock()
        self.ledger = open_ledger(tmp_path, self.clock, **options)
        self.at = moment(self.clock)

    def reserve(self, caps: Caps, claim: Claim, key: Key = KEY) -> int:
        row = self.ledger.reserve(key, caps, claim, self.at)
        assert isinstance(row, int), row
        return row

    def denied(self, caps: Caps, claim: Claim, key: Key = KEY) -> Denied:
        found = self.ledger.reserve(key, caps, claim, self.at)
        assert isinstance(found, Denied)
        return found

    def call(self, caps: Caps, seconds: float = 5.0, **options: object) -> None:
        row = self.reserve(caps, claim(**options))  # type: ignore[arg-type]
        self.clock.passed += seconds
        self.ledger.settle(row, self.at, "done", latency_s=seconds)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


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


def midnight(seconds: float) -> VirtualClock:
    """A clock so many seconds from the next midnight of the provider."""
    return VirtualClock(datetime(2026, 11, 23, tzinfo=PACIFIC).astimezone(UTC) + timedelta(seconds=seconds))


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


# Everything at once


def most_in_a_window(times: list[float], length: float) -> int:
    times = sorted(times)
    most = first = 0
    for last, time in enumerate(times):
        while times[first] <= time - length:
            first += 1
        most = max(most, last - first + 1)
    return most


class Server:
    """Counts what reaches it by sliding windows of a minute and by its own days; its clock is `skew` off."""

    def __init__(self, clock: VirtualClock, skew: float) -> None:
        self.clock, self.skew = clock, skew
        self.seen: list[tuple[float, int]] = []

    def arrive(self, tokens: int) -> None:
        self.seen.append((self.clock.passed, tokens))

    def most_a_day(self) -> int:
        counts: dict[object, int] = {}
        for passed, _ in self.seen:
            day = (self.clock.start + timedelta(seconds=passed + self.skew)).astimezone(PACIFIC).date()
            counts[day] = counts.get(day, 0) + 1
        return max(counts.values(), default=0)

    def most_tokens(self) -> int:
        times = sorted(self.seen)
        return max((sum(t for at, t in times if now - 60 < at <= now) for now, _ in times), default=0)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "arrive", "settle", "crash", "sleep", "sleep", "jump", "work", "work"]),
        st.integers(0, 2),
        st.sampled_from([0.5, 10.0, 29.0, 40.0, 61.0, 95.0, 1800.0, 40_000.0]),
    ),
    min_size=5,
    max_size=60,
)
CAPS = (
    Caps(requests_per_minute=1),
    Caps(requests_per_minute=2),
    Caps(tokens_per_minute=35),
    Caps(requests_per_day=1),
    Caps(requests_per_day=2),
    Caps(requests_per_minute=2, tokens_per_minute=35, requests_per_day=3),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    STEPS,
    st.sampled_from(CAPS),
    st.sampled_from([-3600.0, -110.0, -70.0, -30.0, 20.0, 40_000.0]),
    st.sampled_from([-50.0, 0.0, 50.0]),
    st.data(),
)
def test_no_interleaving_shows_a_server_more_than_the_limit(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int, float]],
    caps: Caps,
    start: float,
    skew: float,
    data: st.DataObject,
) -> None:
    """Three processes reserve, call, end late, die and come back, while the clock is set and midnight passes."""
    tmp_path = tmp_path_factory.mktemp("ledger")
    clock = midnight(start)
    server = Server(clock, skew)
    living = {f"p{n}.0" for n in range(3)}
    names = [f"p{n}.0" for n in range(3)]
    path = bytes(tmp_path / "inventory.db")
    inventories = [Inventory.open(path, now=clock.now, sleep=lambda _: None) for _ in range(3)]

    def ledger(n: int) -> Ledger:
        return Ledger(inventories[n], owner=names[n], boot="b", alive=living.__contains__)

    ledgers = [ledger(n) for n in range(3)]
    calls: dict[int, list[object]] = {}  # process → [row, reserved at, tokens, has arrived]
    at = moment(clock)
    reserved = crashed = 0

    def arrive(n: int) -> None:
        if n in calls and not calls[n][3]:
            server.arrive(int(str(calls[n][2])))
            calls[n][3] = True

    def reserve(n: int, tokens: int) -> None:
        nonlocal reserved
        if n not in calls:
            row = ledgers[n].reserve(KEY, caps, claim(timeout_s=30, tokens=tokens), at)
            if isinstance(row, int):
                calls[n] = [row, clock.passed, tokens, False]
                reserved += 1

    reserve(0, 5)  # the right clock has been seen at least once
    for kind, n, amount in steps:
        if kind == "reserve":
            reserve(n, data.draw(st.sampled_from([5, 10, 30])))
        elif kind == "work":
            reserve(n, 5)
            arrive(n)
            if n in calls:
                clock.passed += min(amount, 29.0)
                ledgers[n].settle(int(str(calls.pop(n)[0])), at, "done", latency_s=1.0)
        elif kind == "arrive":
            arrive(n)
        elif kind == "settle" and n in calls:
            arrive(n)
            ledgers[n].settle(int(str(calls.pop(n)[0])), at, "done", latency_s=1.0)
        elif kind == "crash" and n in calls:
            # What it sent may arrive until its time limit; its successor knows nothing of it.
            _, when, tokens, arrived = calls.pop(n)
            if not arrived and clock.passed <= float(str(when)) + 30:
                server.seen.append((data.draw(st.floats(clock.passed, float(str(when)) + 30)), int(str(tokens))))
            living.discard(names[n])
            names[n] = names[n].partition(".")[0] + f".{crashed + 1}"
            living.add(names[n])
            crashed += 1
            ledgers[n] = ledger(n)
        elif kind == "sleep":
            clock.passed += amount
        elif kind == "jump":
            clock.ahead = data.draw(st.sampled_from([0.0, -86_400.0, -40_000.0, -30.0, 7200.0, 9000.0, 50_000.0]))
    for n in list(calls):
        arrive(n)
    assert most_in_a_window([at for at, _ in server.seen], 60) <= (caps.requests_per_minute or 1000)
    assert server.most_a_day() <= (caps.requests_per_day or 1000)
    assert server.most_tokens() <= (caps.tokens_per_minute or 1_000_000)
    assert len(server.seen) <= reserved
    for inventory in inventories:
        inventory.close()


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.floats(10, 30_000), st.sampled_from([0.0, 0.0, 7200.0, 30_000.0, -30_000.0])), max_size=25),
    st.sampled_from([-20_000.0, -50.0, 3600.0]),
    st.integers(1, 3),
)
def test_no_setting_of_the_clock_shows_a_server_more_than_a_day(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[float, float]], start: float, limit: int
) -> None:
    bench = Bench(tmp_path_factory.mktemp("clocks"), midnight(start))
    server, caps = Server(bench.clock, 0), Caps(requests_per_day=limit)
    for sleep, ahead in [(1.0, 0.0), *steps]:
        bench.clock.passed += sleep
        bench.clock.ahead = ahead
        for _ in range(limit + 1):
            row = bench.ledger.reserve(KEY, caps, claim(), bench.at)
            if isinstance(row, int):
                server.arrive(1)
                bench.clock.passed += 5
                bench.ledger.settle(row, bench.at, "done")
    assert server.most_a_day() <= limit


def test_a_quota_is_used_up_in_any_order_but_never_left_unused(bench: Bench) -> None:
    """The other half: what is allowed is granted."""
    caps = Caps(requests_per_minute=3, requests_per_day=50)
    made = 0
    began = bench.clock.passed
    while not isinstance(row := bench.ledger.reserve(KEY, caps, claim(), bench.at), Denied) or row.why == "minute":
        if isinstance(row, Denied):
            bench.clock.passed += (row.wait_ms or 0) / 1000
            continue
        made += 1
        bench.clock.passed += 5
        bench.ledger.settle(row, bench.at, "done", latency_s=5)
    assert made == 50
    assert bench.clock.passed - began <= 50 / 3 * 65 + 65
    assert NOON.tzinfo is UTC
