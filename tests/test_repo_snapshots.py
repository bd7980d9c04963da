"""Snapshots by name: causal times, `latest`, prefixes, and what is no snapshot or damaged."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.errors import IntegrityError, ObjectNotFound, StoreCorrupt, UsageError
from drkit.format import snapshot as snapshot_format
from drkit.format.settings import NewerFormat
from drkit.repo import Repository, SnapshotRef
from drkit.store.memory import MemoryStore
from tests.support.faults import FaultyStore
from tests.support.repos import START, Bench, contents, names


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    made.plugin("p", 2)
    return made


def take(bench: Bench, *tags: str) -> SnapshotRef:
    report = bench.back_up(tags=tags)
    return next(ref for ref in bench.repo.snapshots() if ref.id == report.snapshot)


def flip(bench: Bench, ref: SnapshotRef) -> None:
    data = bytearray(bench.store.get(ref.name))
    data[len(data) // 2] ^= 1
    bench.store.put(ref.name, data, overwrite=True)


# Times


MOMENTS = st.datetimes(timezones=st.just(UTC)).filter(lambda moment: 1000 <= moment.year <= 9000)


@settings(deadline=None)
@given(MOMENTS, st.integers(-(10**13), 10**13))
def test_times_go_forward_whatever_the_clock_says(parent: datetime, drift: int) -> None:
    before = snapshot_format.time_after(parent, None)
    now = parent + timedelta(microseconds=drift)
    after = snapshot_format.time_after(now, before)
    assert after > before
    assert after >= snapshot_format.time_after(now, None)
    if drift <= 0:
        assert snapshot_format.time_after(parent + timedelta(microseconds=1), None) == after


def test_times_are_utc() -> None:
    moment = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert snapshot_format.time_after(moment, None) == "20251231T233000.000000Z"


def test_a_clock_that_goes_backwards(bench: Bench) -> None:
    """Names sort in the order of the backups; what the clock said is kept beside the time."""
    refs = []
    for hours in (0, -5, -5, 1, -8000):
        bench.now = START + timedelta(hours=hours)
        bench.write("f", b"%d" % hours)
        refs.append(take(bench))
    assert bench.repo.snapshots() == refs
    assert [ref.time for ref in refs] == [
        "20260301T120100.000000Z",
        "20260301T120100.000001Z",
        "20260301T120100.000002Z",
        "20260301T130100.000000Z",
        "20260301T130100.000001Z",
    ]
    clocks = [bench.repo.load(ref).clock for ref in refs]
    assert clocks[1] == "2026-03-01T07:01:00+00:00"
    assert [bench.repo.load(ref).parent for ref in refs[1:]] == [ref.id for ref in refs[:-1]]
    assert bench.repo.resolve("latest") == refs[-1]


def test_two_backups_at_the_same_moment(bench: Bench) -> None:
    first = take(bench)
    bench.now -= timedelta(minutes=1)
    second = take(bench)
    assert first.time < second.time
    assert first.id != second.id


# latest


def test_latest_skips_rejected_ones(bench: Bench) -> None:
    with pytest.raises(UsageError, match="no snapshot yet") as caught:
        bench.repo.resolve("latest")
    assert "drkit backup" in caught.value.hint
    take(bench, "rejected")
    with pytest.raises(UsageError):
        bench.repo.resolve("latest")
    good = take(bench, "nightly")
    take(bench, "rejected")
    take(bench, "rejected", "nightly")
    assert bench.repo.resolve("latest") == good
    assert bench.repo.load(good).tags == ("nightly",)


def test_latest_skips_damaged_ones_and_says_so(bench: Bench) -> None:
    good = take(bench)
    bad = take(bench)
    flip(bench, bad)
    repo = bench.repo
    assert repo.resolve("latest") == good
    assert [(finding.code, finding.object) for finding in repo.findings] == [("snapshot-damaged", bad.name)]
    assert contents(repo, repo.load(good)) == bench.files()
    with FaultyStore(bench.store) as store:
        store.fail("get", prefix=good.name, error=StoreCorrupt("input/output error"), times=None)
        with pytest.raises(IntegrityError, match="none of the 2 snapshots can be read") as caught:
            Repository.open(store).resolve("latest")
    assert "recover.py" in caught.value.hint
    assert "drkit verify --all" in caught.value.hint


def test_latest_says_that_the_others_are_rejected(bench: Bench) -> None:
    take(bench, "rejected")
    with pytest.raises(UsageError, match="only rejected"):
        bench.repo.resolve("latest")
    flip(bench, take(bench))
    with pytest.raises(IntegrityError, match="the only snapshot that is not rejected cannot be read"):
        bench.repo.resolve("latest")


def test_a_newer_snapshot_is_not_called_damaged(bench: Bench) -> None:
    ref = take(bench)
    newer = bench.store.get(ref.name).replace(b'"major": 1', b'"major": 2').replace(b'"major":1', b'"major":2')
    name = f"snapshots/{ref.time}-{hashlib.sha256(newer).hexdigest()}.json"
    bench.store.delete(ref.name)
    bench.store.put(name, newer)
    with pytest.raises(NewerFormat):
        bench.repo.resolve("latest")


def test_a_damaged_snapshot_is_not_loaded(bench: Bench) -> None:
    ref = take(bench)
    assert bench.repo.load(ref).files == 3
    flip(bench, ref)
    with pytest.raises(IntegrityError, match=ref.name) as caught:
        bench.repo.load(ref)
    assert caught.value.code == 20
    bench.store.delete(ref.name)
    with pytest.raises(ObjectNotFound):
        bench.repo.load(ref)


def test_a_backup_goes_on_over_a_damaged_parent(bench: Bench) -> None:
    good = take(bench)
    flip(bench, take(bench))
    report = bench.back_up()
    assert report.parent == good.id
    assert len(report.warnings) == 1
    assert contents(bench.repo) == bench.files()


# Prefixes


def test_prefixes(bench: Bench) -> None:
    refs = [take(bench) for _ in range(3)]
    repo = bench.repo
    for ref in refs:
        assert repo.resolve(ref.id) == repo.resolve(ref.id[:16]) == repo.resolve(ref.id[:16].upper()) == ref
        assert repo.resolve(ref.time) == ref
        assert SnapshotRef(ref.name, ref.id, ref.time) == ref
    with pytest.raises(UsageError, match="is ambiguous") as caught:
        repo.resolve("20260301")
    assert all(ref.id[:12] in str(caught.value) for ref in refs)
    for nothing in ("xyz", "", "0" * 64, refs[0].id + "0", refs[0].name):
        with pytest.raises(UsageError, match="is not a snapshot") as missing:
            repo.resolve(nothing)
        assert refs[-1].id[:12] in str(missing.value)
        assert "drkit snapshots" in missing.value.hint


def test_the_newest_candidates_are_shown() -> None:
    store = MemoryStore()
    Repository.create(store, now=START)
    for number in range(9):
        store.put(f"snapshots/2026010{number + 1}T000000.000000Z-{number:064x}.json", b"")
    with pytest.raises(UsageError, match="ambiguous") as caught:
        Repository.open(store).resolve("2026")
    assert "20260109" in str(caught.value)
    assert "20260104" not in str(caught.value)


# Strangers


def test_other_files_among_the_snapshots_are_findings(bench: Bench) -> None:
    ref = take(bench)
    strangers = [
        "snapshots/20260301T120000.000000Z.json",
        "snapshots/99999999T999999.999999Z-" + "0" * 64 + ".json",
        "snapshots/README",
        "snapshots/old/" + ref.name.partition("/")[2],
    ]
    for name in strangers:
        bench.store.put(name, b"what is this?")
    repo = bench.repo
    assert repo.snapshots() == [ref]
    assert repo.snapshots() == [ref]
    assert [finding.object for finding in repo.findings] == sorted(strangers)  # each once
    assert {finding.code for finding in repo.findings} == {"snapshot-name"}
    assert {finding.repair for finding in repo.findings} == {"move it out of snapshots/"}
    assert repo.resolve("latest") == ref
    take(bench)
    assert set(strangers) < set(names(bench.store, "snapshots/"))


def test_a_snapshot_under_another_time_is_damaged(bench: Bench) -> None:
    ref = take(bench)
    name = ref.name.replace("20260301", "20270301")
    bench.store.put(name, bench.store.get(ref.name))
    other = bench.repo.snapshots()[-1]
    assert other.id == ref.id
    with pytest.raises(IntegrityError, match="says that it was taken"):
        bench.repo.load(other)
    assert bench.repo.resolve("latest") == ref
