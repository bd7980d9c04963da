"""`drkit plugins`: the plugins of a snapshot."""

from __future__ import annotations

import typer

from drkit.cli.output import path_keys, size
from drkit.cli.params import Snap
from drkit.cli.session import Session
from drkit.model import show_path

EXAMPLES = """
drkit plugins
drkit plugins 3f9a --json
"""
KEYS = {
    "snapshot": "its id",
    "plugins": "{path, name, version, files, bytes, tree_sha256}, in order of paths",
}


def command(ctx: typer.Context, snap: Snap = "latest") -> None:
    """List the plugins of a snapshot with their tree hashes."""
    session: Session = ctx.obj
    repository = session.open(cached=True)
    ref = repository.resolve(snap)
    rows = list(repository.plugins(repository.load(ref)))
    session.console.result(
        {
            "snapshot": ref.id,
            "plugins": [
                {
                    **path_keys(row.raw_path),
                    "name": row.name,
                    "version": row.version,
                    "files": row.files,
                    "bytes": row.bytes,
                    "tree_sha256": row.tree_sha256,
                }
                for row in rows
            ],
        }
    )
    session.console.table(
        ("PATH", "NAME", "VERSION", "FILES", "SIZE", "TREE SHA-256"),
        [
            (
                show_path(row.raw_path) or ".",
                row.name,
                row.version,
                f"{row.files:,}",
                size(row.bytes),
                row.tree_sha256[:16],
            )
            for row in rows
        ],
        right=(3, 4),
    )
