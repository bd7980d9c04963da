"""A source with two plugins, and restoring one of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drkit.repo import Repository, SnapshotRef
from drkit.restore import restore_plugin
from tests.support.trees import Node, build

MARKER = {b".claude-plugin": Node("d", children={b"plugin.json": Node("f", size=2, seed=1)})}


def two_plugins(path: Path) -> Path:
    """Build two plugins, one in the other, and files of no plugin; return the path of it all."""
    inner = Node("d", mode=0o711, mtime_ns=5, children={**MARKER, b"x": Node("f", size=5, seed=2)})
    outer = Node("d", mode=0o2750, mtime_ns=7, children={**MARKER, b"a": Node("f", size=9, seed=1), b"inner": inner})
    category = Node("d", mode=0o751, mtime_ns=9, children={b"outer": outer, b"note": Node("f")})
    build(path, Node("d", mode=0o755, children={b"category": category, b"README": Node("f", size=3, seed=1)}))
    return path


def restore(
    repo: Repository, ref: SnapshotRef, name: str, target: Path | None = None, in_place: Path | None = None
) -> Any:
    """Restore one plugin, see that it is what was backed up, and return the report."""
    row = repo.plugin(repo.load(ref), name)
    report = restore_plugin(
        repo,
        ref,
        row,
        target=bytes(target) if target else None,
        in_place_source=bytes(in_place) if in_place else None,
    )
    assert report.tree_sha256 == row.tree_sha256
    return report


def refusing(code: int) -> Callable[..., Any]:
    """A system call that always fails with this code."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse
