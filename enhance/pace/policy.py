"""How long to pause between calls, and the evidence for it: start conservative, prove, then go faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from msgspec import Struct

from drkit.errors import UsageError
from drkit.inventory import Call

EVIDENCE_S = 24 * 3600.0
"""Older calls prove nothing."""
WINDOW_S = 60.0
GUESS_S = 5.5
"""How long an answer takes, before there is one; it weighs as much as ten."""
_NEWEST = 5
_ENOUGH = 20


class Pace(Struct, frozen=True):
    """How calls follow each other. Pauses are from the end of a call to the beginning of the next, in seconds.

    `delay_s` is the pause that is aimed at, and how much is added to it at random at most. `start_s` are the shortest
    and the longest pause with a model of which nothing is proved; after each `prove` calls without a refusal they
    are halved, until `delay_s` is reached. (0, 0) asks for no proof. After every `rest_every` calls (0: never) there
    is a rest of `rest_s` more. `patience_s` is the longest wait for a quota; a longer one parks.
    """

    delay_s: tuple[float, float] = (5.0, 2.5)
    start_s: tuple[float, float] = (90.0, 120.0)
    prove: int = 5
    rest_every: int = 50
    rest_s: float = 60.0
    patience_s: float = 3600.0

    def check(self) -> None:
        """Refuse what cannot be meant: UsageError."""
        numbers = (*self.delay_s, *self.start_s, self.rest_s, self.patience_s, float(self.rest_every))
        if not all(0 <= number < 1e6 for number in numbers) or self.prove < 1 or self.start_s[0] > self.start_s[1]:
            hint = "pauses are seconds from 0 up, the shortest first; prove is at least 1"
            raise UsageError("the pacing cannot be meant so", hint=hint)

    @property
    def steps(self) -> int:
        """How often the first pauses are halved until they are not longer than those aimed at."""
        count = 0
        while self.start_s[1] * 0.5**count > sum(self.delay_s) or self.start_s[0] * 0.5**count > self.delay_s[0]:
            count += 1
            if count == 30:
                break
        return count

    def pauses(self, step: int) -> tuple[float, float]:
        """Return the shortest and the longest pause at a step."""
        part = 0.5**step if step < self.steps else 0.0
        return max(self.delay_s[0], self.start_s[0] * part), max(sum(self.delay_s), self.start_s[1] * part)


class Evidence(Struct, frozen=True):
    """What recent calls to a model prove: the step of the pacing, and what led to it.

    `clean` calls were answered since the last change of the step, `answered` and `refused` in all; `backoffs` counts
    the minutes with refusals since the last answer. `latency_s` is the median, `mean_s` the mean of
    how long answers took, a guess where there are few. `slow` says that answers take twice as long as they did.
    """

    step: int = 0
    steps: int = 0
    clean: int = 0
    answered: int = 0
    refused: int = 0
    backoffs: int = 0
    slow: bool = False
    latency_s: float = GUESS_S
    mean_s: float = GUESS_S
    p90_s: float = 0.0
    pauses: tuple[float, float] = (0.0, 0.0)
    prove: int = 1

    @property
    def sentence(self) -> str:
        """The evidence as people read it."""
        low, high = self.pauses
        pause = f"{low:.0f} to {high:.0f} s between calls"
        if not self.answered and not self.refused:
            return f"{pause}: nothing is proved yet"
        told = f"{self.answered} answered, {self.refused} refused in the last 24 h"
        if self.answered:
            told += f", half of them within {self.latency_s:.1f} s and nine in ten within {self.p90_s:.1f} s"
        if self.slow:
            told += "; answers take twice as long as they did: one step slower"
        if self.step < self.steps and not self.slow:
            told += f"; faster after {self.prove - self.clean} more without a refusal"
        return f"{pause}: {told}"


def judge(calls: Sequence[Call], pace: Pace) -> Evidence:
    """Return what the calls, oldest first, prove. Refusals of one window of 60 s are one."""
    step = clean = refused = backoffs = 0
    steps = pace.steps
    window = float("-inf")
    for call in calls:
        if call.outcome == "minute":
            refused += 1
            if call.ended - window >= WINDOW_S * 1000:
                window = call.ended
                step, clean, backoffs = max(0, step - 1), 0, backoffs + 1
        elif call.outcome == "done":
            clean, backoffs = clean + 1, 0
            if clean >= pace.prove and step < steps:
                step, clean = step + 1, 0
    taken = [call.latency_s for call in calls if call.outcome == "done" and call.latency_s is not None]
    slow = len(taken) >= _ENOUGH and median(taken[-_NEWEST:]) > 2 * median(taken)
    step = max(0, step - slow)
    return Evidence(
        step=step,
        steps=steps,
        clean=clean,
        answered=len(taken),
        refused=refused,
        backoffs=backoffs,
        slow=slow,
        latency_s=median(taken) if taken else GUESS_S,
        mean_s=(sum(taken) + 10 * GUESS_S) / (len(taken) + 10),
        p90_s=sorted(taken)[len(taken) * 9 // 10] if taken else 0.0,
        pauses=pace.pauses(step),
        prove=pace.prove,
    )


def pause(evidence: Evidence, pace: Pace, random: Callable[[], float], *, room_s: float | None = None) -> float:
    """Return the next pause. `room_s` is what each remaining call has until the run must be over: it may shorten
    the pause to the one aimed at, proved or not.
    """
    low, high = evidence.pauses
    chosen = low + (high - low) * random()
    if room_s is not None and room_s < chosen:
        chosen = max(room_s, pace.delay_s[0] + pace.delay_s[1] * random())
    return chosen
