"""What doctor says with another clock, of another past, and of a Turso database that knows the past better."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from drkit.clock import utc_now
from drkit.doctor import Diagnosis, Targets
from drkit.doctor.proofs import check_inventory, check_proofs
from drkit.doctor.repository import check_repository, newest_snapshots
from drkit.inventory import Inventory
from drkit.repo import Repository
from tests.support.cli import Cli
from tests.support.examining import beside_its_source, codes, found, prove
from tests.support.hrana import TOKEN, Hrana, serving
from tests.support.restoring import back_up


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return beside_its_source(tmp_path)


# With another clock, and another past


def repository_findings(repo: Repository, now: datetime, targets: Targets | None = None) -> Iterator[Diagnosis]:
    newest, damaged = newest_snapshots(repo)
    yield from damaged
    yield from check_repository(repo, newest, now=now, host="another", targets=targets or Targets())


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        (timedelta(hours=1), set()),
        (timedelta(hours=25), {"backup-old"}),
        (timedelta(hours=-2), {"clock-behind"}),
    ],
)
def test_the_age_of_the_newest_snapshot(tmp_path: Path, later: timedelta, expected: set[str]) -> None:
    (tmp_path / "file").write_text("content")
    repo, _ = back_up(tmp_path)
    assert {finding.code for finding in repository_findings(repo, utc_now() + later)} == expected


def proof_findings(
    tmp_path: Path, later: timedelta, *, passed: bool = True, change: Callable[[Inventory], None] | None = None
) -> set[str]:
    """What doctor says of a snapshot that was verified and drilled, so much later."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("content")
    repo, _ = back_up(source)
    newest, _ = newest_snapshots(repo)
    with Inventory.open(os.fsencode(tmp_path / "inventory.db"), now=utc_now) as inventory:
        prove(inventory, repo, passed=passed)
        if change is not None:
            change(inventory)
        proofs = check_proofs(inventory, repo, newest, now=utc_now() + later, targets=Targets())
        return {finding.code for finding in (*check_inventory(inventory, ("", "")), *proofs)}


def test_the_age_of_the_proofs(tmp_path: Path) -> None:
    for number, (later, expected) in enumerate(
        [
            (timedelta(days=1), set()),
            (timedelta(days=8), {"verified-long-ago"}),
            (timedelta(days=31), {"verified-long-ago", "drilled-long-ago"}),
        ]
    ):
        (tmp_path / str(number)).mkdir()
        assert proof_findings(tmp_path / str(number), later) - {"inventory-behind"} == expected


def test_a_failed_drill_is_told(tmp_path: Path) -> None:
    assert "drill-failed" in proof_findings(tmp_path, timedelta(0), passed=False)


def test_a_changed_audit_is_damage(tmp_path: Path) -> None:
    def rewrite(inventory: Inventory) -> None:
        inventory.engine.execute("UPDATE audit SET detail = '{}' WHERE event = 'verify'")

    assert "audit-changed" in proof_findings(tmp_path, timedelta(0), change=rewrite)


# Turso


@pytest.fixture
def remote(cli: Cli) -> Iterator[Hrana]:
    with serving(cli.home / "turso.db") as server:
        cli.environ |= {"TURSO_DATABASE_URL": server.url, "TURSO_AUTH_TOKEN": TOKEN}
        yield server


def turso_findings(cli: Cli) -> set[str]:
    return {code for code in found(cli) if code.startswith(("turso", "audit"))}


def test_turso_in_step_and_behind(cli: Cli, remote: Hrana) -> None:
    assert turso_findings(cli) == {"turso-behind"}, "nothing was ever pushed: there is not even a table"
    cli.ok("inventory", "push")
    assert turso_findings(cli) == set()
    remote.fail("500", times=1_000)
    assert turso_findings(cli) == {"turso-unreachable"}


def test_a_token_that_is_refused(cli: Cli, remote: Hrana) -> None:
    cli.environ["TURSO_AUTH_TOKEN"] = "wrong"
    findings = cli("doctor", "--json").json["findings"]
    [finding] = [finding for finding in findings if finding["code"] == "turso-unreachable"]
    assert "TURSO_AUTH_TOKEN" in finding["repair"]
    assert "wrong" not in json.dumps(findings)


def test_a_chain_that_was_cut_here(cli: Cli, remote: Hrana) -> None:
    cli.ok("inventory", "push")
    with Inventory.open(os.fsencode(cli.home / "inventory.db"), now=utc_now) as inventory:
        inventory.engine.execute("DELETE FROM audit WHERE id = (SELECT MAX(id) FROM audit)")
    assert turso_findings(cli) == {"audit-cut"}
    assert cli("doctor").code == 20


def test_a_chain_that_was_written_anew_there(cli: Cli, remote: Hrana) -> None:
    cli.ok("inventory", "push")
    with closing(sqlite3.connect(remote.path)) as connection, connection:
        connection.execute("UPDATE audit SET hash = 'x' WHERE id = (SELECT MAX(id) FROM audit)")
    assert turso_findings(cli) == {"audit-changed"}
    assert cli("doctor").code == 20


def test_a_replaced_snapshot_is_damage(cli: Cli) -> None:
    """Whoever can write to the repository can make another snapshot of the same time; the inventory knows better."""
    with Inventory.open(os.fsencode(cli.home / "inventory.db"), now=utc_now) as inventory:
        inventory.engine.execute("UPDATE snapshots SET snapshot = ?, tree_sha256 = ?", ("0" * 64, "0" * 64))
    assert "snapshot-replaced" in codes(cli("doctor", "--json"))
