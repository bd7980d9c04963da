"""How long a run still takes: from the calls that are left and the pacing that is planned for them."""

from __future__ import annotations

from datetime import timedelta

from msgspec import Struct

from enhance.pace.pacer import Pacer
from enhance.pace.policy import WINDOW_S, Evidence

_PRIOR = 30.0
"""How many calls' worth the plan is believed, whatever the first plugins needed."""
_SPREAD = 0.1


class Eta(Struct, frozen=True):
    """When a run ends. `seconds` is the best estimate of the time left, from `low_s` to `high_s`.

    `reason` says what lies ahead that makes the range wide: a limit that will be met, or one that holds now.
    """

    calls_left: float
    seconds: float
    low_s: float
    high_s: float
    reason: str = ""

    @property
    def sentence(self) -> str:
        """The estimate as people read it."""
        calls = f"{self.calls_left:.0f} calls left"
        if not self.reason:
            return f"{calls}, about {span(self.seconds)}"
        return f"{calls}, {span(self.low_s)} to {span(self.high_s)}: {self.reason}"


class Forecast:
    """Keeps count of a run's calls beside its plan. `planned` counts what the plan foresees: plugins that are known
    to be skipped count nothing, others a call for each phase that is not answered already.
    """

    def __init__(self, pacer: Pacer, planned: int) -> None:
        self._pacer, self._planned = pacer, planned
        self._ended = self._made = 0
        self._begun = pacer.calls
        self._expect()

    def finished(self, planned: int, made: int) -> None:
        """A plugin has ended: so many calls were planned for it, so many were made, failed tries included."""
        self._ended += planned
        self._made += made
        self._expect()

    def _expect(self) -> float:
        """The calls left: what is planned, as plugins have so far needed more or fewer, without what is made."""
        ratio = (self._made + _PRIOR) / (self._ended + _PRIOR)
        underway = self._pacer.calls - self._begun - self._made
        self._pacer.calls_left = max(0.0, (self._planned - self._ended) * ratio - max(0, underway))
        return self._pacer.calls_left

    def eta(self) -> Eta:
        """Return the estimate as of now."""
        return estimate(self._pacer, self._expect())


def estimate(pacer: Pacer, calls: float) -> Eta:
    """Return how long so many calls take from now on."""
    state = pacer.state()
    best = state.held_s + _paced(pacer, state.evidence, calls)
    low, high, reasons = best * (1 - _SPREAD), best * (1 + _SPREAD), []
    if state.held_s:
        reasons.append(f"the server asked to wait {span(state.held_s)} more")
        high += state.held_s
    if state.day_left is not None and calls > state.day_left:
        today = state.held_s + _paced(pacer, state.evidence, state.day_left)
        opens = max(today, (state.day_opens - pacer.time()).total_seconds())
        low, high = today, opens + best - today
        left, hour = state.day_left, state.day_opens.strftime("%Y-%m-%d %H:%M UTC")
        reasons.append(f"the day's quota ends after {left} more calls, the rest is parked until {hour}")
    if state.cost_left_usd is not None and state.calls:
        affordable = state.cost_left_usd / max(1e-9, state.cost_usd / state.calls)
        if calls > affordable:
            low = min(low, state.held_s + _paced(pacer, state.evidence, affordable))
            reasons.append(f"the run's money ends after about {affordable:.0f} more calls")
    if pacer.finish_by is not None:
        room = max(0.0, (pacer.finish_by - pacer.time()).total_seconds())
        if high > room:
            low, high = min(low, room), max(low, min(high, room))
            reasons.append(f"nothing is begun after {pacer.finish_by:%H:%M %Z}, and what is left is parked")
    return Eta(calls, best, low, high, "; ".join(reasons))


def _paced(pacer: Pacer, evidence: Evidence, calls: float) -> float:
    """Seconds for so many calls with the planned pauses, rests, and the quota of a minute."""
    pace, latency = pacer.pace, evidence.mean_s
    requests, _ = pacer.caps_per_minute
    slowest = (WINDOW_S + latency) / requests if requests else 0.0
    total, left, step, proved = 0.0, calls, evidence.step, evidence.clean
    while left > 0:
        low, high = pace.pauses(step)
        count = left if step >= evidence.steps else min(left, max(1, pace.prove - proved))
        total += count * max((low + high) / 2 + latency + pacer.overhead_s, slowest)
        left, step, proved = left - count, step + 1, 0
    if pace.rest_every:
        total += pace.rest_s * int((pacer.calls % pace.rest_every + calls) / pace.rest_every)
    if pacer.finish_by is not None and calls:
        room = (pacer.finish_by - pacer.time()).total_seconds()
        quickest = calls * max(pace.delay_s[0] + pace.delay_s[1] / 2 + latency + pacer.overhead_s, slowest)
        total = max(quickest, min(total, room))
    return total


def span(seconds: float) -> str:
    """Return a span of time as people read it: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{timedelta(minutes=minutes).seconds // 60} min"
