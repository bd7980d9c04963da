"""Makes calls one after another: each with its reservation, its pause, and what follows from how it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from drkit.errors import BudgetExhausted, UsageError
from drkit.inventory import Call, Claim, Denied, Ledger, Moment
from enhance.generators.base import Blame, CallError
from enhance.model import Reply, Usage
from enhance.pace.limit import Limit
from enhance.pace.policy import EVIDENCE_S, WINDOW_S, Evidence, Pace, judge, pause

_NAP_S = 15.0
"""The longest sleep at once: another process's call may end earlier than it was allowed to."""
_BACKOFF_S = 2.0
_LONGEST_BACKOFF_S = 60.0
_LONGEST_HOLD_S = 300.0
_TRIES = {Blame.TRANSIENT: 4, Blame.MINUTE: 8}
"""How often one request is tried."""
_NANO = 1_000_000_000


class PaceState(Struct, frozen=True):
    """Where a run stands: what it used, what is left (None: no limit), the present pause and the evidence for it.

    What is left has the headroom taken off already. Times are seconds.
    """

    calls: int
    minute_left: int | None
    tokens_left: int | None
    day_left: int | None
    day_opens: datetime
    cost_usd: float
    cost_left_usd: float | None
    held_s: float
    delay_s: tuple[float, float]
    evidence: Evidence
    sentence: str


class Ticket:
    """Leave to make one call, reserved in the ledger. Say how it ended, once; else its estimate stands."""

    def __init__(self, settle: Callable[[Usage | None, float | None, CallError | None], None]) -> None:
        self._settle = settle
        self.settled = False

    def done(self, usage: Usage, latency_s: float | None = None) -> None:
        """The call was answered; without `latency_s` it took from the reservation until now."""
        self._end(usage, latency_s, None)

    def failed(self, error: CallError) -> None:
        """The call failed. What it used of the quota is not known, so the estimate stands."""
        self._end(None, None, error)

    def _end(self, usage: Usage | None, latency_s: float | None, error: CallError | None) -> None:
        if not self.settled:
            self.settled = True
            self._settle(usage, latency_s, error)


class Attempt:
    """One try of a request."""

    def __init__(self, again: Callable[[CallError], None]) -> None:
        self._again = again

    def failed(self, error: CallError) -> None:
        """Return if the request is to be tried again, after the wait that the error asks for; raise if it is not.

        BudgetExhausted if the day is used up, else the error itself.
        """
        self._again(error)


class Pacer:
    """Paces the calls of one run, in one thread. The ledger's other users, of any process, are respected."""

    def __init__(
        self,
        ledger: Ledger,
        limit: Limit,
        pace: Pace = Pace(),  # noqa: B008 - it is frozen
        *,
        run: str,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        random: Callable[[], float],
        finish_by: datetime | None = None,
    ) -> None:
        """`monotonic` is a clock that all processes share (`boot_time`), `random` gives numbers from 0 to below 1.

        UsageError if the limit or the pace cannot be meant.
        """
        limit.check()
        pace.check()
        if finish_by is not None and finish_by.tzinfo is None:
            raise UsageError("the time to finish by has no time zone", hint="write for instance 07:30, or 2h")
        self.limit, self.pace, self.run, self.finish_by = limit, pace, run, finish_by
        self.calls = 0
        """The calls of this pacer so far, tries that failed included."""
        self.calls_left = 0.0
        """How many calls are still expected; `Forecast` keeps it. It is what `finish_by` is divided by."""
        self.overhead_s = 0.0
        """How much longer than the pause the work between two calls takes, on average."""
        self._ledger, self._caps, self._key = ledger, limit.caps, limit.key
        self._now, self._monotonic, self._sleep, self._random = now, monotonic, sleep, random
        self._broken: CallError | None = None
        self._answered = False
        self._refusal: tuple[int, str] | None = None
        self._ended: float | None = None

    # Calls

    def ask(self, send: Callable[[], Reply], *, tokens: int, timeout_s: float) -> Reply:
        """Return the reply of `send`, which makes exactly one call, tried again as its errors ask for.

        CallError if it failed for good: with blame RUN no further call of this pacer is made, each raises the same.
        BudgetExhausted if the day, the run's money or its time is used up, or no quota came free for long.
        """
        for attempt in self.tries():
            try:
                with self.call(tokens, timeout_s) as ticket:
                    reply = send()
                    ticket.done(reply.usage)
                    return reply
            except CallError as error:
                attempt.failed(error)
        raise AssertionError("tries never end without an error")

    @contextmanager
    def call(self, tokens: int, timeout_s: float) -> Iterator[Ticket]:
        """Wait for pause and quota, reserve a call of at most so many tokens and seconds, and give leave to make it.

        The reservation is committed before the block is entered. A CallError of the block settles the ticket.
        Raises as `ask`.
        """
        if self._broken is not None:
            raise self._broken
        self._check(tokens)
        row = self._reserve(Claim(self.run, tokens, self.limit.estimate(tokens), round(timeout_s * 1000)))
        self.calls += 1
        began = self._monotonic()

        def settle(usage: Usage | None, latency_s: float | None, error: CallError | None) -> None:
            self._ended = self._monotonic()
            taken = self._ended - began if latency_s is None else latency_s
            if error is None:
                self._done(row, usage, taken)
            else:
                self._failed(row, error, taken)

        ticket = Ticket(settle)
        try:
            yield ticket
        except CallError as error:
            ticket.failed(error)
            raise
        except BaseException:
            if not ticket.settled:
                ticket.settled = True
                self._ledger.settle(row, self._moment, "cut")
            raise
        ticket.done(Usage())

    def tries(self) -> Iterator[Attempt]:
        """Yield tries of one request, until one is not `failed`: the caller leaves the loop then."""
        failures: dict[Blame, int] = {}

        def again(error: CallError) -> None:
            if error.blame is Blame.DAY:
                raise BudgetExhausted(f"{error}", hint=self._parked()) from error
            failures[error.blame] = count = failures.get(error.blame, 0) + 1
            if count >= _TRIES.get(error.blame, 0):
                raise error
            if error.blame is Blame.TRANSIENT:
                wait = min(_LONGEST_BACKOFF_S, _BACKOFF_S * 2.0**count) * (0.5 + 0.5 * self._random())
                if error.retry_after_s is not None:
                    wait = max(wait, error.retry_after_s)
                self._wait(wait, wait)

        while True:
            yield Attempt(again)

    # Waiting

    def _reserve(self, claim: Claim) -> int:
        moment = self._monotonic()
        evidence = self.evidence()
        room = None
        if self.finish_by is not None and self.calls_left:
            room = (self.finish_by - self._now()).total_seconds() / max(1.0, self.calls_left) - evidence.latency_s
        gap = pause(evidence, self.pace, self._random, room_s=room)
        if self._ended is not None and self.calls:
            late = max(0.0, moment - self._ended - gap)
            self.overhead_s += (late - self.overhead_s) / min(self.calls, 20)
        if (
            self.pace.rest_every
            and self.calls
            and self.calls % self.pace.rest_every == 0
            and (room is None or room > gap)
        ):
            gap += self.pace.rest_s
        claim = Claim(claim.run, claim.tokens, claim.money, claim.timeout_ms, round(gap * 1000))
        while True:
            if self.finish_by is not None and self._now() >= self.finish_by:
                raise self._late()
            denied = self._ledger.reserve(self._key, self._caps, claim, self._moment)
            if isinstance(denied, int):
                return denied
            if denied.why in {"money", "day", "refused"} and (
                denied.wait_ms is None or denied.wait_ms > 2000 * WINDOW_S
            ):
                raise self._exhausted(denied, claim)
            wait = (denied.wait_ms or 0) / 1000
            self._wait(min(wait, _NAP_S), wait + self._monotonic() - moment - gap)

    def _wait(self, seconds: float, whole: float) -> None:
        """Sleep, if the `whole` wait that it is a part of is bearable: BudgetExhausted."""
        if whole > self.pace.patience_s:
            message = f"{self._name}: no call for {whole:.0f} s"
            raise BudgetExhausted(
                message, hint="run the same command again later; what was answered is not asked again"
            )
        if self.finish_by is not None and self._now() + timedelta(seconds=seconds) >= self.finish_by:
            raise self._late()
        self._sleep(max(0.001, seconds))

    # How calls end

    def _done(self, row: int, usage: Usage | None, latency_s: float) -> None:
        tokens = (usage.tokens_in + usage.tokens_out) if usage else 0
        # A reply that does not tell what it used leaves the estimate.
        money = self.limit.cost(usage) if usage and (tokens or usage.cost_usd) else None
        self._answered, self._refusal = True, None
        self._ledger.settle(row, self._moment, "done", latency_s=latency_s, tokens=tokens or None, money=money)

    def _failed(self, row: int, error: CallError, latency_s: float) -> None:
        hold = self._hold(error) if error.blame is Blame.MINUTE else None
        self._ledger.settle(row, self._moment, error.blame.value, latency_s=latency_s, hold_ms=hold)
        if error.blame is Blame.RUN or (error.blame is Blame.REQUEST and self._repeats(error)):
            self._broken = CallError(str(error), blame=Blame.RUN, status=error.status)

    def _repeats(self, error: CallError) -> bool:
        """Whether the server refuses everything with the same words, before it has answered anything."""
        if self._answered or not error.status:
            return False
        same = self._refusal == (error.status, str(error))
        self._refusal = (error.status, str(error))
        return same

    def _hold(self, error: CallError) -> int:
        """How many milliseconds nobody calls after a refusal: what the server asks for, and more in each further
        minute of refusals. Those of one minute are one.
        """
        asked = WINDOW_S if error.retry_after_s is None else error.retry_after_s
        recent = self._ledger.recent(self._key, self._moment, within_ms=round(EVIDENCE_S * 1000))
        this = Call("minute", None, self._moment().wall)
        again = judge([*recent, this], self.pace).backoffs - 1
        if again > 0:
            asked = max(asked, min(_LONGEST_HOLD_S, WINDOW_S * 2.0**again))
        return round(1000 * asked * (1 + 0.05 * self._random()))

    # Looking

    def evidence(self) -> Evidence:
        """Return what the calls of the last 24 hours to this model prove, whoever made them."""
        recent = self._ledger.recent(self._key, self._moment, within_ms=round(EVIDENCE_S * 1000))
        return judge(recent, self.pace)

    def state(self) -> PaceState:
        """Return where the run stands."""
        caps, used = self._caps, self._ledger.used(self._key, self._caps, self.run, self._moment)
        evidence = self.evidence()
        left = None if caps.money is None else max(0, caps.money - used.run_money) / _NANO
        return PaceState(
            calls=used.run_requests,
            minute_left=_left(caps.requests_per_minute, used.minute_requests),
            tokens_left=_left(caps.tokens_per_minute, used.minute_tokens),
            day_left=0 if used.refused else _left(caps.requests_per_day, used.day_requests),
            day_opens=datetime.fromtimestamp(used.day_ends / 1000, UTC),
            cost_usd=used.run_money / _NANO,
            cost_left_usd=left,
            held_s=used.held_ms / 1000,
            delay_s=evidence.pauses,
            evidence=evidence,
            sentence=evidence.sentence,
        )

    def time(self) -> datetime:
        """Return the present time."""
        return self._now()

    @property
    def caps_per_minute(self) -> tuple[int | None, int | None]:
        """The requests and tokens a minute that are used, headroom taken off."""
        return self._caps.requests_per_minute, self._caps.tokens_per_minute

    def _moment(self) -> Moment:
        return Moment(round(self._now().timestamp() * 1000), round(self._monotonic() * 1000))

    # Refusing

    def _check(self, tokens: int) -> None:
        closed = self.limit.closed
        if closed:
            raise CallError(f"{self._name}: {closed} is 0, so no call is allowed", blame=Blame.RUN)
        most = self.limit.tokens_per_minute
        if most is not None and tokens > most:
            message = f"{self._name}: a request of {tokens} tokens, where {most} a minute are allowed"
            raise CallError(message, blame=Blame.REQUEST)

    def _exhausted(self, denied: Denied, claim: Claim) -> BudgetExhausted:
        if denied.why == "money":
            spent = self._ledger.used(self._key, self._caps, self.run, self._moment).run_money
            whole, call = (self._caps.money or 0) / _NANO, claim.money / _NANO
            message = (
                f"{self._name}: {spent / _NANO:.4f} of {whole:.4f} dollars are spent, the next call may cost {call:.4f}"
            )
            return BudgetExhausted(message, hint="raise usd_per_run in drkit.toml, or begin another run")
        whose = f"all {self._caps.requests_per_day} calls are made" if denied.why == "day" else "the server said so"
        return BudgetExhausted(f"{self._name}: the day's quota is used up: {whose}", hint=self._parked(denied.wait_ms))

    def _parked(self, wait_ms: int | None = None) -> str:
        if wait_ms is None:
            opens = datetime.fromtimestamp(
                self._ledger.used(self._key, self._caps, self.run, self._moment).day_ends / 1000, UTC
            )
        else:
            opens = self._now() + timedelta(milliseconds=wait_ms)
        return f"run the same command again after {opens:%Y-%m-%d %H:%M} {opens:%Z}, when the next day begins there"

    def _late(self) -> BudgetExhausted:
        message = (
            f"{self._name}: the time to finish by, {self.finish_by:%Y-%m-%d %H:%M %Z}, leaves room for no more calls"
        )
        return BudgetExhausted(message, hint="run the same command again; what was answered is not asked again")

    @property
    def _name(self) -> str:
        return self.limit.model or "the model"


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(0, limit - used)
