"""Doctor finds each thing that would stand in the way of a recovery, and nothing where there is nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from drkit.clock import utc_now
from drkit.doctor import Diagnosis, Surroundings, Targets, examine_store
from drkit.doctor.permissions import check_permissions
from drkit.doctor.proofs import check_inventory, check_proofs
from drkit.doctor.report import age
from drkit.doctor.repository import check_repository, newest_snapshots
from drkit.errors import StoreError
from drkit.format import settings
from drkit.inventory import DrillRecord, Inventory
from drkit.model import FormatVersion
from drkit.repo import Repository
from drkit.store import open_store
from drkit.store.base import ObjectInfo
from drkit.store.memory import MemoryStore
from tests.support.cli import Cli, Run
from tests.support.hrana import TOKEN, Hrana, serving
from tests.support.restoring import back_up
from tests.test_docs import parse

HOST = socket.gethostname()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A repository with a snapshot of a small source, on the same device."""
    (tmp_path / "source" / "a" / ".claude-plugin").mkdir(parents=True)
    (tmp_path / "source" / "a" / ".claude-plugin" / "plugin.json").write_text('{"name": "a"}')
    (tmp_path / "source" / "readme").write_text("content")
    cli = Cli(tmp_path, DRKIT_REPO="repository", DRKIT_INVENTORY="inventory.db")
    cli.ok("init")
    cli.ok("backup", "source")
    return cli


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


RULE = {"rule-copies", "rule-kinds", "rule-offsite", "rule-append-only"}
USUAL = {"same-device", "never-drilled", "never-verified", "rule-errors"} | RULE
"""What a fresh repository beside its source gets told."""


def found(cli: Cli) -> set[str]:
    return codes(cli("doctor", "--json")) - USUAL


def test_a_sound_repository_has_only_what_is_to_be_expected(cli: Cli) -> None:
    run = cli("doctor", "--json")
    assert codes(run) == USUAL
    assert run.code == 3
    assert run.json["checks"] == ["repository", "store", "leftovers", "inventory", "copies", "permissions"]
    text = cli("doctor").text
    assert "repair: drkit verify --level restore" in text
    assert text.splitlines()[-1].endswith("examined: 8 findings")
    assert list((cli.home / "repository" / "locks").iterdir()) == []


def test_what_is_proved_is_no_finding(cli: Cli) -> None:
    with Inventory.open(os.fsencode(cli.home / "inventory.db"), now=utc_now) as inventory:
        repo = Repository.open(open_store(str(cli.home / "repository")))
        prove(inventory, repo)
    # What was recorded behind the back of the commands waits for the next one to store it.
    assert codes(cli("doctor", "--json")) == {"same-device", "inventory-behind"} | RULE


def prove(inventory: Inventory, repo: Repository, *, passed: bool = True) -> None:
    ref = repo.resolve("latest")
    common = {"repo_id": repo.config.repository_id, "store_url": repo.store.url, "snapshot_id": ref.id}
    inventory.record_verification(
        **common, plugin=None, level="restore", ok=True, findings=0, packs_read=1, bytes_read=1, duration_s=0.1
    )
    reason = "" if passed else "the tree hash differs"
    ids = (repo.config.repository_id, repo.store.url, ref.id)
    drill = DrillRecord(*ids, b"a", "drkit", 0.01, 0.1, 0.1, 0.2, 300.0, 60.0, 10, 1, passed, reason)
    inventory.record_drill(drill)


def test_no_repository(cli: Cli) -> None:
    run = cli("--repo", "nothing", "doctor", "--json")
    assert "repository-unreadable" in codes(run)
    assert run.code >= 10


def remove(name: str) -> Callable[[Path], None]:
    return lambda repository: (repository / name).unlink()


def damage(pattern: str) -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        [path] = repository.glob(pattern)
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 0x40
        path.write_bytes(data)

    return change


def stale_lock(repository: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    lock = {"kind": "backup", "host": HOST, "pid": dead.pid, "started": "2026-01-01T00:00:00+00:00"}
    (repository / "locks" / "backup-0123456789abcdef").write_text(json.dumps(lock))


def old_temporary(repository: Path) -> None:
    path = next((repository / "packs").glob("*/*.zst")).with_name(".tmp-0123456789abcdef")
    path.write_bytes(b"half a pack")
    os.utime(path, (1_600_000_000, 1_600_000_000))


def interrupted_restore(repository: Path) -> None:
    (repository.parent / ".drkit-0123456789abcdef.journal").write_text("{}\n")


def unreadable_snapshot(repository: Path) -> None:
    [path] = repository.glob("packs/*/*.zst")
    path.unlink()


def open_inventory(repository: Path) -> None:
    repository.parent.chmod(0o755)
    (repository.parent / "inventory.db").chmod(0o644)


def open_config(repository: Path) -> None:
    repository.parent.chmod(0o755)
    path = repository.parent / "drkit.toml"
    path.write_text("")
    path.chmod(0o666)


@pytest.mark.parametrize(
    ("spoil", "expected", "code"),
    [
        (remove("drkit-copy.json"), {"settings-missing"}, 3),
        (damage("drkit.json"), {"settings-damaged"}, 3),
        (remove("recover.py"), {"recovery-missing"}, 3),
        (damage("RECOVER.md"), {"recovery-differs"}, 3),
        (damage("index/*.zst"), {"index-damaged", "packs-unindexed"}, 3),
        (damage("snapshots/*.json"), {"snapshot-damaged", "no-snapshot"}, 20),
        (unreadable_snapshot, {"pack-missing", "snapshot-unreadable"}, 20),
        (stale_lock, {"lock-stale"}, 3),
        (old_temporary, {"temporary-files"}, 3),
        (interrupted_restore, {"restore-interrupted"}, 3),
        (open_inventory, {"readable-by-others"}, 3),
        (open_config, {"writable-by-others"}, 3),
    ],
)
def test_each_thing_is_found(cli: Cli, spoil: Callable[[Path], None], expected: set[str], code: int) -> None:
    os.chmod(cli.home, 0o700)
    cli("doctor")
    assert not found(cli) & expected
    spoil(cli.home / "repository")
    run = cli("doctor", "--json")
    assert codes(run) - USUAL >= expected
    assert run.code == code


@pytest.mark.parametrize("name", ["DRKIT_PASSWORD_FILE", "DRKIT_KEY_FILE", "GOOGLE_APPLICATION_CREDENTIALS"])
def test_a_file_with_a_secret_is_for_its_owner(cli: Cli, name: str) -> None:
    """Also where nobody else can enter its directory today."""
    secret = cli.home / "secret"
    secret.write_text("password")
    cli.home.chmod(0o700)
    cli.environ[name] = str(secret)

    def told() -> list[str]:
        findings = cli("doctor", "--json").json["findings"]
        return [finding["code"] for finding in findings if finding["object"] == str(secret)]

    for mode, expected in ((0o640, ["secret-readable"]), (0o604, ["secret-readable"]), (0o600, []), (0o400, [])):
        secret.chmod(mode)
        assert told() == expected, oct(mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_secret_of_somebody_else_is_none(cli: Cli) -> None:
    secret = cli.home / "secret"
    secret.write_text("password")
    secret.chmod(0o600)
    os.chown(secret, 12345, -1)
    with_secret = Surroundings(HOST, secrets=(bytes(secret),))
    assert [finding.code for finding in check_permissions(with_secret)] == ["secret-of-another"]


def test_a_damaged_inventory_is_a_finding(cli: Cli) -> None:
    for path in cli.home.glob("inventory.db*"):
        path.unlink()
    (cli.home / "inventory.db").write_bytes(b"no database at all\n" * 400)
    run = cli("doctor", "--json")
    assert "inventory-unreadable" in codes(run)
    assert run.json["checks"][-1] == "permissions"


def test_an_unreachable_turso_is_a_warning(cli: Cli) -> None:
    cli.environ["TURSO_DATABASE_URL"] = "http://127.0.0.1:9"
    run = cli("doctor", "--json")
    assert "turso-unreachable" in codes(run)
    assert run.code == 3


def test_a_source_that_is_gone(cli: Cli) -> None:
    (cli.home / "source").rename(cli.home / "elsewhere")
    run = cli("doctor", "--json")
    assert codes(run) == USUAL - {"same-device"} | {"source-missing"}
    [finding] = [finding for finding in run.json["findings"] if finding["code"] == "source-missing"]
    assert finding["repair"] == f"if it is lost: drkit restore latest --target {cli.home / 'source'}"


def test_a_newer_repository_is_not_written_to(cli: Cli) -> None:
    store = open_store(str(cli.home / "repository"))
    newer = structs.replace(Repository.open(store).config, format=FormatVersion(minor=9))
    for name in ("drkit.json", "drkit-copy.json"):
        store.put(name, settings.encode(newer), overwrite=True)
    run = cli("doctor", "--json")
    assert "newer-format" in codes(run)
    assert "store" not in run.json["checks"]


def test_every_code_is_documented() -> None:
    """Those that doctor makes itself, and those of the modules that it asks."""
    root = Path(__file__).parent.parent
    modules = [*root.glob("drkit/doctor/*.py"), *root.glob("drkit/inventory/a*.py")]
    modules += [root / "drkit/repo" / name for name in ("repository.py", "opening.py", "index.py", "parity.py")]
    made = set()
    for module in modules:
        text = module.read_text(encoding="utf-8")
        made |= set(re.findall(r'(?:Diagnosis|Finding)\(\s*"([a-z-]+)"', text))
    page = (root / "docs/doctor.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", "\n".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))))
    assert len(made) > 30
    assert made <= told
    unreadable = {f"{check}-unreadable" for check in ("repository", "store", "leftovers", "inventory")}
    computed = {"pack-missing", "pack-size", "readable-by-others", "writable-by-others"}
    computed |= {"store-races", "store-whole-objects", "secret-readable"} | RULE | {"rule-errors"}
    assert told - made == unreadable | computed


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


class LyingStore(MemoryStore):
    """A store that does one thing wrong."""

    def __init__(self, lie: str) -> None:
        super().__init__()
        self.lie = lie

    def put(self, name: str, data: Any, *, overwrite: bool = False) -> None:
        if self.lie == "refuses":
            raise StoreError("the store refuses to write")
        super().put(name, data, overwrite=overwrite or self.lie == "overwrites")

    def get(self, name: str) -> bytes:
        data = super().get(name)
        return data[:-1] + b"x" if self.lie == "changes" else data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return super().get_range(name, 0 if self.lie == "ignores ranges" else offset, length)

    def stat(self, name: str) -> ObjectInfo:
        info = super().stat(name)
        return ObjectInfo(name, info.size, info.modified + 3600) if self.lie == "other clock" else info

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        return iter(()) if self.lie == "lists late" else super().list(prefix, after=after)

    def delete(self, name: str) -> None:
        if self.lie != "keeps":
            super().delete(name)


@pytest.mark.parametrize(
    ("lie", "code", "exit_code"),
    [
        ("refuses", "store-not-writable", 13),
        ("overwrites", "store-overwrites", 3),
        ("changes", "store-broken", 20),
        ("ignores ranges", "store-broken", 20),
        ("lists late", "store-broken", 20),
        ("keeps", "store-broken", 20),
        ("other clock", "clock-differs", 3),
    ],
)
def test_a_store_that_lies(lie: str, code: str, exit_code: int) -> None:
    report = examine_store(LyingStore(lie), now=utc_now)
    assert code in {finding.code for finding in report.findings}
    assert report.exit == exit_code
    assert not report.ok


def test_a_good_store_has_no_finding(cli: Cli) -> None:
    assert examine_store(MemoryStore(), now=utc_now).findings == ()
    run = cli("doctor", "--store", "repository", "--json")
    answer = run.json
    abilities = answer.pop("abilities")
    assert answer == {"ok": True, "checks": ["store"], "findings": [], "rule": []}
    assert {one["name"] for one in abilities} > {"create", "ranges", "lists", "delete"}
    assert all(one["ok"] and one["says"] for one in abilities)
    assert "yes  conditional create: of several writers" in cli("doctor", "--store", "repository").text
    assert run.code == 0
    assert cli("doctor", "--store", "nowhere").code == 13


def test_the_worst_comes_first() -> None:
    from drkit.doctor.report import report

    findings = [Diagnosis("a", "o", "m", "r", 0), Diagnosis("b", "o", "m", "r", 20), Diagnosis("c", "o", "m", "r", 3)]
    summed = report(["x"], [*findings, findings[0]])
    assert [finding.code for finding in summed.findings] == ["b", "c", "a"]
    assert (summed.ok, summed.exit) == (False, 20)
    assert report(["x"], findings[:1]).ok
    assert [finding.severity for finding in summed.findings] == ["error", "warning", "advice"]


def test_ages_are_said_in_words() -> None:
    spans = [timedelta(seconds=1), timedelta(minutes=2), timedelta(hours=3, minutes=59), timedelta(days=1)]
    assert [age(span) for span in spans] == ["1 second", "2 minutes", "3 hours", "1 day"]


def test_surroundings_that_are_not_there_are_no_finding(tmp_path: Path) -> None:
    missing = os.fsencode(tmp_path / "missing")
    assert list(check_permissions(Surroundings(HOST, (missing,), (missing,), (missing,)))) == []


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
