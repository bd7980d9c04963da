"""Several machines and one bucket: four backups at once with a prune in between, again and again, all of it whole."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drkit.repo import Repository
from drkit.store import open_store
from tests.support.hrana import TOKEN, serving
from tests.support.pruning import NOTHING_UNUSED, check_all, keep_last, run_prune
from tests.support.repos import names
from tests.support.servers import Servers

ROOT = Path(__file__).parent.parent
MACHINES = 4
ROUNDS = 3


@contextmanager
def place(kind: str, path: Path, servers: Callable[[], Servers]) -> Iterator[tuple[str, dict[str, str]]]:
    """The URL of an empty store that several processes may use, and what the environment needs for it."""
    if kind == "turso":
        with serving(path / "turso.db") as server, pytest.MonkeyPatch.context() as patch:
            environ = {"TURSO_DATABASE_URL": server.url, "TURSO_AUTH_TOKEN": TOKEN}
            for name, value in environ.items():
                patch.setenv(name, value)
            yield "turso:", environ
    elif kind in {"local", "libsql-file"}:
        yield f"libsql-file:{path}/store.db" if kind == "libsql-file" else str(path / "store"), {}
    else:
        yield servers().url(kind), {name: value for name, value in os.environ.items() if "_" in name}


@pytest.mark.parametrize("kind", ["local", "libsql-file", "turso", "s3", "gcs", "azure"])
def test_four_backups_at_once_with_a_prune_in_between(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    """Four machines share much of what they have; another one forgets and prunes all the time. Each is a process."""
    chance = random.Random(5)
    shared = [chance.randbytes(4000) for _ in range(12)]
    with place(kind, tmp_path, lambda: request.getfixturevalue("servers")) as (url, environ):

        def start(machine: str, *args: str) -> subprocess.Popen[bytes]:
            home = {"XDG_DATA_HOME": f"{tmp_path}/{machine}/data", "XDG_CACHE_HOME": f"{tmp_path}/{machine}/cache"}
            outside = {name: value for name, value in os.environ.items() if not name.startswith(("DRKIT_", "TURSO_"))}
            return subprocess.Popen(
                [sys.executable, "-m", "drkit", "--repo", url, "--json", *args],
                cwd=ROOT,
                env={**outside, **environ, **home},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )

        assert ended(start("first", "init"))[0] == 0
        trees: dict[str, str] = {}
        for turn in range(ROUNDS):
            for machine in range(MACHINES):
                write(tmp_path / f"source{machine}", shared, turn, machine, chance)
            running = [start(f"m{machine}", "backup", f"{tmp_path}/source{machine}") for machine in range(MACHINES)]
            prunes = [start("pruner", "forget", "--keep-last", "1", "--prune") for _ in range(2 if turn else 0)]
            for one in running:
                code, out, err = ended(one)
                assert code == 0, (err, out)
                made = json.loads(out)
                trees[made["snapshot"]] = made["tree_sha256"]
            assert sorted(ended(one)[0] for one in prunes) in ([], [0, 0], [0, 11], [11, 11])
            store = open_store(url)
            repo = check_all(store)
            assert {repo.load(ref).tree_sha256 for ref in repo.snapshots()} <= set(trees.values())
            assert len({repo.load(ref).source for ref in repo.snapshots()}) == MACHINES
            store.close()
        store = open_store(url)
        assert len(keep_last(store, 1)) == MACHINES
        run_prune(store, NOTHING_UNUSED)
        repo = check_all(store)
        assert all(repo.load(ref).tree_sha256 == trees[ref.id] for ref in repo.snapshots())
        assert names(store, "locks/") == []
        assert run_prune(store, NOTHING_UNUSED, dry_run=True).unused_before == 0
        assert Repository.open(store).findings == []
        store.close()


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def write(source: Path, shared: list[bytes], turn: int, machine: int, chance: random.Random) -> None:
    """Change a tree: files of others come and go, and some that nobody else has."""
    source.mkdir(exist_ok=True)
    for which in range(6):
        (source / f"shared{which}").write_bytes(shared[(which + turn * machine) % len(shared)])
    (source / f"own{turn}").write_bytes(chance.randbytes(20_000))
    if turn:
        (source / f"own{turn - 1}").unlink()
