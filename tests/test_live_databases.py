"""SQLite databases in a source that are live: they come back whole."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from drkit.backup import BackupOptions, live
from drkit.backup.live import InUse
from drkit.errors import StoreError
from tests.support.ahead import ahead_or_alone  # noqa: F401 - every test here runs both ways
from tests.support.databases import ROWS, Place, numbers, writer
from tests.support.trees import snapshot_tree


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class TestLive:
    @pytest.mark.parametrize("mode", ["wal", "delete", "persist", "truncate"])
    def test_a_backup_under_writes_shows_no_half_transaction(self, place: Place, mode: str) -> None:
        with writer(place.source / "a.db", mode, "write") as process:
            lasts = []
            for _ in range(6):
                report = place.back_up()
                assert not report.warnings
                names = set(place.entries())
                if b"a.db" in place.live():
                    assert names == {b"README.md", b"a.db"}
                lasts.append(numbers(place.restore() / "a.db")[-1])
            assert lasts == sorted(lasts)
            assert lasts[-1] > lasts[0]
            process.communicate(b"stop", timeout=60)
        assert numbers(place.source / "a.db")[-1] >= lasts[-1]
        assert set(os.listdir(place.source)) - {"a.db-journal"} == {"README.md", "a.db"}

    def test_a_large_one_under_writes(self, place: Place) -> None:
        with closing(sqlite3.connect(place.source / "a.db")) as db:
            db.execute("CREATE TABLE filler AS SELECT randomblob(5000000)")
        with writer(place.source / "a.db", "delete", "write"):
            for _ in range(3):
                assert not place.back_up().warnings
                assert len(place.entries()[b"a.db"].blobs) > 1
                assert numbers(place.restore() / "a.db")

    def test_the_last_to_leave_clears_the_log_away(self, place: Place) -> None:
        """Where the owner leaves while its database is read."""
        with writer(place.source / "a.db", "wal", "hold") as process:
            busy = live.is_open

            def then_leave(full: bytes) -> bool:
                answer = busy(full)
                process.communicate(b"stop", timeout=60)
                return answer

            with mock.patch.object(live, "is_open", then_leave):
                assert not place.back_up().warnings
        assert sorted(os.listdir(place.source)) == ["README.md", "a.db"]
        assert numbers(place.restore() / "a.db")[-1] >= 49

    def test_the_owner_leaves_while_it_is_read(self, place: Place) -> None:
        connect = sqlite3.connect
        with writer(place.source / "a.db", "wal", "hold") as process:

            class Leaving(sqlite3.Connection):
                def backup(self, *arguments: Any, **more: Any) -> None:
                    process.communicate(b"stop", timeout=60)
                    super().backup(*arguments, **more)

            with mock.patch("sqlite3.connect", lambda *args, **more: connect(*args, **more, factory=Leaving)):
                assert not place.back_up().warnings
        assert process.returncode == 0
        assert sorted(os.listdir(place.source)) == ["README.md", "a.db"]
        assert numbers(place.restore() / "a.db")[-1] == 49

    def test_what_only_the_log_holds_is_stored_and_the_log_is_not(self, place: Place) -> None:
        with writer(place.source / "a.db", "wal", "hold"):
            before = snapshot_tree(place.source)
            place.back_up()
            assert snapshot_tree(place.source).keys() == before.keys()
            assert place.entries().keys() == {b"README.md", b"a.db"}
            assert place.live() == {b"a.db"}
            target = place.restore()
            assert sorted(os.listdir(target)) == ["README.md", "a.db"]
            assert numbers(target / "a.db")[-1] == 49

    def test_the_file_keeps_its_mode_owner_and_time(self, place: Place) -> None:
        with writer(place.source / "a.db", "wal", "hold"):
            os.chmod(place.source / "a.db", 0o640)
            os.utime(place.source / "a.db", ns=(0, 1_500_000_000_123_456_789))
            place.back_up()
        status = os.stat(place.restore() / "a.db")
        assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o640, 1_500_000_000_123_456_789)

    @pytest.mark.parametrize("mode", ["delete", "persist"])
    def test_an_open_transaction_is_left_out(self, place: Place, mode: str) -> None:
        with writer(place.source / "a.db", mode, "begun"):
            assert (place.source / "a.db-journal").stat().st_size > 0
            assert not place.back_up().warnings
            assert place.live() == {b"a.db"}
        assert numbers(place.restore() / "a.db")[-1] == 49

    @pytest.mark.parametrize(("mode", "beside"), [("wal", "-wal"), ("delete", "-journal")])
    def test_what_a_killed_writer_left_is_read_without_touching_it(self, place: Place, mode: str, beside: str) -> None:
        with writer(place.source / "a.db", mode, "half") as process:
            process.kill()
        (place.source / "a.db-shm").unlink(missing_ok=True)
        assert (place.source / f"a.db{beside}").stat().st_size > 0
        before = snapshot_tree(place.source)
        assert not place.back_up().warnings
        assert snapshot_tree(place.source) == before
        assert place.live() == {b"a.db"}
        target = place.restore()
        assert sorted(os.listdir(target)) == ["README.md", "a.db"]
        assert numbers(target / "a.db")[-1] == 49

    def test_the_same_content_is_stored_once(self, place: Place) -> None:
        with writer(place.source / "a.db", "wal", "hold"):
            first = place.back_up()
            again = place.back_up()
        assert again.tree_sha256 == first.tree_sha256
        assert again.bytes_added < 4096
        assert again.files_unchanged == 2

    def test_a_large_one(self, place: Place) -> None:
        with closing(sqlite3.connect(place.source / "a.db", isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE pairs (number INTEGER, padding BLOB)")
            db.executemany(
                "INSERT INTO pairs VALUES (?, randomblob(200000))", [(n,) for n in range(3) for _ in range(ROWS)]
            )
            place.back_up()
            assert place.live() == {b"a.db"}
            assert len(place.entries()[b"a.db"].blobs) > 1
            assert numbers(place.restore() / "a.db") == [0, 1, 2]

    def test_names_that_are_no_text_or_mean_something_in_a_url(self, place: Place) -> None:
        source = os.fsencode(place.source)
        names = [b"a\xff.db", b"a?mode=memory", b"a#b%20c", b"a b"]
        with writer(place.source / "a.db", "wal", "half") as process:
            process.kill()
        for name in names:
            for suffix in (b"", b"-wal"):
                shutil.copy(source + b"/a.db" + suffix, source + b"/" + name + suffix)
        assert not place.back_up().warnings
        assert place.live() == {b"a.db", *names}
        target = place.restore()
        for name in names:
            assert numbers(target / os.fsdecode(name))[-1] == 49

    @pytest.mark.parametrize("mode", ["wal", "delete"])
    def test_one_that_lets_nobody_in_but_holds_still(self, place: Place, mode: str) -> None:
        job = "exclusive" if mode == "wal" else "half"
        with writer(place.source / "a.db", mode, job), mock.patch.object(live, "_WAITS", 3):
            before = snapshot_tree(place.source)
            assert not place.back_up().warnings
            assert snapshot_tree(place.source) == before
        assert place.live() == {b"a.db"}
        assert numbers(place.restore() / "a.db")[-1] == (50 if mode == "wal" else 49)

    def test_a_half_transaction_that_nothing_could_undo_is_not_taken_for_a_whole_one(self, place: Place) -> None:
        with writer(place.source / "a.db", "memory", "half"), mock.patch.object(live, "_WAITS", 3):
            assert sorted(os.listdir(place.source)) == ["README.md", "a.db"]
            report = place.back_up()
        assert len(report.warnings) == 1
        assert "locked" in report.warnings[0]
        assert not place.live()

    def test_one_that_never_lets_anybody_in_is_stored_as_bytes_with_a_warning(self, place: Place) -> None:
        with (
            writer(place.source / "a.db", "wal", "exclusive"),
            mock.patch.object(live, "_WAITS", 3),
            mock.patch.object(live, "_equal", return_value=False),  # as if it wrote all the time
        ):
            report = place.back_up()
        assert len(report.warnings) == 1
        assert "locked" in report.warnings[0]
        assert not place.live()
        assert {b"a.db", b"a.db-wal"} <= place.entries().keys()
        assert numbers(place.restore() / "a.db")[-1] == 50


class TestInUse:
    """The inventory that this process has open: `db` stands for its connection."""

    @pytest.fixture
    def db(self, place: Place) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(place.source / "inventory.db", isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE pairs (number INTEGER, padding TEXT)")
            db.executemany("INSERT INTO pairs VALUES (?, 'x')", [(1,)] * ROWS)
            yield db

    @pytest.fixture
    def in_use(self, place: Place, db: sqlite3.Connection) -> InUse:
        def dump(path: bytes) -> None:
            db.execute("VACUUM INTO ?", (os.fsdecode(path),))

        return InUse(os.fsencode(place.source / "inventory.db"), dump)

    def test_it_is_dumped_and_none_of_its_files_is_opened(
        self, place: Place, in_use: InUse, db: sqlite3.Connection
    ) -> None:
        with no_opening("inventory.db"):
            assert not place.back_up(in_use=[in_use]).warnings
            db.executemany("INSERT INTO pairs VALUES (?, 'x')", [(2,)] * ROWS)
            assert not place.back_up(in_use=[in_use]).warnings
        assert place.entries().keys() == {b"README.md", b"inventory.db"}
        assert place.live() == {b"inventory.db"}
        assert numbers(place.restore() / "inventory.db") == [1, 2]

    def test_it_is_known_by_its_inode_under_any_name(self, place: Place, in_use: InUse) -> None:
        os.link(place.source / "inventory.db", place.source / "another name")
        with no_opening("inventory.db", "another name"):
            place.back_up(in_use=[in_use])
        assert place.live() == {b"inventory.db", b"another name"}

    def test_its_log_is_not_opened_where_it_is_excluded_itself(self, place: Place, in_use: InUse) -> None:
        link = os.fsencode(place.path / "link")
        os.symlink(in_use.path, link)
        with no_opening("inventory.db"):
            place.back_up(in_use=[InUse(link, in_use.dump)], options=BackupOptions(excludes=("inventory.db",)))
        assert place.entries().keys() == {b"README.md"}

    def test_where_it_cannot_be_dumped_it_is_missing_with_a_warning(self, place: Place, in_use: InUse) -> None:
        def fail(path: bytes) -> None:
            raise StoreError("the disk is full")

        with no_opening("inventory.db"):
            report = place.back_up(in_use=[InUse(in_use.path, fail)])
        assert len(report.warnings) == 1
        assert "the disk is full" in report.warnings[0]
        assert place.entries().keys() == {b"README.md"}


@contextmanager
def no_opening(*names: str) -> Iterator[None]:
    """Fail if a file whose name begins like this is opened."""
    real = os.open

    def guard(path: Any, *rest: Any, **more: Any) -> int:
        base = os.fsdecode(os.path.basename(os.fspath(path)))
        assert not base.startswith(names), f"{base} was opened"
        return real(path, *rest, **more)

    with mock.patch("os.open", guard):
        yield
