"""Virtual time, a server in it, the latencies of a real night, and a ledger in memory as strict as the one on disk."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drkit.inventory import Call, Caps, Claim, Denied, Inventory, Key, Ledger, Used
from drkit.inventory.ledger import WINDOW_MS, Clock, Outcome, days
from enhance.generators.base import Blame, CallError
from enhance.model import Reply, Usage
from enhance.pace import Limit, Pace, Pacer

NOON = datetime(2026, 11, 22, 20, tzinfo=UTC)
"""Twelve o'clock where the provider's days begin."""
QUANTILES = ((0.0, 2.8), (0.5, 5.2), (0.9, 7.1), (0.99, 10.0), (1.0, 14.4))
"""What was measured of one night's calls, in seconds."""
STEADY = Pace(delay_s=(5, 0), start_s=(80, 80), prove=2, rest_every=0)
FAST = Pace(delay_s=(0, 0), start_s=(0, 0), rest_every=0)


class VirtualClock:
    """A clock that stands still unless somebody sleeps. `ahead` is what its time of day is wrong by."""

    def __init__(self, start: datetime = NOON) -> None:
        self.start = start
        self.uptime = 1_000_000.0
        self.passed = 0.0
        self.ahead = 0.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.passed + self.ahead)

    def true(self) -> datetime:
        return self.start + timedelta(seconds=self.passed)

    def monotonic(self) -> float:
        return self.uptime + self.passed

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds < 1e6
        self.slept.append(seconds)
        self.passed += seconds


def latency(chance: random.Random) -> float:
    """One latency of the night: the measured quantiles, straight lines between them."""
    at = chance.random()
    right = bisect([share for share, _ in QUANTILES], at)
    (low, a), (high, b) = QUANTILES[right - 1], QUANTILES[min(right, len(QUANTILES) - 1)]
    return b if high == low else a + (b - a) * (at - low) / (high - low)


def open_ledger(tmp_path: Path, clock: VirtualClock, **options: object) -> Ledger:
    inventory = Inventory.open(bytes(tmp_path / "inventory.db"), now=clock.now, sleep=lambda _: None)
    return Ledger(inventory, **options)  # type: ignore[arg-type]


def make_pacer(
    ledger: Ledger,
    clock: VirtualClock,
    limit: Limit | None = None,
    pace: Pace | None = None,
    *,
    run: str = "run",
    chance: Callable[[], float] = lambda: 0.5,
    finish_by: datetime | None = None,
) -> Pacer:
    """A pacer in virtual time; without a pace it is as fast as the quota allows."""
    return Pacer(
        ledger,
        limit or Limit(model="m", headroom=1.0),
        pace or Pace(delay_s=(0, 0), start_s=(0, 0), rest_every=0),
        run=run,
        now=clock.now,
        monotonic=clock.monotonic,
        sleep=clock.sleep,
        random=chance,
        finish_by=finish_by,
    )


class Model:
    """A server that answers in 5 s, or as `script` says first; `at` is when each call reached it."""

    def __init__(self, clock: VirtualClock, *script: CallError | None) -> None:
        self.clock = clock
        self.script = list(script)
        self.at: list[float] = []

    def __call__(self) -> Reply:
        self.at.append(self.clock.passed)
        self.clock.passed += 5
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error
        return Reply("text", "stop", Usage(60, 40))

    def gaps(self) -> list[float]:
        """From the end of each call to the beginning of the next."""
        return [round(later - earlier - 5, 3) for earlier, later in zip(self.at, self.at[1:], strict=False)]


def refusal(blame: Blame, message: str = "no", after: float | None = None, status: int = 429) -> CallError:
    return CallError(message, blame=blame, retry_after_s=after, status=status)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def ledger(tmp_path: Path, clock: VirtualClock) -> Ledger:
    return open_ledger(tmp_path, clock)


def ask(pacer: Pacer, model: Callable[[], Reply], times: int = 1, tokens: int = 1000) -> None:
    """Ask so many times, and be answered each time."""
    for _ in range(times):
        assert pacer.ask(model, tokens=tokens, timeout_s=30).text == "text"


class MemoryLedger(Ledger):
    """The ledger for one process and a clock that nobody sets: the same answers, without a file."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []  # began, until, tokens, money, hold
        self.calls: list[Call] = []

    def reserve(self, key: Key, caps: Caps, claim: Claim, clock: Clock) -> int | Denied:
        at = clock()
        if caps.money is not None or (caps.requests_per_day or 1e9) <= len(self.rows):
            used = self.used(key, caps, claim.run, clock)
            if caps.money is not None and used.run_money + claim.money > caps.money:
                return Denied("money", None)
            if caps.requests_per_day is not None and used.day_requests >= caps.requests_per_day:
                return Denied("day", used.day_ends + WINDOW_MS - at.wall)
        held = max((row[4] for row in self.rows[-20:]), default=0)
        if held > at.mono:
            return Denied("held", held - at.mono)
        busy = sorted(row[1] for row in self.rows[-100:] if row[1] > at.mono)
        most = caps.requests_per_minute
        if most is not None and len(busy) >= most:
            return Denied("minute", busy[len(busy) - most] - at.mono)
        if self.rows and self.rows[-1][1] - WINDOW_MS + claim.pause_ms > at.mono:
            return Denied("pause", self.rows[-1][1] - WINDOW_MS + claim.pause_ms - at.mono)
        self.rows.append([at.mono, at.mono + claim.timeout_ms + WINDOW_MS, claim.tokens, claim.money, 0])
        return len(self.rows) - 1

    def settle(
        self,
        row: int,
        clock: Clock,
        outcome: Outcome,
        *,
        latency_s: float | None = None,
        tokens: int | None = None,
        money: int | None = None,
        hold_ms: int | None = None,
    ) -> None:
        at = clock()
        mine = self.rows[row]
        mine[1], mine[4] = at.mono + WINDOW_MS, at.mono + hold_ms if hold_ms else 0
        mine[2], mine[3] = tokens or mine[2], mine[3] if money is None else money
        self.calls.append(Call(outcome, latency_s, at.wall))

    def recent(self, key: Key, clock: Clock, *, within_ms: int, limit: int = 200) -> list[Call]:
        wall = clock().wall
        return [call for call in self.calls[-limit:] if wall - call.ended <= within_ms]

    def used(self, key: Key, caps: Caps, run: str, clock: Clock) -> Used:
        at = clock()
        busy = [row for row in self.rows[-100:] if row[1] > at.mono]
        ((first, end),) = days(at.wall, at.wall, caps.zone)
        today = sum(row[1] + at.wall - at.mono > first for row in self.rows)
        held = max((row[4] - at.mono for row in self.rows[-20:]), default=0)
        money = sum(row[3] for row in self.rows)
        return Used(len(busy), sum(row[2] for row in busy), today, end, len(self.rows), money, max(0, held))
