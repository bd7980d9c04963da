"""What enhancement runs did: a status for each plugin, every answer of a model, what was proposed and written.

Each method that records is one transaction, with a link of the audit and a row of the outbox: what it recorded is
durable when it returns, and reaches the repository and Turso with the next flush of either.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from drkit.errors import UsageError
from drkit.inventory.engine import Value
from drkit.inventory.inventory import Inventory, Rows
from drkit.inventory.records import EnhancementRecord, ResponseRecord, RunRecord

# Statements are put together from names in the code alone; every value is bound.
# ruff: noqa: S608

_RUN = tuple(RunRecord.__struct_fields__)
_STATUS = tuple(EnhancementRecord.__struct_fields__)
_RESPONSE = ("response", *(name for name in ResponseRecord.__struct_fields__ if name != "text"))
_NEWEST_RUN = """NOT EXISTS (SELECT 1 FROM enhancement_runs AS n WHERE n.run = r.run
    AND (COALESCE(n.ended, ''), n.inventory, n.id) > (COALESCE(r.ended, ''), r.inventory, r.id))"""


class Enhancements:
    """The records of enhancement runs in an inventory.

    A row is keyed by run and plugin path. After a rebuild on another machine the rows of a run may be updated there
    too; the newest stands, whoever wrote it. What is asked for a `source` falls back to other sources of the same
    repository where there is nothing, so that a tree that was restored elsewhere keeps its history.
    """

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory

    # Runs

    def start_run(
        self,
        *,
        repo_id: str,
        source: bytes,
        generator: str,
        model: str,
        profile: str,
        options: Mapping[str, Any],
        snapshot_before: str,
    ) -> str:
        """Record that a run begins; return its id, `YYYYMMDDThhmmss-xxxxxx`, which no other run has."""
        at = self.inventory.stamp()
        run = f"{at[:19].replace('-', '').replace(':', '')}-{os.urandom(3).hex()}"
        row = (run, at, None, repo_id, source, generator, model, profile, _json(options), snapshot_before)
        detail = {"run": run, "generator": generator, "model": model, "snapshot": snapshot_before}
        self._record("enhance-started", detail, {"enhancement_runs": [(*row, None, None, None)]}, repo_id, at)
        return run

    def finish_run(
        self, run: str, *, repo_id: str, snapshot_after: str, exit_code: int, report: Mapping[str, Any]
    ) -> None:
        """Record how a run ended. UsageError if there is no such run."""
        began = self.run(run)
        at = self.inventory.stamp()
        row = (
            *(run, began.started, at, repo_id, began.source, began.generator, began.model, began.profile),
            *(_json(began.options), began.snapshot_before, snapshot_after, exit_code, _json(report)),
        )
        detail = {"run": run, "exit_code": exit_code, "snapshot": snapshot_after}
        self._record("enhance-ended", detail, {"enhancement_runs": [row]}, repo_id, at)

    def runs(self, *, limit: int = 1_000_000) -> list[RunRecord]:
        """Return the runs, newest first."""
        return self._runs("1", (), limit)

    def run(self, name: str) -> RunRecord:
        """Return the run that `latest`, an id or the beginning of one means. UsageError lists the candidates."""
        if name == "latest":
            found = self.runs(limit=1)
        else:
            found = self._runs("SUBSTR(run, 1, ?) = ?", (len(name), name), 6) if name else []
        if len(found) == 1:
            return found[0]
        shown = ", ".join(one.run for one in (found or self.runs(limit=5))) or "none"
        what = "is ambiguous" if found else "is not a run"
        hint = "list the runs with 'drkit enhance report --all'"
        raise UsageError(f"{name!r} {what}; the newest are: {shown}", hint=hint)

    # Statuses

    def set_status(
        self,
        *,
        run: str,
        repo_id: str,
        plugin_path: bytes,
        plugin_name: str,
        enhancement_type: str,
        status: str,
        reason: str = "",
        processing_time_seconds: float | None = None,
        snapshot: str | None = None,
        model: str | None = None,
        input_sha256: str = "",
        cache_key: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Record where a plugin is in a run; its row is updated in place.

        The last six keep their former value where nothing is given; `reason` does not. UsageError if there is no
        such run.
        """
        at = self.inventory.stamp()
        row = (
            *(run, at, plugin_name, plugin_path, enhancement_type, status, processing_time_seconds, snapshot, model),
            *(_json(detail) if detail else None, repo_id, self.run(run).source, reason),
            *(input_sha256 or None, cache_key or None),
        )
        told = {"run": run, "plugin": _text(plugin_path), "status": status, "reason": reason}
        self._record("enhance-status", told, {"enhancements": [row]}, repo_id, at)

    def statuses(self, run: str) -> list[EnhancementRecord]:
        """Return the plugins of a run (its whole id) in order of their paths, each once."""
        rows = self._statuses("run = ? ORDER BY timestamp, inventory, id", (run,))
        newest = {row.plugin_path: row for row in rows}
        return [newest[path] for path in sorted(newest)]

    def last(
        self, plugin_path: bytes, *, repo_id: str, source: bytes, before: str | None = None
    ) -> EnhancementRecord | None:
        """Return the newest record of a plugin; with `before`, without those of the run of this id."""
        where = """plugin_path = ? AND repository = ? AND run IS NOT ?
            ORDER BY source = ? DESC, timestamp DESC, inventory DESC, id DESC LIMIT 1"""
        found = self._statuses(where, (plugin_path, repo_id, before, source))
        return found[0] if found else None

    # Answers

    def store_response(
        self,
        *,
        run: str,
        repo_id: str,
        plugin_path: bytes,
        phase: str,
        cache_key: str,
        request_sha256: str,
        model: str,
        reply_text: str,
        finish_reason: str,
        tokens_in: int,
        tokens_out: int,
        cost_usd: float,
        latency_s: float,
        details: Mapping[str, Any] | None = None,
    ) -> int:
        """Record an answer exactly as it came; return the row's id."""
        at = self.inventory.stamp()
        text = reply_text.encode("utf-8", "surrogatepass")
        row = (
            *(at, run, plugin_path, model, request_sha256, finish_reason, tokens_in, tokens_out, text),
            *(repo_id, phase, cache_key, cost_usd, latency_s, _json(details or {})),
        )
        told = {"run": run, "plugin": _text(plugin_path), "phase": phase, "request": request_sha256}
        return self._record("enhance-response", told, {"responses": [row]}, repo_id, at)

    def response(self, cache_key: str | None, request_sha256: str, phase: str) -> ResponseRecord | None:
        """Return the newest answer to a request; under any key if `cache_key` is None."""
        where = "request_sha256 = ? AND phase = ? AND (?3 IS NULL OR cache_key = ?3)"
        found = self._responses(f"{where} ORDER BY at DESC, id DESC LIMIT 1", (request_sha256, phase, cache_key))
        return found[0] if found else None

    def responses(self, run: str) -> list[ResponseRecord]:
        """Return the answers that a run (its whole id) got, in order of their time."""
        return self._responses("run = ? ORDER BY at, id", (run,))

    def answers(self, run: str) -> dict[bytes, int]:
        """Return how many answers a run (its whole id) got for each plugin."""
        sql = "SELECT plugin_path, COUNT(*) FROM responses WHERE run = ? GROUP BY plugin_path"
        return dict(self.inventory.engine.execute(sql, (run,)))

    def store_analysis(
        self,
        *,
        run: str,
        repo_id: str,
        plugin_path: bytes,
        cache_key: str,
        result: Mapping[str, Any],
        kind: str = "plan",
    ) -> None:
        """Record what phase 1 made of an answer, or another analysis (`kind`), as plain data."""
        at = self.inventory.stamp()
        row = (at, run, plugin_path, kind, _json(result), repo_id, cache_key)
        told = {"run": run, "plugin": _text(plugin_path), "kind": kind}
        self._record("enhance-analysis", told, {"analyses": [row]}, repo_id, at)

    def analysis(self, cache_key: str, *, kind: str = "plan") -> dict[str, Any] | None:
        """Return the newest analysis of a kind that was recorded under a key."""
        sql = "SELECT result FROM analyses WHERE cache_key = ? AND kind = ? ORDER BY at DESC, id DESC LIMIT 1"
        rows = self.inventory.engine.execute(sql, (cache_key, kind))
        return msgspec.json.decode(rows[0][0]) if rows else None

    # Files

    def store_proposal(
        self, *, run: str, repo_id: str, plugin_path: bytes, cache_key: str, files: Mapping[bytes, bytes]
    ) -> None:
        """Record a generator's files, by path relative to the plugin, as they were before anything was merged.

        To be called when they are applied: `proposal` is the base of the next merge.
        """
        at, source = self.inventory.stamp(), self.run(run).source
        rows: list[tuple[Value, ...]] = [
            (at, run, repo_id, source, plugin_path, path, cache_key, content) for path, content in sorted(files.items())
        ]
        told = {"run": run, "plugin": _text(plugin_path), "files": len(rows)}
        self._record("enhance-proposal", told, {"proposals": rows}, repo_id, at)

    def proposal(
        self, plugin_path: bytes, path: bytes, *, repo_id: str, source: bytes, elsewhere: bool = True
    ) -> bytes | None:
        """Return the newest proposal for a file (relative to the plugin) that was recorded.

        With `elsewhere` false only one for this very source.
        """
        sql = """SELECT content FROM proposals WHERE repository = ? AND plugin_path = ? AND path = ?
            AND (source = ?4 OR ?5) ORDER BY source = ?4 DESC, at DESC, inventory DESC, id DESC LIMIT 1"""
        rows = self.inventory.engine.execute(sql, (repo_id, plugin_path, path, source, elsewhere))
        return rows[0][0] if rows else None

    def store_written(self, *, run: str, repo_id: str, plugin_path: bytes, files: Mapping[bytes, str]) -> None:
        """Record what a run left in a plugin: path relative to it → SHA-256 of the content, empty if it is gone."""
        at, source = self.inventory.stamp(), self.run(run).source
        rows: list[tuple[Value, ...]] = [
            (at, run, repo_id, source, plugin_path, path, sha256) for path, sha256 in sorted(files.items())
        ]
        told = {"run": run, "plugin": _text(plugin_path), "files": {_text(path): files[path] for path in sorted(files)}}
        self._record("enhance-written", told, {"written_files": rows}, repo_id, at)

    def written(self, plugin_path: bytes, *, repo_id: str, source: bytes) -> dict[bytes, str]:
        """Return, by path relative to the plugin, the SHA-256 of what enhance last wrote there."""
        sql = """SELECT source, path, sha256 FROM written_files WHERE repository = ? AND plugin_path = ?
            ORDER BY at, inventory, id"""
        rows = self.inventory.engine.execute(sql, (repo_id, plugin_path))
        own = [row for row in rows if row[0] == source] or rows
        newest = {path: sha256 for _, path, sha256 in own}
        return {path: sha256 for path, sha256 in newest.items() if sha256}

    def score(
        self,
        *,
        run: str,
        repo_id: str,
        plugin_path: bytes,
        scores: Mapping[str, float],
        details: Mapping[str, str] | None = None,
    ) -> None:
        """Record scores of a plugin by rule, each from 0 to 1, with what was said about it."""
        at = self.inventory.stamp()
        rows: list[tuple[Value, ...]] = [
            (at, run, plugin_path, rule, value, (details or {}).get(rule, ""), repo_id)
            for rule, value in sorted(scores.items())
        ]
        told = {"run": run, "plugin": _text(plugin_path), "rules": len(rows)}
        self._record("enhance-score", told, {"quality_scores": rows}, repo_id, at)

    # Rows

    def _record(self, event: str, detail: dict[str, Any], rows: Rows, repo_id: str, at: str) -> int:
        """Record rows in one transaction; return the id, or version, of the first."""
        return self.inventory.record(event, detail, rows, repo_id=repo_id, at=at)

    def _runs(self, where: str, values: Sequence[Value], limit: int) -> list[RunRecord]:
        sql = f"""SELECT {", ".join(_RUN)} FROM enhancement_runs AS r WHERE {where} AND {_NEWEST_RUN}
            ORDER BY started DESC, run DESC LIMIT ?"""
        found = []
        for row in self.inventory.engine.execute(sql, (*values, limit)):
            keys = dict(zip(_RUN, row, strict=True))
            keys["options"] = msgspec.json.decode(keys["options"])
            keys["report"] = keys["report"] and msgspec.json.decode(keys["report"])
            found.append(RunRecord(**keys))
        return found

    def _statuses(self, where: str, values: Sequence[Value]) -> list[EnhancementRecord]:
        found = []
        for row in self.inventory.engine.execute(
            f"SELECT {', '.join(_STATUS)} FROM enhancements WHERE {where}", values
        ):
            keys = dict(zip(_STATUS, row, strict=True))
            for name in ("repository", "reason", "input_sha256", "cache_key"):
                keys[name] = keys[name] or ""
            keys["source"] = keys["source"] or b""
            keys["detail"] = msgspec.json.decode(keys["detail"] or "{}")
            found.append(EnhancementRecord(**keys))
        return found

    def _responses(self, where: str, values: Sequence[Value]) -> list[ResponseRecord]:
        sql = f"SELECT {', '.join(_RESPONSE)} FROM responses WHERE {where}"
        found = []
        for row in self.inventory.engine.execute(sql, values):
            keys = dict(zip(_RESPONSE, row, strict=True))
            keys["text"] = keys.pop("response").decode("utf-8", "surrogatepass")
            keys["detail"] = msgspec.json.decode(keys["detail"])
            found.append(ResponseRecord(**keys))
        return found


def _json(value: Mapping[str, Any]) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
