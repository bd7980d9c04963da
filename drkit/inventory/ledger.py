"""The quota ledger: which calls were made to whom, in the file that all processes of a machine share.

A call is a row, committed before the call is made. It counts from then until 60 s after its end; while it is under
way, until 60 s after its time limit, and as long as its process lives. The rules, and why they never let a server see
more than the limit, are in docs/pacing.md.

Times are milliseconds of a clock that all processes share and nobody sets (the time since boot); `clock` is what is
added to it for the time of day, as this machine then showed it. So a clock that is set, forward or back, moves no call
out of its minute, and a day is over only when every clock that the machine has shown says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

from msgspec import Struct

from drkit.errors import UsageError
from drkit.inventory.inventory import Inventory
from drkit.osutil import process_identity

WINDOW_MS = 60_000
"""A minute, and how close to a boundary of days a call counts in both."""
LONGEST_DAY_MS = 25 * 3_600_000
_WEEK_MS = 7 * 24 * 3_600_000
_CLOCK_MS = 10_000
"""Clocks that differ by less are one."""

Outcome = Literal["open", "done", "request", "run", "day", "minute", "transient", "cut", "lost"]
"""How a call ended: well, as its error said, cut off by an exception; `lost` is one whose process died."""
Why = Literal["pause", "held", "minute", "tokens", "day", "refused", "money"]


class Moment(Struct, frozen=True):
    """The present, in milliseconds: of the time of day since 1970, and since the machine started."""

    wall: int
    mono: int


class Key(Struct, frozen=True):
    """What a provider counts by."""

    project: str
    location: str
    model: str


class Caps(Struct, frozen=True):
    """What may be used; None is no limit. `money` is for a run, in billionths of a dollar; days are those of `zone`."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_day: int | None = None
    money: int | None = None
    zone: str = "America/Los_Angeles"


class Claim(Struct, frozen=True):
    """A call that is to be made: its run, an upper estimate of what it uses, its time limit, the pause before it."""

    run: str
    tokens: int
    money: int
    timeout_ms: int
    pause_ms: int = 0


class Denied(Struct, frozen=True):
    """Why a call must not be made now, and after how many milliseconds it may be; None: not in this run."""

    why: Why
    wait_ms: int | None


class Call(Struct, frozen=True):
    """A call that has ended; `ended` is in milliseconds of its machine's time of day."""

    outcome: Outcome
    latency_s: float | None
    ended: int


class Used(Struct, frozen=True):
    """What counts at present: of the minute and the day (the fullest that a call would count in), and of the run."""

    minute_requests: int
    minute_tokens: int
    day_requests: int
    day_ends: int
    run_requests: int
    run_money: int
    held_ms: int
    refused: bool = False
    """Whether the server itself said that the day is used up."""


Clock = Callable[[], Moment]
"""Is read inside the transaction: waiting for other processes takes time."""


class Ledger:
    """The ledger of an open inventory; for the inventory's thread, and never inside another transaction of it.

    `owner` names this process, `alive` whether a process so named still runs, `boot` the present start of the machine.
    """

    def __init__(
        self,
        inventory: Inventory,
        *,
        owner: str | None = None,
        alive: Callable[[str], bool] | None = None,
        boot: str | None = None,
    ) -> None:
        self._engine = inventory.engine
        self._owner = process_identity(os.getpid()) if owner is None else owner
        self._alive = alive or _alive
        self._boot = self._owner.partition("/")[0] if boot is None else boot

    def reserve(self, key: Key, caps: Caps, claim: Claim, clock: Clock) -> int | Denied:
        """Return the id of a row that is committed and counts from now on, or why there is none."""
        with self._engine.transaction():
            at = clock()
            self._bury(key, at)
            denied = (
                self._money(caps, claim)
                or self._day(key, caps, claim, at)
                or self._held(key, at)
                or self._minute(key, caps, claim, at)
                or self._pause(key, claim, at)
            )
            if denied:
                return denied
            values = (
                *(datetime.fromtimestamp(at.wall / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), *_names(key)),
                *(claim.run, self._owner, self._boot, _offset(at), at.mono, at.mono + claim.timeout_ms + WINDOW_MS),
                *(at.wall + claim.timeout_ms + WINDOW_MS, "open", claim.tokens, claim.money),
            )
            ((row,),) = self._engine.execute(
                "INSERT INTO quota_ledger (at, project, location, model, run, owner, boot, clock, began, until, "
                "until_wall, outcome, tokens, money) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
                values,
            )
        return int(row)

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
        """Say that a call has ended. Without `tokens` or `money` its estimate stands; `hold_ms` holds all calls."""
        with self._engine.transaction():
            at = clock()
            hold = None if hold_ms is None else at.mono + hold_ms
            self._engine.execute(
                "UPDATE quota_ledger SET until = ?, until_wall = ?, outcome = ?, latency_s = ?, hold = ?, "
                "tokens = COALESCE(CAST(? AS INTEGER), tokens), money = COALESCE(CAST(? AS INTEGER), money) "
                "WHERE id = ?",
                (at.mono + WINDOW_MS, at.wall + WINDOW_MS, outcome, latency_s, hold, tokens, money, row),
            )

    def recent(self, key: Key, clock: Clock, *, within_ms: int, limit: int = 200) -> list[Call]:
        """Return the newest calls that have ended, oldest first: not more than `limit`, not older than `within_ms`."""
        wall = clock().wall + WINDOW_MS
        rows = self._engine.execute(
            "SELECT id, outcome, latency_s, until_wall FROM quota_ledger WHERE project = ? AND location = ? "
            "AND model = ? AND until_wall >= CAST(? AS INTEGER) AND until_wall <= CAST(? AS INTEGER) "
            "AND outcome NOT IN ('open', 'lost') ORDER BY until_wall DESC LIMIT ?",
            (*_names(key), wall - within_ms, wall + within_ms, limit),
        )
        return [Call(outcome, latency, until - WINDOW_MS) for _, outcome, latency, until in sorted(rows)]

    def used(self, key: Key, caps: Caps, run: str, clock: Clock) -> Used:
        """Return what counts at present."""
        at = clock()
        busy = self._busy(key, at)
        days = [(self._in_day(key, at, *day), day[1] + day[2]) for day in self._days(caps, at, 0)]
        ((count, money),) = self._engine.execute("SELECT COUNT(*), SUM(money) FROM quota_ledger WHERE run = ?", (run,))
        held = self._held(key, at)
        return Used(
            *(len(busy), sum(tokens for _, tokens in busy), *max(days), count, money or 0),
            (held.wait_ms or 0) if held else 0,
            self._day(key, Caps(zone=caps.zone), Claim(run, 0, 0, 0), at) is not None,
        )

    # Rules

    def _bury(self, key: Key, at: Moment) -> None:
        """Calls past their time limit: one of a living process goes on counting, one of a dead process is lost."""
        rows = self._engine.execute(
            "SELECT id, owner FROM quota_ledger WHERE project = ? AND location = ? AND model = ? AND outcome = 'open' "
            "AND (boot <> ? OR until <= CAST(? AS INTEGER))",
            (*_names(key), self._boot, at.mono),
        )
        for row, owner in rows:
            if self._alive(owner):
                values = (at.mono + WINDOW_MS, at.wall + WINDOW_MS, row)
                self._engine.execute("UPDATE quota_ledger SET until = ?, until_wall = ? WHERE id = ?", values)
            else:
                self._engine.execute("UPDATE quota_ledger SET outcome = 'lost' WHERE id = ?", (row,))

    def _money(self, caps: Caps, claim: Claim) -> Denied | None:
        if caps.money is None:
            return None
        ((spent,),) = self._engine.execute("SELECT SUM(money) FROM quota_ledger WHERE run = ?", (claim.run,))
        return Denied("money", None) if (spent or 0) + claim.money > caps.money else None

    def _held(self, key: Key, at: Moment) -> Denied | None:
        ((until,),) = self._engine.execute(
            "SELECT MAX(hold) FROM quota_ledger WHERE project = ? AND location = ? AND model = ? AND boot = ? "
            "AND began <= CAST(? AS INTEGER) AND hold > CAST(? AS INTEGER)",
            (*_names(key), self._boot, at.mono, at.mono),
        )
        return None if until is None else Denied("held", until - at.mono)

    def _busy(self, key: Key, at: Moment) -> list[tuple[int, int]]:
        """When each call that counts in the present minute no longer does, and its tokens; the first first."""
        rows = self._engine.execute(
            "SELECT until, tokens FROM quota_ledger WHERE project = ? AND location = ? AND model = ? AND boot = ? "
            "AND until > CAST(? AS INTEGER) AND began <= CAST(? AS INTEGER) ORDER BY until",
            (*_names(key), self._boot, at.mono, at.mono),
        )
        if at.mono < WINDOW_MS:  # the machine has only just started: when its last calls were made is not known
            rows[:0] = [(WINDOW_MS, tokens) for (tokens,) in self._foreign(key, at, at.wall - LONGEST_DAY_MS)]
            rows.sort()
        return [(until, tokens) for until, tokens in rows]

    def _minute(self, key: Key, caps: Caps, claim: Claim, at: Moment) -> Denied | None:
        busy = self._busy(key, at)
        most = caps.requests_per_minute
        if most is not None and len(busy) >= most:
            return Denied("minute", busy[len(busy) - most][0] - at.mono)
        if caps.tokens_per_minute is not None:
            total = sum(tokens for _, tokens in busy) + claim.tokens
            free = at.mono
            for until, tokens in busy:  # a call that alone is too large for the minute has it for itself
                if total <= caps.tokens_per_minute:
                    break
                free, total = until, total - tokens
            if free > at.mono:
                return Denied("tokens", free - at.mono)
        return None

    def _pause(self, key: Key, claim: Claim, at: Moment) -> Denied | None:
        """The pause counts from the end of the last call to the same model, whoever made it."""
        ((last,),) = self._engine.execute(
            "SELECT MAX(CASE outcome WHEN 'open' THEN began ELSE until - CAST(? AS INTEGER) END) FROM quota_ledger "
            "WHERE project = ? AND location = ? AND model = ? AND boot = ? AND began <= CAST(? AS INTEGER) "
            "AND until > CAST(? AS INTEGER)",
            (WINDOW_MS, *_names(key), self._boot, at.mono, at.mono - claim.pause_ms),
        )
        if last is None or last + claim.pause_ms <= at.mono:
            return None
        return Denied("pause", last + claim.pause_ms - at.mono)

    def _day(self, key: Key, caps: Caps, claim: Claim, at: Moment) -> Denied | None:
        for first, end, clock in self._days(caps, at, claim.timeout_ms):
            opens = end + WINDOW_MS - at.mono
            ((refused,),) = self._engine.execute(
                "SELECT COUNT(*) FROM quota_ledger WHERE project = ? AND location = ? AND model = ? AND boot = ? "
                "AND outcome = 'day' AND until >= CAST(? AS INTEGER) AND began < CAST(? AS INTEGER)",
                # Within a minute after midnight it may have been the day before that was used up.
                (*_names(key), self._boot, first + 2 * WINDOW_MS, end),
            )
            if refused:
                return Denied("refused", opens)
            if caps.requests_per_day is not None and self._in_day(key, at, first, end, clock) >= caps.requests_per_day:
                return Denied("day", opens)
        return None

    def _days(self, caps: Caps, at: Moment, timeout_ms: int) -> list[tuple[int, int, int]]:
        """The days that a call made now may count in, by every clock: begin and end on the shared clock, the clock."""
        found = []
        for clock in self._clocks(at):
            now = at.mono + clock
            for first, end in days(now - WINDOW_MS, now + timeout_ms + WINDOW_MS, caps.zone):
                found.append((first - clock, end - clock, clock))
        return found

    def _clocks(self, at: Moment) -> list[int]:
        """What the machine's clock shows beyond the time since boot, and what it showed at calls of the last week."""
        rows = self._engine.execute(
            "SELECT DISTINCT clock FROM quota_ledger WHERE boot = ? AND began > CAST(? AS INTEGER) "
            "AND began <= CAST(? AS INTEGER)",
            (self._boot, at.mono - _WEEK_MS, at.mono),
        )
        own = at.wall - at.mono
        return [own, *(clock for (clock,) in rows if abs(clock - own) > _CLOCK_MS)]

    def _in_day(self, key: Key, at: Moment, first: int, end: int, clock: int) -> int:
        ((count,),) = self._engine.execute(
            "SELECT COUNT(*) FROM quota_ledger WHERE project = ? AND location = ? AND model = ? AND boot = ? "
            "AND until > CAST(? AS INTEGER) AND began < CAST(? AS INTEGER) AND began <= CAST(? AS INTEGER)",
            (*_names(key), self._boot, first, end + WINDOW_MS, at.mono),
        )
        if at.mono < LONGEST_DAY_MS:  # calls before the machine started may be of this day
            count += len(self._foreign(key, at, first + clock))
        return int(count)

    def _foreign(self, key: Key, at: Moment, after: int) -> list[tuple[int]]:
        """The tokens of calls of earlier starts of the machine that counted after a time of day, or in its future."""
        return self._engine.execute(
            "SELECT tokens FROM quota_ledger WHERE project = ? AND location = ? AND model = ? "
            "AND (boot <> ? OR began > CAST(? AS INTEGER)) AND until_wall > CAST(? AS INTEGER)",
            (*_names(key), self._boot, at.mono, after),
        )


def days(begin: int, end: int, zone: str) -> list[tuple[int, int]]:
    """Return the first millisecond of each day of a zone between two times, and of the day after it.

    UsageError if there is no such zone.
    """
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        place = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        hint = "write a name such as America/Los_Angeles or UTC"
        raise UsageError(f"there is no time zone {zone!r}", hint=hint) from None
    found = []
    day = datetime.fromtimestamp(begin / 1000, place).date()
    last = datetime.fromtimestamp(end / 1000, place).date()
    while day <= last:
        after = day + timedelta(days=1)
        found.append(
            tuple(int(datetime(d.year, d.month, d.day, tzinfo=place).timestamp() * 1000) for d in (day, after))
        )
        day = after
    return [(first, end) for first, end in found]


def _names(key: Key) -> tuple[str, str, str]:
    return (key.project, key.location, key.model)


def _offset(at: Moment) -> int:
    return round((at.wall - at.mono) / _CLOCK_MS) * _CLOCK_MS


def _alive(owner: str) -> bool:
    parts = owner.split("/")
    return len(parts) == 4 and parts[2].isdigit() and process_identity(int(parts[2])) == owner
