"""The ledger of calls in virtual time, and what counts what it lets through."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from drkit.inventory import Caps, Claim, Denied, Key, Moment
from tests.support.pacing import VirtualClock, open_ledger

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


def midnight(seconds: float) -> VirtualClock:
    """A clock so many seconds from the next midnight of the provider."""
    return VirtualClock(datetime(2026, 11, 23, tzinfo=PACIFIC).astimezone(UTC) + timedelta(seconds=seconds))


def most_in_a_window(times: list[float], length: float) -> int:
    times = sorted(times)
    most = first = 0
    for last, time in enumerate(times):
        while times[first] <= time - length:
            first += 1
        most = max(most, last - first + 1)
    return most
