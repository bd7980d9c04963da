"""What is recorded of a draft: before it is applied, so that a kill leaves no riddle, and when it is on the disk."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from msgspec import structs

from drkit.model import show_path
from enhance.discover import join
from enhance.pipeline.applying import Applied
from enhance.pipeline.staging import Draft, effects, sha256
from enhance.pipeline.statuses import Entry, below, by_path, path_key
from enhance.pipeline.worker import Desk


def note_intent(desk: Desk, entry: Entry, draft: Draft, dirs: Sequence[bytes]) -> None:
    """Note in a plugin's entry what is about to be written, moved and made, and what the bases of merges were."""
    bases = {
        path: base64.b64encode(base).decode()
        for path in draft.proposal
        if (base := desk.newest(path, there=path in desk.live))
    }
    noted: dict[str, Any] = {
        "writes": by_path({path: [sha256(data), _pure(draft, path)] for path, data in draft.writes.items()}),
        "moves": [[path_key(old), path_key(new)] for old, new in draft.moves],
        "dirs": [path_key(path) for path in dirs],
        "bases": by_path(bases),
    }
    intended = effects(draft, desk.live)
    noted["changes"] = by_path({path: [_live_sha256(desk, path), sha] for path, sha in intended.items()})
    if not all(_pure(draft, path) for path in draft.writes):
        live = {path: _live_sha256(desk, path) for path in draft.writes}
        noted["rest"] = desk.again(desk.plugin, {**desk.past.written, **live}).input_sha256
    entry.detail.update({key: value for key, value in noted.items() if value})


def note_outcome(desk: Desk, run: str, entry: Entry, draft: Draft, applied: Applied, files: tuple[bytes, ...]) -> None:
    """Record what is on the disk now, and the key that it will have as long as nobody changes anything."""
    job, path = desk.job, desk.plugin.path
    where: dict[str, Any] = {"run": run, "repo_id": job.repo_id, "plugin_path": path}
    if applied.changes:
        entry.detail["changes"] = by_path(
            {below(path, one.path): [one.old_sha256, one.new_sha256] for one in applied.changes}
        )
    if draft.proposal:
        job.records.store_proposal(**where, cache_key=desk.key, files=draft.proposal)
    written = {one: sha256(data) for one, data in draft.proposal.items() if _on_disk(desk, draft, one) == sha256(data)}
    written |= {one: "" for one in desk.past.written if one not in written and one not in files}
    if written:
        job.records.store_written(**where, files=written)
    for hunk in draft.conflicts:
        detail = {
            "run": run,
            "path": show_path(join(path, hunk.path)),
            "kept": hunk.kept.decode("utf-8", "backslashreplace"),
            "left_out": hunk.left_out.decode("utf-8", "backslashreplace"),
        }
        job.site.inventory.record("enhance-conflict", detail, {}, repo_id=job.repo_id)
    now = desk.again(structs.replace(desk.plugin, files=files), {**desk.past.ours, **written})
    entry.input_sha256, entry.cache_key = now.input_sha256, desk.key_of(now)


def _pure(draft: Draft, path: bytes) -> bool:
    """Whether a file will hold what the generator proposed and nothing else."""
    return draft.proposal.get(path) == draft.writes[path]


def _on_disk(desk: Desk, draft: Draft, path: bytes) -> str:
    return sha256(draft.writes[path]) if path in draft.writes else _live_sha256(desk, path)


def _live_sha256(desk: Desk, path: bytes) -> str:
    live = desk.live.get(path)
    return sha256(live()) if live is not None else ""
