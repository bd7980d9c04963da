"""Status tells what the inventory knows: as text, as JSON and as OpenMetrics; and it is quick with many snapshots."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from drkit.cli.commands.status import age
from drkit.format.manifest import text_or_b64
from drkit.inventory import Inventory
from drkit.model import FormatVersion, PluginRow, Root, Snapshot
from drkit.status import StatusReport, openmetrics, status
from tests.support.cli import Cli
from tests.support.recording import STORE, drill, record_verification

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
REPOSITORY = "0" * 32
PLUGINS = (b"plugins/tools/one", b"plugins/tools/two", b"plugins/other/caf\xe9", b"")


class Past:
    """An inventory that is told what happened when."""

    def __init__(self, inventory: Inventory, clock: list[datetime]) -> None:
        self.inventory = inventory
        self._clock = clock

    def at(self, before: timedelta) -> Past:
        self._clock[0] = NOW - before
        return self

    def backup(self, digit: str = "a", *, source: bytes = b"/srv/plugins", tags: tuple[str, ...] = ()) -> str:
        text, encoded = text_or_b64(source)
        time = self._clock[0].strftime("%Y%m%dT%H%M%S.%fZ")
        snapshot_id = digit * 64
        snapshot = Snapshot(
            format=FormatVersion(),
            repository_id=REPOSITORY,
            time=time,
            clock=time,
            host="here",
            manifest=Root(0, ()),
            plugin_table=Root(0, ()),
            tree_sha256="f" * 64,
            program="test",
            source=text,
            source_b64=encoded,
            tags=tags,
            files=7,
            plugins=len(PLUGINS),
            bytes=4096,
        )
        self.inventory.record_backup(
            repo_id=REPOSITORY,
            store_url=STORE,
            snapshot_id=snapshot_id,
            name=f"snapshots/{time}-{snapshot_id}.json",
            snapshot=snapshot,
            plugins=[PluginRow(*text_or_b64(path), name="p", files=1, bytes=2, tree_sha256="e") for path in PLUGINS],
            packs=[],
            bytes_added=1,
        )
        return snapshot_id

    def verify(self, snapshot_id: str, level: str = "content", *, ok: bool = True) -> None:
        record_verification(self.inventory, snapshot_id, level, ok=ok, repo_id=REPOSITORY)

    def drill(self, plugin: bytes | None, *, passed: bool = True, snapshot_id: str = "a" * 64) -> None:
        total = 1.5 if passed else 400.0
        self.inventory.record_drill(
            drill(snapshot_id, plugin, passed=passed, repository=REPOSITORY, total_s=total, rpo_s=60.0)
        )

    def status(self, rpo: timedelta = timedelta(hours=24)) -> StatusReport:
        return status(self.inventory, now=NOW, rpo_s=rpo.total_seconds())


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    clock = [NOW]
    with Inventory.open(os.fsencode(tmp_path / "inventory.db"), now=lambda: clock[0]) as inventory:
        yield Past(inventory, clock)


def test_nothing_is_protected(past: Past) -> None:
    report = past.status()
    assert (report.ok, report.sources) == (False, ())


def test_a_backup_alone_is_no_proof(past: Past) -> None:
    past.at(timedelta(hours=1)).backup()
    report = past.status()
    [source] = report.sources
    assert not report.ok
    assert (source.verified, source.rpo_s, source.rpo_met, source.rto_met) == (None, None, False, None)
    assert (source.age_s, source.files, source.plugins) == (3600, 7, len(PLUGINS))
    assert [(group.proved, group.age_s) for group in source.groups] == [(0, None)] * 3


def test_the_newest_verified_snapshot_counts(past: Past) -> None:
    old = past.at(timedelta(hours=20)).backup("a")
    past.at(timedelta(hours=19)).verify(old, "restore")
    past.at(timedelta(hours=2)).backup("b")
    past.at(timedelta(hours=1)).verify("b" * 64, ok=False)
    [source] = past.status().sources
    assert source.snapshot == "b" * 64
    assert source.verified is not None
    assert (source.verified.snapshot, source.verified.level, source.verified.age_s) == (old, "restore", 19 * 3600)
    assert (source.rpo_s, source.rpo_met) == (20 * 3600, True)
    assert past.status().ok
    assert not past.status(timedelta(hours=19)).ok


def test_a_full_drill_proves_its_snapshot_and_every_plugin(past: Past) -> None:
    made = past.at(timedelta(hours=3)).backup()
    past.at(timedelta(hours=2)).drill(None, snapshot_id=made)
    [source] = past.status().sources
    assert source.verified is not None
    assert (source.verified.level, source.verified.age_s) == ("restore", 2 * 3600)
    assert source.full_drill is not None
    assert (source.full_drill.passed, source.rto_met) == (True, True)
    assert all(group.proved == group.plugins and group.age_s == 2 * 3600 for group in source.groups)


def test_the_least_proved_groups_come_first(past: Past) -> None:
    past.at(timedelta(hours=9)).backup()
    past.at(timedelta(hours=8)).drill(PLUGINS[0])
    past.at(timedelta(hours=7)).drill(PLUGINS[1])
    past.at(timedelta(hours=6)).drill(PLUGINS[3])
    [source] = past.status().sources
    assert [(group.path, group.plugins, group.proved, group.age_s) for group in source.groups] == [
        (b"plugins/other", 1, 0, None),
        (b"plugins/tools", 2, 2, 8 * 3600),
        (b"", 1, 1, 6 * 3600),
    ]


def test_a_failed_drill_counts_until_the_plugin_passes(past: Past) -> None:
    made = past.at(timedelta(hours=9)).backup()
    past.verify(made)
    past.at(timedelta(hours=8)).drill(PLUGINS[0], passed=False)
    past.at(timedelta(hours=7)).drill(PLUGINS[1])
    report = past.status()
    [source] = report.sources
    assert source.plugin_drill is not None
    assert (source.plugin_drill.plugin, source.plugin_drill.reason) == (PLUGINS[0], "too slow")
    assert (source.rpo_met, source.rto_met, report.ok) == (True, False, False)
    past.at(timedelta(hours=6)).drill(PLUGINS[0])
    assert past.status().ok


def test_rejected_snapshots_protect_nothing(past: Past) -> None:
    past.at(timedelta(hours=3)).backup("a")
    rejected = past.at(timedelta(hours=1)).backup("b", tags=("rejected",))
    past.verify(rejected)
    [source] = past.status().sources
    assert (source.snapshot, source.verified) == ("a" * 64, None)


def test_each_source_is_told_of(past: Past) -> None:
    past.backup("a")
    past.backup("b", source=b"/srv/caf\xe9")
    assert {source.source for source in past.status().sources} == {b"/srv/plugins", b"/srv/caf\xe9"}


# OpenMetrics

LINE = re.compile(r'(drkit_[a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (-?[0-9.]+)')


def test_openmetrics(past: Past) -> None:
    made = past.at(timedelta(hours=3)).backup(source=b'/srv/a "b"\\c\nd')
    past.at(timedelta(hours=2)).verify(made)
    past.drill(PLUGINS[2], passed=False)
    text = openmetrics(past.status())
    assert text.endswith("\n# EOF\n")
    samples: dict[tuple[str, str], float] = {}
    types: dict[str, str] = {}
    for line in text.splitlines()[:-1]:
        if line.startswith("# "):
            word, name, rest = line[2:].split(" ", 2)
            if word == "TYPE":
                assert name not in types, "the samples of a metric stand together"
                types[name] = rest
            continue
        match = LINE.fullmatch(line)
        assert match, line
        assert match[1] == list(types)[-1]
        samples[match[1], match[2] or ""] = float(match[3])
    by_name = {name: value for (name, _), value in samples.items()}
    assert set(types.values()) == {"gauge"}
    assert by_name["drkit_ok"] == 0
    assert by_name["drkit_snapshot_files"] == 7
    assert by_name["drkit_snapshot_timestamp_seconds"] == (NOW - timedelta(hours=3)).timestamp()
    assert by_name["drkit_verified_snapshot_timestamp_seconds"] == (NOW - timedelta(hours=3)).timestamp()
    assert (by_name["drkit_drill_passed"], by_name["drkit_drill_duration_seconds"]) == (0, 400)
    assert by_name["drkit_outbox_pending"] == 3
    assert any(r'source="/srv/a \"b\"\\c' in labels for _, labels in samples)


# The command


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path, DRKIT_INVENTORY="inventory.db")


def fill(cli: Cli) -> None:
    """What happened in the last minutes before now."""
    clock = [NOW]
    with Inventory.open(os.fsencode(cli.home / "inventory.db"), now=lambda: clock[0]) as inventory:
        past = Past(inventory, clock)
        ago = NOW - datetime.now(UTC) + timedelta(minutes=5)
        past.at(ago).verify(past.at(ago).backup())
        past.drill(PLUGINS[2])


def test_one_screen(cli: Cli) -> None:
    fill(cli)
    run = cli.ok("status")
    assert "here:/srv/plugins" in run.text
    assert "verified  at level content, 5 min" in run.text
    assert "never drilled: drkit drill --full" in run.text
    assert "plugins/other/caf\\xe9" in run.text
    assert "1 of 1     plugins/other" in run.text
    assert len(run.text.splitlines()) < 24
    assert "! here" in cli.ok("status", "--rpo", "1m").text


def test_nothing_yet(cli: Cli) -> None:
    assert "drkit backup SOURCE" in cli.ok("status").text


def test_json(cli: Cli) -> None:
    fill(cli)
    answer = cli.ok("status", "--json").json
    assert set(answer) == {field.name for field in structs.fields(StatusReport)}
    [source] = answer["sources"]
    assert source["path"] == "/srv/plugins"
    assert source["plugin_drill"]["plugin"] == "plugins/other/caf\\xe9"
    assert (source["full_drill"], source["rpo_met"], answer["ok"]) == (None, True, True)
    assert json.dumps(answer)


def test_openmetrics_on_the_command_line(cli: Cli) -> None:
    fill(cli)
    assert cli.ok("status", "--openmetrics").text.endswith("# EOF\n")
    assert cli("status", "--openmetrics", "--json").code == 2
    assert cli("status", "--openmetrics", "--watch").code == 2


def test_watch_looks_again_until_it_is_interrupted(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cli)
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("drkit.cli.commands.status.time.sleep", sleep)
    run = cli.ok("status", "--watch")
    assert run.text.count("here:/srv/plugins") == 3
    assert len(naps) == 3


def test_ages() -> None:
    seconds = [0.25, 40, 61, 3600, 3_660, 90_000, -7_200]
    assert list(map(age, seconds)) == ["0.25 s", "40 s", "1 min 1 s", "1 h", "1 h 1 min", "1 d 1 h", "-2 h"]


def test_status_with_many_snapshots(past: Past, benchmark: Any) -> None:
    """10,000 snapshots, each with its plugins and a verification."""
    past.backup()
    [head] = past.inventory.engine.execute("SELECT * FROM snapshots")
    [columns] = [[row[1] for row in past.inventory.engine.execute("PRAGMA table_info(snapshots)")]]
    at = {name: number for number, name in enumerate(columns)}
    rows = []
    for number in range(10_000):
        row = list(head)
        time = (NOW - timedelta(minutes=number)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        row[at["id"]], row[at["snapshot"]] = 100_000 + number, f"{number:064x}"
        row[at["at"]] = row[at["time"]] = time
        rows.append(row)
    with past.inventory.engine.transaction():
        past.inventory.insert("snapshots", rows)
    past.verify(f"{100:064x}")
    report = benchmark(past.status)
    [source] = report.sources
    assert source.snapshot in {f"{0:064x}", "a" * 64}
    assert source.rpo_s == 6000
