"""`drkit snapshots`: what there is to restore."""

from __future__ import annotations

import typer

from drkit.cli.output import moment, path_text, size
from drkit.cli.session import Session
from drkit.errors import IntegrityError
from drkit.model import Snapshot, show_path
from drkit.repo import SnapshotRef

EXAMPLES = """
drkit snapshots
drkit snapshots --json | jq -r '.snapshots[-1].id'
"""
KEYS = {
    "snapshots": "{id, time, source, host, tags, files, plugins, bytes, tree_sha256, parent}, oldest first",
    "lost": "what is wrong with the snapshots that are damaged",
}


def command(ctx: typer.Context) -> int:
    """List all snapshots, oldest first. One that is damaged becomes a warning, and exit code 3."""
    from drkit.store.parallel import in_parallel

    session: Session = ctx.obj
    repository = session.open(cached=True)
    rows: list[tuple[SnapshotRef, Snapshot]] = []
    lost: list[str] = []

    def load(ref: SnapshotRef) -> tuple[SnapshotRef, Snapshot | IntegrityError]:
        try:
            return ref, repository.load(ref)
        except IntegrityError as error:
            return ref, error

    # A directory is read faster one by one; from far away each is a request.
    workers = 1 if repository.store.directory is not None else 8
    for ref, loaded in in_parallel(load, repository.snapshots(), workers=workers):
        if isinstance(loaded, IntegrityError):
            lost.append(f"{loaded}; {loaded.hint}")
        else:
            rows.append((ref, loaded))
    session.console.result(
        {
            "snapshots": [
                {
                    "id": ref.id,
                    "time": moment(ref.time),
                    "source": path_text(snapshot.raw_source),
                    "host": snapshot.host,
                    "tags": snapshot.tags,
                    "files": snapshot.files,
                    "plugins": snapshot.plugins,
                    "bytes": snapshot.bytes,
                    "tree_sha256": snapshot.tree_sha256,
                    "parent": snapshot.parent,
                }
                for ref, snapshot in rows
            ],
            "lost": lost,
        }
    )
    session.console.table(
        ("ID", "TIME (UTC)", "HOST", "SOURCE", "FILES", "PLUGINS", "SIZE", "TAGS"),
        [
            (
                ref.id[:12],
                moment(ref.time)[:19].replace("T", " "),
                snapshot.host,
                show_path(snapshot.raw_source),
                f"{snapshot.files:,}",
                f"{snapshot.plugins:,}",
                size(snapshot.bytes),
                ",".join(snapshot.tags),
            )
            for ref, snapshot in rows
        ],
        right=(4, 5, 6),
    )
    return session.console.lost(lost)
