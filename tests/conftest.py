"""What an installation would add: the metadata by which drkit finds the commands of other packages."""

from __future__ import annotations

import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

from tests.support.enhancing import no_stray_writes  # noqa: F401
from tests.support.runbooks import marketplace, scene  # noqa: F401
from tests.support.servers import servers  # noqa: F401

METADATA = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Put a `dist-info` directory, made from pyproject.toml, first on the path."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    place = config.stash[METADATA] = tempfile.mkdtemp(prefix="drkit-metadata-")
    info = Path(place, "drkit-0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: drkit\nVersion: 0\n", encoding="utf-8")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.path.insert(0, place)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove it again."""
    place = config.stash[METADATA]
    if place in sys.path:
        sys.path.remove(place)
    shutil.rmtree(place)
