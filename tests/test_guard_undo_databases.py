"""Databases that a command wrote are put back, whoever has them open."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from drkit.guard.look import unchanged
from tests.support.guarding import Guarded, state_dir
from tests.support.undoing import Scene

__all__ = ["state_dir"]


@contextmanager
def database(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        opened.execute(f"PRAGMA journal_mode={mode}")
        opened.execute("PRAGMA wal_autocheckpoint=0")
        yield opened


def rows(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return opened.execute("SELECT value FROM t ORDER BY value").fetchall()


@pytest.fixture
def with_database(tmp_path: Path) -> Iterator[Scene]:
    guarded = Guarded(tmp_path / "home")
    guarded.plugin("plugins/one")
    with database(guarded.source / "plugins/one/data.db", "wal") as opened:
        opened.execute("CREATE TABLE t (value)")
        opened.execute("INSERT INTO t VALUES (1)")
    yield Scene(guarded.root, guarded.site())
    guarded.close()


def killed_writer(path: Path) -> None:
    """Leave a database with a log beside it, as one whose writer was killed."""
    with tempfile.TemporaryDirectory() as aside, database(path, "wal") as opened:
        opened.execute("INSERT INTO t VALUES (2)")
        for suffix in ("", "-wal", "-shm"):
            shutil.copy(f"{path}{suffix}", Path(aside) / f"copy{suffix}")
        opened.close()
        for suffix in ("", "-wal", "-shm"):
            shutil.copy(Path(aside) / f"copy{suffix}", f"{path}{suffix}")


def test_a_database_that_a_killed_command_left_is_put_back_without_its_log(with_database: Scene) -> None:
    path = with_database.source / "plugins/one/data.db"
    killed_writer(path)
    assert Path(f"{path}-wal").stat().st_size > 0
    assert with_database.undo() == ()
    with_database.is_back()
    assert rows(path) == [(1,)]


_OTHER = """
import json, sqlite3, sys
opened = sqlite3.connect(sys.argv[1], isolation_level=None)
opened.execute("PRAGMA journal_mode=wal")
for line in sys.stdin:
    print(json.dumps(opened.execute(line).fetchall()), flush=True)
"""


class Other:
    """A process that has a database open: to be in this one would change who holds which locks."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _OTHER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Callable[[str], Any]:
        return self.ask

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, statement: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(statement + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def test_a_database_that_somebody_has_open_sees_what_is_put_back(with_database: Scene) -> None:
    path = with_database.source / "plugins/one/data.db"
    with Other(path) as other:
        assert other("SELECT value FROM t") == [[1]]
        with Other(path) as command:
            command("INSERT INTO t VALUES (2)")
        assert with_database.undo() == ()
        assert other("SELECT value FROM t") == [[1]]
        other("INSERT INTO t VALUES (3)")
    assert rows(path) == [(1,), (3,)]


def test_a_database_that_was_in_use_before_is_put_back(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path / "home")
    guarded.plugin("plugins/one")
    path = guarded.source / "plugins/one/data.db"
    with Other(path) as other:
        other("CREATE TABLE t (value)")
        other("INSERT INTO t VALUES (1)")
        scene = Scene(guarded.root, guarded.site())
        assert unchanged(scene.site, scene.before)
        assert scene.undo() == ()
        assert scene.changed == []
        other("INSERT INTO t VALUES (2)")
        assert scene.undo() == ()
        assert scene.changed == [b"plugins/one/data.db"]
        assert other("SELECT value FROM t") == [[1]]
    assert rows(path) == [(1,)]
    guarded.close()
