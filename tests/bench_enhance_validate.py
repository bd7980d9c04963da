"""What it costs to discover and check a marketplace of 235 plugins: seconds in process, files cached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from enhance.discover import discover
from enhance.model import Finding
from enhance.validators import check_source
from tests.support.skills import BODY, GOOD, skill, write_tree

PLUGINS = 235


def marketplace(top: Path) -> bytes:
    """Make plugins with one skill of 8 KB each, and a marketplace file that lists them."""
    tree: dict[bytes, bytes] = {}
    entries = []
    for number in range(PLUGINS):
        place = b"plugins/kind-%d/plugin-%d" % (number % 12, number)
        text = BODY + "".join(
            f"- Step {line}: look at `file-{line}` of part {number}, then say so.\n" for line in range(140)
        )
        files = {**GOOD, b"skills/sql-format/SKILL.md": skill(body=text), b"agents/a.md": skill("a")}
        tree |= {place + b"/" + path: data for path, data in files.items()}
        entries.append({"name": f"plugin-{number}", "source": "./" + place.decode()})
    content = {"name": "shop", "owner": {"name": "O"}, "plugins": entries}
    return write_tree(top, {**tree, b".claude-plugin/marketplace.json": json.dumps(content).encode()})


def test_validate_235_plugins(benchmark: Any, tmp_path: Path) -> None:
    source = marketplace(tmp_path / "s")

    def validate() -> list[Finding]:
        return check_source(source, discover(source), "portable")

    assert benchmark.pedantic(validate, rounds=5, warmup_rounds=1) == []
