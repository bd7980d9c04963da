"""Forget: what the rules keep, what is kept whatever they say, and what forged times and names can do: nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drkit.errors import UsageError
from drkit.inventory import Enhancements, Inventory
from drkit.model import FormatVersion, Root, Snapshot, SnapshotId
from drkit.repo import Repository, SnapshotRef
from drkit.retention import DEFAULT, Policy, forget
from drkit.retention.policy import DAY_S, Kept, apply
from drkit.store import MemoryStore
from tests.support.recording import record_verification

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
NO_TREE = Root(0, ())


def made(moment: datetime, *tags: str, host: str = "h", source: str = "/s", number: int = 0) -> Snapshot:
    return Snapshot(
        format=FormatVersion(),
        repository_id="0" * 32,
        time=moment.strftime("%Y%m%dT%H%M%S.%fZ"),
        clock=moment.isoformat(),
        host=host,
        manifest=NO_TREE,
        plugin_table=NO_TREE,
        tree_sha256=f"{number:064x}",
        program="test",
        scope="whole",
        source=source,
        tags=tags,
    )


def row(moment: datetime, *tags: str, stamp: datetime | None = None, newest: datetime = NOW, **what: Any) -> Kept:
    there = (stamp or moment).timestamp()
    snap = made(moment, *tags, **what)
    ref = SnapshotRef(f"snapshots/{snap.time}", SnapshotId(snap.time), snap.time)
    return Kept(ref, snap, there, newest.timestamp() - there, [])


def kept(policy: Policy, rows: list[Kept]) -> list[datetime]:
    apply(policy, rows)
    return [datetime.fromisoformat(one.snapshot.clock) for one in rows if one.reasons]


HOURS = [NOW - timedelta(hours=hour) for hour in range(24 * 400, -1, -6)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy(last=3), HOURS[-3:]),
        (Policy(daily=3), [NOW.replace(day=28, hour=18), NOW.replace(day=29, hour=18), NOW]),
        (Policy(hourly=2), HOURS[-2:]),
        (Policy(weekly=2), [NOW.replace(day=28, hour=18), NOW]),
        (Policy(monthly=3), [datetime(2026, 4, 30, 18, tzinfo=UTC), datetime(2026, 5, 31, 18, tzinfo=UTC), NOW]),
        (Policy(yearly=5), [datetime(2025, 12, 31, 18, tzinfo=UTC), NOW]),
        (Policy(within_s=DAY_S), HOURS[-5:]),
    ],
)
def test_each_rule(policy: Policy, expected: list[datetime]) -> None:
    assert kept(policy, [row(moment) for moment in HOURS]) == expected


def test_rules_add_up_and_hold_for_each_source_by_itself() -> None:
    rows = [row(moment, host=host) for moment in HOURS[-9:] for host in ("a", "b")]
    assert len(kept(Policy(last=2, daily=2), rows)) == 2 * 3
    tagged = [row(moment, "keep" if number % 4 == 0 else "x") for number, moment in enumerate(HOURS[-8:])]
    assert kept(Policy(tags=("keep",)), tagged) == [HOURS[-8], HOURS[-4]]


def test_the_default_thins_what_guarded_nights_leave() -> None:
    """A year of nights with 200 snapshots each."""
    nights = [
        NOW - timedelta(days=day, seconds=40 * number) for day in range(365, -1, -1) for number in range(200, 0, -1)
    ]
    left = kept(DEFAULT, [row(moment, "enhance", newest=nights[-1]) for moment in nights])
    assert 400 <= sum(moment > NOW - timedelta(days=2, hours=1) for moment in left) <= 600
    assert len(left) < 700
    assert len({moment.date() for moment in left}) >= 30 + 20 + 5


def test_a_rejected_snapshot_takes_nobodys_place() -> None:
    rows = [row(NOW - timedelta(minutes=10)), row(NOW, "rejected")]
    assert kept(Policy(last=1, daily=1), rows) == [NOW - timedelta(minutes=10)]


@given(
    st.lists(st.integers(0, 400 * 24), min_size=1, max_size=60, unique=True),
    st.builds(Policy, *(st.integers(0, 5) for _ in range(6))),
)
def test_more_rules_never_keep_less(hours: list[int], policy: Policy) -> None:
    moments = sorted(NOW - timedelta(hours=hour) for hour in hours)
    some = kept(policy, [row(moment) for moment in moments])
    from msgspec.structs import replace

    more = kept(replace(policy, daily=policy.daily + 1, last=policy.last + 1), [row(moment) for moment in moments])
    assert set(some) <= set(more)
    assert len(some) <= sum(policy.counts)


# Forged times, and thieves


def test_one_false_time_does_not_move_all_that_follow() -> None:
    """After a snapshot from the year 2099 all names are of 2099; their clocks and the store know better."""
    rows = []
    for day in range(10, -1, -1):
        moment = NOW - timedelta(days=day)
        one = row(moment)
        false = f"20990101T000000.{10 - day:06}Z"
        rows.append(
            Kept(SnapshotRef(f"snapshots/{false}", SnapshotId(false), false), one.snapshot, one.stamp, one.age_s, [])
        )
    assert len(kept(Policy(daily=5), rows)) == 5


def test_a_clock_in_the_future_counts_as_the_store_says() -> None:
    rows = [
        row(NOW - timedelta(days=day) + timedelta(days=9000), stamp=NOW - timedelta(days=day)) for day in (3, 2, 1, 0)
    ]
    assert len(kept(Policy(daily=3), rows)) == 3


@pytest.mark.parametrize("forged", [NOW - timedelta(days=400), NOW, NOW + timedelta(days=4000)])
def test_what_a_thief_adds_displaces_nothing_within_the_minimum_age(forged: datetime) -> None:
    """He floods the store with snapshots of any times and tags; the store stamps them now."""
    policy = Policy(last=3, hourly=3, daily=7, weekly=4, monthly=4, min_age_s=7 * DAY_S)
    history = [NOW - timedelta(hours=6 * number) for number in range(400, 0, -1)]
    alone = kept(policy, [row(moment) for moment in history])
    flood = [row(forged + timedelta(seconds=number), stamp=NOW) for number in range(500)]
    rows = sorted([row(moment) for moment in history] + flood, key=lambda one: one.ref.time)
    apply(policy, rows)
    left = {datetime.fromisoformat(one.snapshot.clock) for one in rows if one.reasons}
    assert set(alone) <= left
    assert all(moment in left for moment in history if NOW - moment < timedelta(days=7))


# With a repository and an inventory


class Scene:
    """A repository of snapshots of an empty tree, with stamps as ordered, and an inventory."""

    def __init__(self, home: Path) -> None:
        self.stamp = NOW.timestamp()
        self.store = MemoryStore(clock=lambda: self.stamp)
        self.repo = Repository.create(self.store, now=NOW)
        minutes = count()
        now = lambda: NOW + timedelta(minutes=next(minutes))  # noqa: E731
        self.inventory = Inventory.open(os.fsencode(home / "inventory.db"), now=now)
        self.id = self.repo.config.repository_id

    def add(self, age_days: float, *tags: str, host: str = "h", trees: dict[str, str] | None = None) -> str:
        moment = NOW - timedelta(days=age_days)
        self.stamp = moment.timestamp()
        from drkit.format import snapshot as snapshot_format
        from drkit.model import PluginRow

        snap = made(moment, *tags, host=host)
        name, data = snapshot_format.encode(snap)
        self.store.put(name, data)
        snapshot_id = hashlib.sha256(data).hexdigest()
        self.inventory.record_backup(
            repo_id=self.id,
            store_url=self.store.url,
            snapshot_id=snapshot_id,
            name=name,
            snapshot=snap,
            plugins=[PluginRow(path=path, name=path, tree_sha256=tree) for path, tree in (trees or {}).items()],
            packs=[],
            bytes_added=1,
        )
        return snapshot_id

    def verified(self, snapshot: str, level: str, *, plugin: bytes | None = None, ok: bool = True) -> None:
        ids = {"repo_id": self.id, "store_url": self.store.url, "plugin": plugin}
        record_verification(self.inventory, snapshot, level, ok=ok, **ids)

    def forget(self, policy: Policy = Policy(last=1), **options: Any) -> dict[str, list[str]]:  # noqa: B008 - frozen
        report = forget(Repository.open(self.store), policy, inventory=self.inventory, **options)
        there = {ref.id for ref in Repository.open(self.store).snapshots()}
        if not report.dry_run:
            assert {one.ref.id for one in report.kept} == there
        return {one.ref.id: one.reasons for one in report.kept}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_the_newest_of_each_source_stays_whatever_is_asked(scene: Scene) -> None:
    lone = scene.add(300, host="other")
    scene.add(3)
    accepted = scene.add(2)
    scene.add(40, "rejected")
    found = scene.forget(Policy(tags=("none has this",)))
    assert found == {lone: ["newest of its source"], accepted: ["newest of its source"]}
    with pytest.raises(UsageError, match="negative"):
        scene.forget(Policy(last=-1))


def test_the_last_verified_of_each_level_stays(scene: Scene) -> None:
    first, second, third, fourth, fifth = [scene.add(age) for age in (50, 40, 30, 20, 10)]
    for snapshot in (first, second):
        scene.verified(snapshot, "restore")
    for snapshot in (third, fourth):
        scene.verified(snapshot, "content")
    scene.verified(fourth, "content", ok=False)
    assert scene.forget() == {
        second: ["last verified"],
        third: ["last verified"],
        fifth: ["last", "newest of its source"],
    }


def test_the_last_proof_of_a_plugin_stays_where_no_kept_snapshot_has_it(scene: Scene) -> None:
    """A night: each plugin is proved in a snapshot of its own, before it is edited. One of them holds them all."""
    trees = {f"p{number}": f"{number:064x}" for number in range(5)}
    night = []
    for number in range(5):
        snapshot = scene.add(20 - number / 100, trees=trees)
        scene.verified(snapshot, "restore", plugin=b"p%d" % number)
        trees = {**trees, f"p{number}": f"{100 + number:064x}"}
        night.append(snapshot)
    newest = scene.add(1, trees={**trees, "p4": f"{4:064x}"})
    assert set(scene.forget()) == {night[0], newest}
    scene.verified(newest, "restore")
    assert set(scene.forget()) == {newest}


def test_what_a_guarded_run_needs_stays(scene: Scene) -> None:
    runs = Enhancements(scene.inventory)

    def run(age: float) -> tuple[str, list[str]]:
        ids = [scene.add(age - number / 100, "enhance") for number in range(3)]
        name = runs.start_run(
            repo_id=scene.id,
            source=b"/s",
            generator="offline",
            model="",
            profile="",
            options={},
            snapshot_before=ids[0],
        )
        runs.set_status(
            run=name,
            repo_id=scene.id,
            plugin_path=b"p",
            plugin_name="p",
            enhancement_type="all",
            status="done",
            snapshot=ids[1],
        )
        return name, ids

    old, old_ids = run(60)
    runs.finish_run(old, repo_id=scene.id, snapshot_after=old_ids[2], exit_code=0, report={})
    killed, killed_ids = run(40)
    newest = scene.add(1)
    found = scene.forget()
    assert set(found) == {*killed_ids[:2], newest}
    assert found[killed_ids[0]] == ["unfinished guarded run"]
    runs.finish_run(killed, repo_id=scene.id, snapshot_after=killed_ids[2], exit_code=0, report={})
    _, recent_ids = run(0.5)
    assert set(recent_ids) <= set(scene.forget(dry_run=True))
    detail = {"snapshot": scene.add(0.4), "rejected_snapshot": None}
    scene.inventory.record("guard-exec", detail, {}, repo_id=scene.id)
    assert detail["snapshot"] in scene.forget()


def test_the_default_thins_guarded_nights_although_each_edit_was_proved(scene: Scene) -> None:
    """The proofs of the many edits of a night do not keep its snapshots, and still every plugin has its last proof."""
    nights, plugins = 30, [f"p{number}" for number in range(20)]
    trees = {plugin: f"{number:064x}" for number, plugin in enumerate(plugins)}
    changed = 1000
    every, proved = [], {}
    for night in range(nights, 0, -1):
        every.append(scene.add(night, trees=trees))
        for number, plugin in enumerate(plugins):
            snapshot = scene.add(night - 0.2 - number / 1000, "enhance")
            every.append(snapshot)
            if night > 12 or number % 2:  # half of them are left alone from then on
                scene.verified(snapshot, "restore", plugin=plugin.encode())
                proved[plugin] = snapshot
                changed += 1
                trees = {**trees, plugin: f"{changed:064x}"}
    left = scene.forget(DEFAULT)
    by_reason = [reason for reasons in left.values() for reason in reasons]
    assert len(every) == nights * 21
    assert by_reason.count("recent guarded run") <= 8 * 20
    assert len(left) < 8 * 20 + nights + 3 * 20
    assert set(proved.values()) <= set(left)


def test_tags_tell_of_recent_runs_without_an_inventory(scene: Scene) -> None:
    recent = [scene.add(age, tag) for age, tag in ((6, "enhance"), (5, "rejected"))]
    scene.add(10, "enhance")
    newest = scene.add(0)
    report = forget(scene.repo, Policy(last=1))
    assert [one.ref.id for one in report.kept] == [*recent, newest]


def test_a_dry_run_and_the_plan_come_first(scene: Scene) -> None:
    for age in (3, 2, 1):
        scene.add(age)
    told: list[int] = []
    note: Callable[[Any], None] = lambda plan: told.append(len(list(scene.store.list("snapshots/"))))  # noqa: E731
    assert len(scene.forget(dry_run=True, told=note)) == 1
    assert len(scene.forget(told=note)) == 1
    assert told == [3, 3]
    assert len(list(scene.store.list("snapshots/"))) == 1


def test_damaged_snapshots_stay(scene: Scene) -> None:
    scene.add(3)
    name = next(info.name for info in scene.store.list("snapshots/"))
    scene.store.put(name, b"junk", overwrite=True)
    scene.add(2)
    newest = scene.add(1)
    report = forget(scene.repo, Policy(last=1))
    assert [one.ref.id for one in report.kept] == [newest]
    assert len(report.damaged) == 1
    assert len(list(scene.store.list("snapshots/"))) == 2
