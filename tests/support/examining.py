"""A repository for doctor to look at, and what every one of its answers must have."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from drkit.inventory import DrillRecord, Inventory
from drkit.repo import Repository
from tests.support.cli import Cli, Run
from tests.test_docs import parse

RULE = {"rule-copies", "rule-kinds", "rule-offsite", "rule-append-only"}
USUAL = {"same-device", "never-drilled", "never-verified", "rule-errors"} | RULE
"""What a fresh repository beside its source gets told."""


def beside_its_source(tmp_path: Path) -> Cli:
    """A repository with a snapshot of a small source, on the same device."""
    (tmp_path / "source" / "a" / ".claude-plugin").mkdir(parents=True)
    (tmp_path / "source" / "a" / ".claude-plugin" / "plugin.json").write_text('{"name": "a"}')
    (tmp_path / "source" / "readme").write_text("content")
    cli = Cli(tmp_path, DRKIT_REPO="repository", DRKIT_INVENTORY="inventory.db")
    cli.ok("init")
    cli.ok("backup", "source")
    return cli


def prove(inventory: Inventory, repo: Repository, *, passed: bool = True) -> None:
    """Record that the newest snapshot was verified and a plugin of it drilled."""
    ref = repo.resolve("latest")
    common = {"repo_id": repo.config.repository_id, "store_url": repo.store.url, "snapshot_id": ref.id}
    inventory.record_verification(
        **common, plugin=None, level="restore", ok=True, findings=0, packs_read=1, bytes_read=1, duration_s=0.1
    )
    reason = "" if passed else "the tree hash differs"
    ids = (repo.config.repository_id, repo.store.url, ref.id)
    drill = DrillRecord(*ids, b"a", "drkit", 0.01, 0.1, 0.1, 0.2, 300.0, 60.0, 10, 1, passed, reason)
    inventory.record_drill(drill)


def found(cli: Cli) -> set[str]:
    """The findings' codes, without those that are usual."""
    return codes(cli("doctor", "--json")) - USUAL


def codes(run: Run) -> set[str]:
    """The findings' codes, after a look at what every answer must have."""
    answer = run.json
    assert set(answer) == {"ok", "checks", "findings", "abilities", "rule"}
    assert answer["ok"] == all(finding["exit"] == 0 for finding in answer["findings"])
    assert run.code == max([finding["exit"] for finding in answer["findings"]], default=0)
    for finding in answer["findings"]:
        assert set(finding) == {"code", "object", "message", "repair", "exit"}
        assert all(finding[key] for key in ("code", "object", "message", "repair"))
        check_commands(finding["repair"])
    return {finding["code"] for finding in answer["findings"]}


def check_commands(repair: str) -> None:
    """What is shown as a drkit command is one; only what stands for the user's own words may be left out."""
    commands = re.findall(r"'drkit ([^']+)'", repair)
    commands += re.findall(r"(?:^|: )drkit ([^;']+)", repair)
    for command in commands:
        try:
            parse(shlex.split(command))
        except Exception as error:
            if "Missing" not in str(error):
                raise
