"""The status as OpenMetrics text, for the textfile collector of a node exporter."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from drkit.model import show_path
from drkit.status.report import SourceStatus, StatusReport

Sample = tuple[dict[str, str], float]

_HELP = {
    "drkit_status_timestamp_seconds": "When this status was taken.",
    "drkit_ok": "Whether every source meets its targets.",
    "drkit_snapshot_timestamp_seconds": "When the newest snapshot was taken.",
    "drkit_snapshot_files": "Files in the newest snapshot.",
    "drkit_snapshot_bytes": "Sum of their sizes.",
    "drkit_verified_snapshot_timestamp_seconds": "When the newest verified snapshot was taken.",
    "drkit_rpo_target_seconds": "How old the newest verified snapshot may be.",
    "drkit_drill_timestamp_seconds": "When the last drill was, of everything (full) or of a plugin.",
    "drkit_drill_duration_seconds": "How long it took.",
    "drkit_drill_target_seconds": "How long it might take.",
    "drkit_drill_passed": "Whether it passed.",
    "drkit_plugins": "Plugins of a group in the newest snapshot.",
    "drkit_plugins_proved": "Those of them that were brought back at least once.",
    "drkit_store_lag_snapshots": "Snapshots that a store lacks.",
    "drkit_store_lag_seconds": "How long ago the first snapshot that a store lacks was taken.",
    "drkit_store_ok": "Whether a store is as up to date as it is to be, and no damage is known.",
    "drkit_outbox_pending": "Recorded transactions that an end of the outbox has not got.",
}


def openmetrics(report: StatusReport) -> str:
    """Return the text, ended by `# EOF`. All metrics are gauges; those without a sample are left out."""
    samples: dict[str, list[Sample]] = {name: [] for name in _HELP}
    samples["drkit_status_timestamp_seconds"].append(({}, _seconds(report.at)))
    samples["drkit_ok"].append(({}, report.ok))
    for source in report.sources:
        for name, labels, value in _source(source):
            samples[name].append((labels, value))
    for store in report.stores:
        of_store = {"repository": store.repository, "store": store.name}
        samples["drkit_store_lag_snapshots"].append((of_store, store.lag))
        samples["drkit_store_lag_seconds"].append((of_store, store.lag_s))
        samples["drkit_store_ok"].append((of_store, store.lag_met and not store.failed))
    for end, count in report.pending.items():
        samples["drkit_outbox_pending"].append(({"end": end}, count))
    lines = []
    for name, rows in samples.items():
        if rows:
            lines += [f"# TYPE {name} gauge", f"# HELP {name} {_HELP[name]}"]
            lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in rows]
    return "\n".join([*lines, "# EOF", ""])


def _source(source: SourceStatus) -> Iterator[tuple[str, dict[str, str], float]]:
    labels = {"repository": source.repository, "host": source.host, "source": show_path(source.source)}
    yield "drkit_snapshot_timestamp_seconds", labels, _seconds(source.time)
    yield "drkit_snapshot_files", labels, source.files
    yield "drkit_snapshot_bytes", labels, source.bytes
    yield "drkit_rpo_target_seconds", labels, source.rpo_target_s
    if source.verified is not None:
        taken = _seconds(source.time) + source.age_s - source.verified.snapshot_age_s
        yield "drkit_verified_snapshot_timestamp_seconds", {**labels, "level": source.verified.level}, taken
    for what, drill in (("full", source.full_drill), ("plugin", source.plugin_drill)):
        if drill is not None:
            kind = {**labels, "what": what}
            yield "drkit_drill_timestamp_seconds", kind, _seconds(drill.at)
            yield "drkit_drill_duration_seconds", kind, drill.total_s
            yield "drkit_drill_target_seconds", kind, drill.rto_s
            yield "drkit_drill_passed", kind, drill.passed
    for group in source.groups:
        grouped = {**labels, "group": show_path(group.path)}
        yield "drkit_plugins", grouped, group.plugins
        yield "drkit_plugins_proved", grouped, group.proved


def _seconds(at: str) -> float:
    return round(datetime.fromisoformat(at).timestamp(), 3)


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return repr(float(value)) if value % 1 else str(int(value))
