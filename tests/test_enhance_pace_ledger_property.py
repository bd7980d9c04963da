"""The ledger, whatever happens and in any order: no server sees more than the limit, and what is allowed is granted."""

from __future__ import annotations

from datetime import UTC, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drkit.inventory import Caps, Denied, Inventory, Ledger
from tests.support.ledgers import KEY, PACIFIC, Bench, bench, claim, midnight, moment, most_in_a_window
from tests.support.pacing import NOON, VirtualClock

__all__ = ["bench"]


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
