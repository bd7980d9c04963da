"""What the guard costs: a permit on a marketplace of 235 plugins, and a night of 235 edits."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drkit.guard import protect, take_snapshot
from drkit.inventory.objects import store_rows
from tests.support.guarding import Guarded, state_dir

__all__ = ["state_dir"]

PLUGINS = 235
EDITS = 70
"""So many that index objects are merged, twice."""


@pytest.fixture
def marketplace(tmp_path: Path) -> Guarded:
    guarded = Guarded(tmp_path)
    script = Path(__file__).parent.parent / "scripts/marketplace.py"
    command = [sys.executable, str(script), str(guarded.source), "--plugins", str(PLUGINS), "--seed", "7"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return guarded


def test_a_permit(benchmark: Any, marketplace: Guarded) -> None:
    """One edit, from asking for the permit to its end: snapshot, verified restore, write, all durable."""
    site = marketplace.site()
    report = take_snapshot(site)
    assert report.plugins == PLUGINS
    plugins = itertools.cycle([one.path for one in site.inventory.plugins(report.snapshot)])
    content = map(b"%d".__mod__, itertools.count())

    def edit() -> None:
        with protect(next(plugins), site) as permit:
            permit.write(b"skills/made/SKILL.md", next(content))

    benchmark.pedantic(edit, rounds=40, warmup_rounds=2)
    marketplace.close()


def test_a_night(marketplace: Guarded) -> None:
    """Edits, with the inventory's rows after each, add less than 5 MB in 235 of them beyond the new content."""
    site = marketplace.site()
    report = take_snapshot(site)
    before, new = _size(marketplace.root / "repo"), 0
    for number, plugin in enumerate(site.inventory.plugins(report.snapshot)[:EDITS], 1):
        data = b"".join(b"A line of plugin %d, number %d.\n" % (number, line) for line in range(60))
        with protect(plugin.path, site) as permit:
            permit.write(b"skills/made/SKILL.md", data)
        store_rows(site.inventory, site.repo.store, site.repo.config.repository_id)
        new += len(data)
    assert number == EDITS
    assert _size(marketplace.root / "repo") - before - new < 5_000_000 * EDITS / PLUGINS
    marketplace.close()


def _size(directory: Path) -> int:
    return sum(os.path.getsize(os.path.join(top, name)) for top, _, names in os.walk(directory) for name in names)
