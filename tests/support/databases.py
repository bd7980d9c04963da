"""SQLite databases that another process writes, and a place to back them up."""

from __future__ import annotations

import os
import select
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from drkit.backup import BackupOptions, BackupReport, backup
from drkit.clock import utc_now
from drkit.model import Entry
from drkit.progress import NullProgress
from drkit.repo import Repository
from drkit.restore import restore_tree
from drkit.store.memory import MemoryStore

ROWS = 20
_WRITER = f"""
import select, sqlite3, sys, time

path, mode, job = sys.argv[1:]
db = sqlite3.connect(path, isolation_level=None, timeout=60)
db.execute(f"PRAGMA journal_mode={{mode}}")
db.execute("PRAGMA cache_size=5")
db.execute("CREATE TABLE IF NOT EXISTS pairs (number INTEGER, padding TEXT)")
db.execute("CREATE INDEX IF NOT EXISTS by_number ON pairs (number)")


def transaction(number, commit=True, spill=True):
    db.execute(f"PRAGMA cache_spill={{5 if spill else 0}}")  # whether pages are written before the end
    db.execute("BEGIN IMMEDIATE")
    for _ in range({ROWS}):
        db.execute("INSERT INTO pairs VALUES (?, ?)", (number, "x" * 500))
    db.execute("DELETE FROM pairs WHERE number < ?", (number - 20,))
    if commit:
        db.execute("COMMIT")


for number in range(50):
    transaction(number)
if job == "begun":
    transaction(50, commit=False, spill=False)
if job == "half":
    transaction(50, commit=False)
if job == "exclusive":
    db.execute("PRAGMA locking_mode=EXCLUSIVE")
    transaction(50)
print("ready", flush=True)
end = time.monotonic() + 60
number = 50
while time.monotonic() < end and not select.select([sys.stdin], [], [], 0 if job == "write" else 60)[0]:
    number += 1
    transaction(number)
"""


@contextmanager
def writer(path: Path, mode: str, job: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that fills a database, then does a job until the block ends or it is killed.

    Jobs: `write` on and on, `hold` the connection, leave a transaction `begun` or `half` written, keep it `exclusive`.
    """
    command = [sys.executable, "-c", _WRITER, str(path), mode, job]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            assert select.select([process.stdout], [], [], 60)[0], "the writer is not ready"
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


class Place:
    """A source, a repository in memory and a stat cache."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = path / "source"
        self.source.mkdir()
        (self.source / "README.md").write_bytes(b"hello\n")
        self.scratch = path / "scratch"
        self.scratch.mkdir()
        self.repo = Repository.create(MemoryStore(), now=utc_now())
        self.restored = 0

    def back_up(self, **more: Any) -> BackupReport:
        with mock.patch("tempfile.tempdir", str(self.scratch)):
            report = backup(
                self.repo,
                os.fsencode(self.source),
                **{"options": BackupOptions(), **more},
                progress=NullProgress(),
                now=utc_now,
                cache_dir=os.fsencode(self.path / "cache"),
            )
        assert not os.listdir(self.scratch)
        return report

    def entries(self) -> dict[bytes, Entry]:
        segments = self.repo.segments(self.repo.load(self.repo.resolve("latest")))
        return {entry.raw_path: entry for segment in segments for entry in segment.entries}

    def live(self) -> set[bytes]:
        return {path for path, entry in self.entries().items() if entry.live}

    def restore(self) -> Path:
        self.restored += 1
        target = self.path / f"restored-{self.restored}"
        report = restore_tree(self.repo, self.repo.resolve("latest"), os.fsencode(target), progress=NullProgress())
        assert not report.lost
        return target


def numbers(path: Path) -> list[int]:
    """Return what a database holds, and see that it is whole and shows no half transaction."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = db.execute("SELECT number, count(*) FROM pairs GROUP BY number ORDER BY number").fetchall()
    assert {count for _, count in found} == {ROWS}
    return [number for number, _ in found]
