"""Repair by the command line: of two stores, and of what is lost for good."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from drkit.errors import IntegrityError
from drkit.store import LocalStore
from tests.support.cli import Cli
from tests.support.repairing import flip_all_over
from tests.support.repos import Bench


def restored(cli: Cli, repo: Path, target: Path) -> str:
    run = cli("restore", "latest", "--repo", str(repo), "--target", str(target), "--json")
    assert run.code == 0, run
    assert run.json["lost"] == []
    tree: str = run.json["tree_sha256"]
    return tree


@pytest.mark.parametrize("seed", range(3))
def test_two_stores_one_destroyed_one_with_random_flips(tmp_path: Path, seed: int) -> None:
    """The damage heals from the store that is whole; then the destroyed one comes back from what was healed."""
    bench = Bench(tmp_path, LocalStore(str(tmp_path / "one")))
    for number in range(10):
        bench.plugin(f"plugins/p{number}")
    bench.write("large.bin", os.urandom(3 << 20))
    cli = Cli(tmp_path, DRKIT_REPO=str(tmp_path / "one"))
    made = cli("backup", str(bench.source), "--json").json
    for name in ("two", "three"):
        assert cli("copy", "--to", str(tmp_path / name)).code == 0
    assert flip_all_over(tmp_path / "one", random.Random(seed), share=0.6) > 0
    remove = [path for path in (tmp_path / "two").rglob("*") if path.is_file()]
    for path in remove:
        path.unlink()
    first = cli("repair", "--from", str(tmp_path / "three"), "--json")
    assert first.code == 0, first
    assert first.json["ok"]
    second = cli("repair", "--repo", str(tmp_path / "two"), "--from", str(tmp_path / "one"))
    assert second.code == 0, second
    for name in ("one", "two"):
        assert cli("verify", "--all", "--level", "restore", "--repo", str(tmp_path / name)).code == 0
        assert restored(cli, tmp_path / name, tmp_path / f"back-{name}") == made["tree_sha256"]


def test_the_command_names_what_is_lost(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LocalStore(str(tmp_path / "repo")))
    bench.plugin("plugins/a")
    bench.write("plugins/a/alone.bin", os.urandom(3 << 20))
    cli = Cli(tmp_path, DRKIT_REPO=str(tmp_path / "repo"))
    assert cli("backup", str(bench.source)).code == 0
    largest = max((tmp_path / "repo/packs").rglob("*.zst"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.chmod(0o600)
    largest.write_bytes(data)
    planned = cli("repair", "--dry-run", "--json")
    assert planned.code == IntegrityError.code
    assert largest.exists()
    done = cli("repair", "--json")
    assert done.code == IntegrityError.code
    assert [one["object"].split(" ", 1)[1] for one in done.json["lost"]] == ["plugins/a/alone.bin"]
    assert not largest.exists()
    assert (tmp_path / "repo" / done.json["quarantined"][-1]).read_bytes() == bytes(data)
    text = cli("repair")
    assert text.code == IntegrityError.code
    assert "plugins/a/alone.bin" in text.text
    assert cli("backup", str(bench.source)).code == 0
    assert cli("repair").code == 0
