"""The estimate of the time left, held against two hundred nights in virtual time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drkit.inventory import Ledger
from enhance.generators.base import Blame, CallError
from enhance.model import Reply, Usage
from enhance.pace import Eta, Forecast, Limit, Pace, Pacer
from tests.support.pacing import MemoryLedger, VirtualClock, latency, make_pacer, open_ledger

REPLAYS = 200
PLUGINS = 235


class Night:
    """One run in virtual time against a server with the night's latencies and refusals.

    A burst refuses every call of a minute (8 of them at most), once; later a shared pool refuses one call. Of the
    plugins, some are planned and then need nothing, and some need a repair: neither is known before.
    """

    def __init__(self, seed: int, ledger: Ledger | None = None, plugins: int = PLUGINS) -> None:
        self.chance = random.Random(seed)
        self.clock = VirtualClock()
        limit = Limit(model="m", requests_per_minute=self.chance.choice([15, 30, 60, 300]), requests_per_day=10_000)
        pace = Pace(delay_s=(self.chance.choice([0.5, 2.0, 5.0, 10.0]), 2.5))
        self.pacer: Pacer = make_pacer(ledger or MemoryLedger(), self.clock, limit, pace, chance=self.chance.random)
        self.plugins = plugins
        self.burst_at = self.chance.randrange(plugins)
        self.pool_at = self.chance.randrange(1, plugins)
        self.hint = self.chance.choice([None, 47.0])
        self.burst_ends: float | None = None
        self.refusals = self.served = 0
        self.shares = self.chance.uniform(0.0, 0.2), self.chance.uniform(0.0, 0.1)
        self.seen: list[tuple[float, Eta]] = []

    def send(self) -> Reply:
        """The server."""
        if self.served >= self.burst_at and self.burst_ends is None:
            self.burst_ends = self.clock.passed + 60
        if self.burst_ends is not None and self.clock.passed < self.burst_ends and self.refusals < 8:
            self.refusals += 1
            self.clock.passed += 0.3
            raise CallError("429", blame=Blame.MINUTE, retry_after_s=self.hint)
        self.served += 1
        if self.served == self.pool_at:
            self.clock.passed += 0.3
            raise CallError("429 shared pool", blame=Blame.MINUTE)
        self.clock.passed += latency(self.chance)
        return Reply("text", "stop", Usage(1000, 1000))

    def run(self) -> None:
        forecast = Forecast(self.pacer, 2 * self.plugins)
        nothing, repair = self.shares
        for n in range(self.plugins):
            before = self.pacer.calls
            kind = self.chance.random()
            for _ in range(1 if kind < nothing else 3 if kind > 1 - repair else 2):
                self.pacer.ask(self.send, tokens=4000, timeout_s=60)
            self.clock.passed += 0.2  # what the pipeline does meanwhile
            forecast.finished(2, self.pacer.calls - before)
            if n % 5 == 0:
                self.seen.append((self.clock.passed, forecast.eta()))

    def worst(self) -> float:
        """The largest error of an estimate from a fifth of the run on, as a part of the total time."""
        total = self.clock.passed
        return max(abs(at + eta.seconds - total) / total for at, eta in self.seen if at >= total / 5)


def test_from_a_fifth_of_the_run_on_the_estimate_is_within_a_tenth_of_the_total() -> None:
    errors = []
    for seed in range(REPLAYS):
        night = Night(seed)
        night.run()
        assert night.refusals >= 1
        errors.append(night.worst())
    assert sum(error <= 0.1 for error in errors) >= 0.95 * REPLAYS, sorted(errors)[-20:]


def test_the_ledger_in_memory_answers_as_the_one_on_disk(tmp_path: Path) -> None:
    """Else the replays would show nothing."""
    nights = [Night(3, plugins=30), Night(3, plugins=30)]
    nights[1] = Night(3, open_ledger(tmp_path, nights[1].clock), plugins=30)
    for night in nights:
        night.run()
    assert nights[0].clock.passed == pytest.approx(nights[1].clock.passed, abs=1)
    assert nights[0].pacer.calls == nights[1].pacer.calls
    for (at, eta), (other_at, other) in zip(nights[0].seen, nights[1].seen, strict=True):
        assert at == pytest.approx(other_at, abs=1)
        assert eta.seconds == pytest.approx(other.seconds, rel=0.01)
