"""Which snapshots a policy keeps, and why. Pure: no store, no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from msgspec import Struct

from drkit.errors import UsageError
from drkit.model import Snapshot
from drkit.repo import SnapshotRef

DAY_S = 86_400.0
REJECTED = "rejected"


class Policy(Struct, frozen=True):
    """What to keep of the snapshots of one host and source. Spans are seconds, 0 is nothing.

    `min_age_s`: a snapshot that is in the store for less is kept, and counts for nothing: until it has lain there so
    long, nobody who can add snapshots can displace others with them.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within_s: float = 0.0
    tags: tuple[str, ...] = ()
    min_age_s: float = 0.0

    @property
    def keeps_nothing(self) -> bool:
        """Whether nothing in it keeps a snapshot."""
        return not (any(self.counts) or self.within_s or self.tags)

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers in it."""
        return self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly

    def check(self) -> None:
        """Raise UsageError for a policy that cannot be meant."""
        if min(self.counts) < 0:
            raise UsageError("a number of snapshots to keep is negative", hint="0 is none of that kind")
        if not all(self.tags):
            raise UsageError("a tag to keep is empty", hint="leave it out, or name one: 'drkit snapshots' shows them")


DEFAULT = Policy(last=3, hourly=48, daily=30, weekly=26, monthly=36, yearly=20, within_s=2 * DAY_S)
"""Thins what guarded nights leave: all of two days, then one for each hour, day, week, month and year."""


class Kept(Struct):
    """A snapshot that is there, and why it is kept; with no reason it may go.

    `stamp` is the store's own, of when it was put there; `age_s` the difference to the newest snapshot's.
    """

    ref: SnapshotRef
    snapshot: Snapshot
    stamp: float
    age_s: float
    reasons: list[str]

    @property
    def group(self) -> tuple[str, bytes]:
        """Of which tree it is: host and source."""
        return self.snapshot.host, self.snapshot.raw_source

    @property
    def rejected(self) -> bool:
        """Whether it is the state that a guarded command left and that was put back."""
        return REJECTED in self.snapshot.tags

    @property
    def moment(self) -> datetime:
        """When it was taken, by the clock of its machine, but not after it was there.

        The time in the name is no help: one snapshot with a false time moves those of all that follow.
        """
        there = datetime.fromtimestamp(self.stamp, UTC)
        try:
            return min(datetime.fromisoformat(self.snapshot.clock).astimezone(UTC), there)
        except (ValueError, OverflowError):
            return there


_BUCKETS: Mapping[str, Callable[[datetime], object]] = {
    "hourly": lambda moment: (moment.date(), moment.hour),
    "daily": lambda moment: moment.date(),
    "weekly": lambda moment: moment.isocalendar()[:2],
    "monthly": lambda moment: (moment.year, moment.month),
    "yearly": lambda moment: moment.year,
}


def apply(policy: Policy, snapshots: Sequence[Kept]) -> None:
    """Add the policy's reasons to snapshots, which come oldest first. Of one host and source each counts for itself."""
    policy.check()
    for one in snapshots:
        if one.age_s < policy.min_age_s:
            one.reasons.append("younger than the minimum age")
        elif one.age_s <= policy.within_s and not one.rejected and policy.within_s:
            one.reasons.append("within")
        one.reasons += [f"tag {tag}" for tag in policy.tags if tag in one.snapshot.tags]
    for group in groups(one for one in snapshots if one.age_s >= policy.min_age_s and not one.rejected):
        newest_first = group[::-1]
        for one in newest_first[: policy.last]:
            one.reasons.append("last")
        for name, bucket in _BUCKETS.items():
            _one_of_each(newest_first, name, bucket, getattr(policy, name))


def groups(snapshots: Iterable[Kept]) -> list[list[Kept]]:
    """Return the snapshots of each host and source, in the order in which they come."""
    found: dict[tuple[str, bytes], list[Kept]] = {}
    for one in snapshots:
        found.setdefault(one.group, []).append(one)
    return list(found.values())


def _one_of_each(newest_first: Sequence[Kept], name: str, bucket: Callable[[datetime], object], count: int) -> None:
    seen: set[object] = set()
    for one in newest_first:
        key = bucket(one.moment)
        if key not in seen:
            if len(seen) == count:
                return
            seen.add(key)
            one.reasons.append(name)
