"""From timings to a Markdown table and to the floors that drkit keeps: plain functions over recorded results."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from bench_measure import Run

MB = 1_000_000


@dataclass
class Result:
    """What one tool did in one scenario: its runs, and the repository's size and growth in bytes where they matter."""

    scenario: str
    tool: str
    runs: list[Run] = field(default_factory=list)
    size: int = 0
    size_with_directories: int = 0
    added: list[int] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Median of the wall-clock times."""
        return statistics.median(run.seconds for run in self.runs)

    @property
    def memory(self) -> float:
        """Median of the peaks: all processes together where that is known, else the largest."""
        return statistics.median(max(run.peak_sum, run.peak_process) for run in self.runs)

    @property
    def growth(self) -> float:
        """Median of the bytes that a run added to the repository."""
        return statistics.median(self.added)


class Floor(NamedTuple):
    """A promise: `value` of drkit's result and the other tool's must be at most (or at least) `limit`."""

    scenario: str
    what: str
    tool: str
    other: str
    value: Callable[[Result, Result], float]
    limit: float
    at_least: bool
    unit: str


def _faster(ours: Result, other: Result) -> float:
    return other.seconds / ours.seconds


def _slower(ours: Result, other: Result) -> float:
    return ours.seconds / other.seconds


def _size(ours: Result, other: Result) -> float:
    # As a disk sees it: restic makes 256 directories at once, and each takes a block.
    return ours.size_with_directories / other.size_with_directories


def _memory(ours: Result, other: Result) -> float:
    return ours.memory / other.memory


def _own_memory(ours: Result, _other: Result) -> float:
    return ours.memory / MB


def _own_growth(ours: Result, _other: Result) -> float:
    return ours.growth / 1_000


def _floors() -> Iterable[Floor]:
    three = "drkit level 3"
    yield Floor("corpus", "first backup, speed", "drkit", "restic", _faster, 4.0, True, "x restic")
    yield Floor("corpus", "repository", "drkit", "restic", _size, 0.42, False, "x restic")
    yield Floor("corpus", "repository", "drkit", "borg", _size, 0.68, False, "x borg")
    yield Floor("many", "first backup, speed", "drkit", "restic", _faster, 2.4, True, "x restic")
    yield Floor("many", "repository", "drkit", "restic", _size, 0.53, False, "x restic")
    yield Floor("many", "first backup at level 3, speed", three, "restic", _faster, 3.2, True, "x restic")
    yield Floor("unchanged", "speed", "drkit", "restic", _faster, 6.0, True, "x restic")
    yield Floor("unchanged", "added", "drkit", "drkit", _own_growth, 100.0, False, "kB")
    yield Floor("verify", "speed", "drkit", "restic", _faster, 5.0, True, "x restic")
    yield Floor("restore", "speed", "drkit", "restic", _faster, 1.8, True, "x restic")
    yield Floor("restore", "time", "drkit", "tar + zstd", _slower, 1.4, False, "x tar x + sync")
    yield Floor("restore-tmpfs", "speed", "drkit", "restic", _faster, 3.5, True, "x restic")
    yield Floor("plugin", "speed", "drkit", "restic", _faster, 4.0, True, "x restic")
    yield Floor("large", "first backup, speed", "drkit", "restic", _faster, 1.0, True, "x restic")
    yield Floor("large", "repository", "drkit", "restic", _size, 1.0, False, "x restic")
    for scenario in ("corpus", "many", "verify", "restore", "restore-tmpfs", "large"):
        yield Floor(scenario, "encrypted, throughput", "drkit encrypted", "drkit", _faster, 0.75, True, "x plain drkit")
    for scenario in ("many", "unchanged", "verify", "restore"):
        yield Floor(scenario, "peak memory", "drkit", "drkit", _own_memory, 250.0, False, "MB")
        yield Floor(scenario, "peak memory", "drkit", "restic", _memory, 1.0, False, "x restic")


def floor_rows(results: list[Result]) -> list[dict[str, object]]:
    """Return one row for each floor whose two results are there."""
    known = {(result.scenario, result.tool): result for result in results}
    rows: list[dict[str, object]] = []
    for floor in _floors():
        ours, other = known.get((floor.scenario, floor.tool)), known.get((floor.scenario, floor.other))
        if ours and other:
            value = floor.value(ours, other)
            met = value >= floor.limit if floor.at_least else value <= floor.limit
            asked = f"{'at least' if floor.at_least else 'at most'} {floor.limit:g} {floor.unit}"
            rows.append(
                {
                    "scenario": floor.scenario,
                    "what": floor.what,
                    "floor": asked,
                    "measured": round(value, 3),
                    "met": met,
                }
            )
    return rows


def markdown(results: list[Result], titles: dict[str, str]) -> str:
    """Return the table of all results: medians of time, then sizes, growth and memory; one column for each tool."""
    tools = list(dict.fromkeys(result.tool for result in results))
    lines = [_row(["", *tools]), _row(["---", *("---:" for _ in tools)])]
    measures: tuple[tuple[str, Callable[[Result], str]], ...] = (
        ("", lambda result: f"{result.seconds:.2f} s"),
        ("repository", lambda result: f"{result.size / MB:.2f} MB" if result.size else ""),
        ("with its directories", lambda result: f"{result.size_with_directories / MB:.2f} MB" if result.size else ""),
        ("added by it", lambda result: f"{result.growth / 1_000:.0f} kB" if result.added else ""),
        ("peak memory", lambda result: f"{result.memory / MB:.0f} MB"),
    )
    for scenario, title in titles.items():
        found = {result.tool: result for result in results if result.scenario == scenario}
        for measure, show in measures:
            cells = [show(found[tool]) if tool in found else "" for tool in tools]
            if any(cells):
                lines.append(_row([f"… {measure}" if measure else title, *cells]))
    return "\n".join(lines)


def floors_markdown(rows: list[dict[str, object]]) -> str:
    """Return the table of floors."""
    lines = [_row(["scenario", "what", "floor", "measured", ""]), _row(["---", "---", "---", "---:", "---"])]
    for row in rows:
        verdict = "met" if row["met"] else "**missed**"
        lines.append(_row([str(row[key]) for key in ("scenario", "what", "floor", "measured")] + [verdict]))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def machine(directory: str) -> dict[str, object]:
    """Return what the figures depend on: processor, system, Python, and the file system of a directory."""
    return {
        "processors": os.cpu_count(),
        "processor": _from_proc("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "memory_kb": _from_proc("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "file_system": _file_system(directory),
    }


def _from_proc(path: str, key: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(key)), "")
    except OSError:
        return ""


def _file_system(directory: str) -> str:
    """Return the type of the file system that a directory lies on, if the system says it."""
    try:
        with open("/proc/mounts", encoding="utf-8") as file:
            mounts = [line.split()[1:3] for line in file]
    except OSError:
        return "unknown"
    real = os.path.realpath(directory) + "/"
    fitting = [(len(point), kind) for point, kind in mounts if real.startswith(point.rstrip("/") + "/")]
    return max(fitting)[1] if fitting else "unknown"
