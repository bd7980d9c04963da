"""What was read ahead of the first process comes back, from odd places too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drkit.progress import NullProgress
from drkit.restore import restore_tree
from drkit.restore.dirs import remove
from tests.support.ahead import start_at_once
from tests.support.backups import Bench
from treediff import describe


def test_a_fork_deep_below_comes_back_and_can_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deeper than descriptors are kept open, a walk goes up a few steps, and down again."""
    bench = Bench(tmp_path)
    trunk = "/".join(["d"] * 20)
    for fork in ("a", "b", "c"):
        bench.write(f"{trunk}/{fork}/{'/'.join(['e'] * 140)}/1/file", fork.encode())
        bench.write(f"{trunk}/{fork}/{'/'.join(['e'] * 140)}/2/file")
    start_at_once(monkeypatch)
    report = bench.take()
    repository = bench.open()
    target = tmp_path / "target"
    back = restore_tree(repository, repository.resolve(report.snapshot), os.fsencode(target), progress=NullProgress())
    assert back.tree_sha256 == report.tree_sha256
    assert describe(str(target)) == describe(str(bench.root))
    parent = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        remove(parent, b"target")
    finally:
        os.close(parent)
    assert not target.exists()
