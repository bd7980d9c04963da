"""Two stores and nothing else: one is destroyed, the other has wrong bits all over. Everything comes back."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.support.repairing import flip_all_over
from tests.support.repos import Bench


@pytest.mark.parametrize("seed", range(4))
def test_one_destroyed_the_other_full_of_flips(tmp_path: Path, seed: int) -> None:
    """Parity heals what is left, and what is healed fills a new place: the source, caches and inventory are gone."""
    pytest.importorskip("zfec")
    bench = Bench(tmp_path)
    for number in range(10):
        bench.plugin(f"plugins/p{number}")
    bench.write("large.bin", os.urandom(3 << 20))
    cli = Cli(tmp_path, DRKIT_REPO=str(tmp_path / "one"))
    cli.ok("init", "--parity", "8+4")
    trees = []
    for night in range(3):
        bench.write("changing.md", b"%d" % night * 1000)
        trees.append(cli.ok("backup", str(bench.source), "--json").json["tree_sha256"])
    cli.ok("copy", "--to", str(tmp_path / "two"), "--verify", "content")
    files = bench.files()
    for lost in ("one", "source", "data", "cache"):
        shutil.rmtree(tmp_path / lost, ignore_errors=True)
    spare = "drkit-copy.json"  # of the two copies of the settings one stays
    assert flip_all_over(tmp_path / "two", random.Random(seed), share=0.7, spare=spare) > 5
    healed = cli("repair", "--repo", str(tmp_path / "two"), "--json")
    assert healed.code == 0, healed
    assert healed.json["ok"]
    cli.ok("repair", "--from", str(tmp_path / "two"))
    for place in ("one", "two"):
        proof = cli.ok("verify", "--all", "--level", "restore", "--repo", str(tmp_path / place), "--json").json
        assert len(proof["snapshots"]) == 3
        told = cli.ok("snapshots", "--repo", str(tmp_path / place), "--json").json["snapshots"]
        assert [one["tree_sha256"] for one in told] == trees
        back = tmp_path / f"back-{place}"
        cli.ok("restore", "latest", "--repo", str(tmp_path / place), "--target", str(back))
        found = [path for path in back.rglob("*") if path.is_file()]
        assert {os.fsencode(path.relative_to(back)): path.read_bytes() for path in found} == files
