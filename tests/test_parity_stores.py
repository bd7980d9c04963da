"""Parity wherever a repository lies: what is damaged in a store of any kind comes back, encrypted or not."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.support.repos import Bench


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_damaged_row_of_a_database(tmp_path: Path, *, encrypted: bool) -> None:
    """It is restored with the damage as it is, and healed."""
    bench = Bench(tmp_path)
    bench.plugin("plugins/a")
    bench.write("plugins/a/noise.bin", hashlib.shake_256(b"noise").digest(300_000))
    database = tmp_path / "repo.db"
    password = {"DRKIT_PASSWORD": "four words and more"} if encrypted else {}
    cli = Cli(tmp_path, DRKIT_REPO=f"libsql-file:{database}", **password)
    init = cli("init", "--parity", "8+2", *(["--encrypt"] if encrypted else []))
    assert init.code == 0, init
    made = cli("backup", str(bench.source), "--json").json
    with sqlite3.connect(database) as connection:
        query = "SELECT name, n, data FROM chunks WHERE name LIKE 'packs/%' OR name LIKE 'snapshots/%'"
        for name, number, data in connection.execute(query).fetchall():
            bad = bytearray(data)
            bad[100] ^= 1
            connection.execute("UPDATE chunks SET data = ? WHERE name = ? AND n = ?", (bytes(bad), name, number))
    connection.close()
    assert cli("verify", "--level", "content").code == 20
    for target in ("before", "after"):
        back = cli("restore", "latest", "--target", str(tmp_path / target), "--json")
        assert back.code == (3 if target == "before" else 0), back  # a warning says what to do
        assert back.json["tree_sha256"] == made["tree_sha256"]
        healed = cli("repair", "--json").json["healed"]
        assert sorted(one["object"].split("/")[0] for one in healed) == ["packs", "snapshots"] * (target == "before")
    assert cli("verify", "--level", "restore").code == 0
