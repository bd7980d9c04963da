"""Doctor finds each thing that would stand in the way of a recovery, and nothing where there is nothing."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec import structs

from drkit.clock import utc_now
from drkit.doctor import Diagnosis, Surroundings
from drkit.doctor.permissions import check_permissions
from drkit.doctor.report import age
from drkit.format import settings
from drkit.inventory import Inventory
from drkit.model import FormatVersion
from drkit.repo import Repository
from drkit.store import open_store
from tests.support.cli import Cli
from tests.support.examining import RULE, USUAL, beside_its_source, codes, found, prove

HOST = socket.gethostname()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return beside_its_source(tmp_path)


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
