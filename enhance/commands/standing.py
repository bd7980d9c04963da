"""Where a run stands, from the inventory alone: it may be another process's, or long over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from drkit.cli import Console, count, duration, path_text
from enhance.commands.shared import make_pacer
from enhance.model import FINAL, Status
from enhance.settings import PaceTable, QuotaTable, Settings

if TYPE_CHECKING:
    from drkit.inventory import EnhancementRecord, Enhancements, RunRecord
    from enhance.pace import Pacer

KEYS = {
    "run": "its id",
    "source": "the source that it works on",
    "generator": "its generator",
    "model": "the model that is asked, empty for none",
    "started": "when it began",
    "ended": "when it ended, null if it did not yet, or was killed",
    "exit_code": "how it ended, null likewise",
    "plugins": "how many plugins it is about",
    "done": "how many of them have their final status",
    "statuses": "status → how many plugins have it",
    "success_rate": "verified plugins among those that were verified or failed, null if there are none",
    "average_s": "seconds for a plugin, on average, null if none is done",
    "last": "when a status changed last",
    "calls": "how many calls it made",
    "minute_left": "calls left in this minute, null for no limit",
    "day_left": "calls left today, null for no limit",
    "cost_usd": "what its calls cost, where prices are configured",
    "pace": "the pace that is kept, and the evidence for it; empty where no calls are made",
    "eta": "{calls_left, seconds, low_s, high_s, reason, sentence}; null if it has ended or makes no calls",
}


def standing(records: Enhancements, record: RunRecord) -> dict[str, Any]:
    """Return where a run stands, by the keys of `KEYS`."""
    rows = records.statuses(record.run)
    counts = Counter(row.status for row in rows)
    judged = counts[Status.VERIFIED] + counts[Status.FAILED]
    times = [row.processing_time_seconds for row in rows if row.processing_time_seconds is not None]
    keys: dict[str, Any] = {
        "run": record.run,
        "source": path_text(record.source),
        "generator": record.generator,
        "model": record.model,
        "started": record.started,
        "ended": record.ended,
        "exit_code": record.exit_code,
        "plugins": len(rows),
        "done": sum(row.status in FINAL for row in rows),
        "statuses": {status: counts[status] for status in Status if counts[status]},
        "success_rate": round(counts[Status.VERIFIED] / judged, 4) if judged else None,
        "average_s": round(sum(times) / len(times), 3) if times else None,
        "last": max((row.timestamp for row in rows), default=record.started),
    }
    return {**keys, **_calls(records, record, rows)}


def _calls(records: Enhancements, record: RunRecord, rows: list[EnhancementRecord]) -> dict[str, Any]:
    """Return what the ledger knows of a run's calls, and how long the rest of them takes."""
    nothing = {"calls": 0, "minute_left": None, "day_left": None, "cost_usd": 0.0, "pace": "", "eta": None}
    pacer = pacer_of(records, record)
    if pacer is None:
        return nothing
    state = pacer.state()
    eta = None
    if record.ended is None:
        from enhance.pace import Forecast

        planned: Mapping[str, int] = record.options.get("planned", {})
        forecast = Forecast(pacer, sum(planned.values()))
        final = {row.plugin_path for row in rows if row.status in FINAL}
        underway = sum(number for path, number in records.answers(record.run).items() if path not in final)
        pacer.calls = state.calls
        forecast.finished(sum(planned.get(path_text(path), 0) for path in final), state.calls - underway)
        told = forecast.eta()
        eta = {**msgspec.structs.asdict(told), "sentence": told.sentence}
    return {
        "calls": state.calls,
        "minute_left": state.minute_left,
        "day_left": state.day_left,
        "cost_usd": round(state.cost_usd, 6),
        "pace": state.sentence,
        "eta": eta,
    }


def pacer_of(records: Enhancements, record: RunRecord) -> Pacer | None:
    """Return a pacer with the limits that a run was begun with, to look at; None if it makes no calls."""
    quota = record.options.get("quota")
    if not record.model or not quota or record.generator == "replay":
        return None
    settings = Settings(pace=msgspec.convert(record.options.get("pace", {}), PaceTable))
    until = record.options.get("finish_by")
    finish_by = datetime.fromisoformat(until) if until else None
    limit = msgspec.convert(quota, QuotaTable)
    return make_pacer(records.inventory, settings, limit, record.run, finish_by=finish_by)


def show(console: Console, keys: dict[str, Any], now: datetime) -> None:
    """Print where a run stands."""
    until = datetime.fromisoformat(keys["ended"]) if keys["ended"] else now
    took = duration((until - datetime.fromisoformat(keys["started"])).total_seconds())
    end = f"ended with {keys['exit_code']} after {took}" if keys["ended"] else f"began {took} ago"
    by = f"{keys['generator']} {keys['model']}".strip()
    console.line(f"run {keys['run']} on {keys['source']} by {by}, {end}")
    counts = ", ".join(f"{number} {status}" for status, number in keys["statuses"].items())
    console.line(f"  progress  {keys['done']} of {count(keys['plugins'], 'plugin')}: {counts or 'none'}")
    if keys["success_rate"] is not None:
        console.line(f"  success   {keys['success_rate']:.1%} of those that were tried")
    if keys["average_s"] is not None:
        console.line(f"  average   {duration(keys['average_s'])} for a plugin")
    if keys["pace"]:
        left = [f"{keys[name]} left {when}" for name, when in _WINDOWS.items() if keys[name] is not None]
        cost = [f"{keys['cost_usd']:.4f} dollars"] if keys["cost_usd"] else []
        console.line(f"  calls     {', '.join([str(keys['calls']), *left, *cost])}")
        console.line(f"  pace      {keys['pace']}")
    if keys["eta"]:
        console.line(f"  time left {keys['eta']['sentence']}")


_WINDOWS = {"minute_left": "in this minute", "day_left": "today"}
