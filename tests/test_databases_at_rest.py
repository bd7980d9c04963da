"""SQLite databases in a source that are at rest: they are files like any other, until something happens to them."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest

from drkit.backup import live
from tests.support.ahead import ahead_or_alone  # noqa: F401 - every test here runs both ways
from tests.support.databases import ROWS, Place, numbers
from tests.support.trees import snapshot_tree


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class TestAtRest:
    @pytest.fixture
    def at_rest(self, place: Place) -> Place:
        for name, mode in (("wal.db", "WAL"), ("old.db", "DELETE")):
            with closing(sqlite3.connect(place.source / name, isolation_level=None)) as db:
                db.execute(f"PRAGMA journal_mode={mode}")
                db.execute("CREATE TABLE pairs (number INTEGER, padding TEXT)")
                db.executemany("INSERT INTO pairs VALUES (?, 'x')", [(1,)] * ROWS)
        assert sorted(os.listdir(place.source)) == ["README.md", "old.db", "wal.db"]
        return place

    def test_it_is_copied_byte_for_byte_and_never_opened(self, at_rest: Place) -> None:
        before = snapshot_tree(at_rest.source)
        with mock.patch("sqlite3.connect", side_effect=AssertionError("opened")):
            assert not at_rest.back_up().warnings
        assert snapshot_tree(at_rest.source) == before
        assert snapshot_tree(at_rest.restore()) == before
        assert not at_rest.live()

    def test_empty_files_beside_it_change_nothing(self, at_rest: Place) -> None:
        for suffix in ("wal.db-wal", "old.db-journal"):
            (at_rest.source / suffix).touch()
        before = snapshot_tree(at_rest.source)
        at_rest.back_up()
        at_rest.back_up()
        assert snapshot_tree(at_rest.restore()) == before
        assert not at_rest.live()

    def test_other_files_with_such_names_are_stored_as_they_are(self, place: Place) -> None:
        for name in ("notes", "notes-wal", "notes-journal", "notes-shm", "empty-wal", "empty", "lone-journal"):
            (place.source / name).write_bytes(b"" if name == "empty" else name.encode())
        (place.source / "dir").mkdir()
        (place.source / "dir-wal").write_bytes(b"not of a directory")
        os.symlink("notes", place.source / "link")
        (place.source / "link-wal").write_bytes(b"not of a link")
        before = snapshot_tree(place.source)
        for _ in range(2):
            assert not place.back_up().warnings
            assert snapshot_tree(place.restore()) == before
        assert not place.live()

    def test_a_log_makes_it_live_though_its_own_stat_is_as_it_was(self, at_rest: Place) -> None:
        path = at_rest.source / "wal.db"
        old = 1_500_000_000_000_000_000
        os.utime(path, ns=(old, old))
        with mock.patch("drkit.backup.backup._SLACK_NS", -(10**18)):  # as if hours had passed
            at_rest.back_up()
            assert at_rest.back_up().files_unchanged == 3
            before = os.stat(path)
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                db.executemany("INSERT INTO pairs VALUES (2, ?)", [("y",)] * ROWS)
                after = os.stat(path)
                assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
                report = at_rest.back_up()
        assert report.files_unchanged == 2
        assert at_rest.live() == {b"wal.db"}
        assert numbers(at_rest.restore() / "wal.db") == [1, 2]
        at_rest.back_up()
        assert not at_rest.live()

    def test_a_log_that_begins_after_its_database_was_read_is_left_out(self, at_rest: Place) -> None:
        path = at_rest.source / "wal.db"
        (at_rest.source / "wal.db-wal").touch()
        rests = live.Databases.rests
        opened: list[sqlite3.Connection] = []

        def then_write(self: live.Databases, read: bytes, header: bytes) -> bool:
            answer = rests(self, read, header)
            if read == b"wal.db":
                db = sqlite3.connect(path, isolation_level=None)
                db.executemany("INSERT INTO pairs VALUES (2, ?)", [("y",)] * ROWS)
                opened.append(db)
            return answer

        with mock.patch.object(live.Databases, "rests", then_write):
            assert not at_rest.back_up().warnings
        assert len(opened) == 1
        opened[0].close()
        assert b"wal.db-wal" not in at_rest.entries()
        assert numbers(at_rest.restore() / "wal.db") == [1]

    def test_a_transaction_between_two_readings_of_one_tick_is_noticed(self, at_rest: Place) -> None:
        path = at_rest.source / "old.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            read = live.Databases.rests
            seen: list[bytes] = []

            def write_first(self: live.Databases, name: bytes, header: bytes) -> bool:
                if name == b"old.db" and not seen:
                    seen.append(name)
                    db.executemany("INSERT INTO pairs VALUES (2, ?)", [("y",)])
                    db.executemany("INSERT INTO pairs VALUES (2, ?)", [("y",)] * (ROWS - 1))
                return read(self, name, header)

            with mock.patch.object(live.Databases, "rests", write_first):
                at_rest.back_up()
        assert seen
        assert at_rest.live() == {b"old.db"}
        assert numbers(at_rest.restore() / "old.db") == [1, 2]
