"""A database as a store: its limits, cut connections, kills, and what is left of them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from drkit.errors import ObjectExists, ObjectNotFound, StoreCorrupt, StoreError, UsageError
from drkit.hrana import Hrana as Client
from drkit.store import open_store
from drkit.store.database import FileDatabase, Server, open_database
from drkit.store.turso import LibsqlStore, Limits
from tests.support.cli import Cli
from tests.support.hrana import TOKEN, Hrana, serving

ROOT = Path(__file__).parent.parent
SMALL = Limits(row=1000, request=2500)
LARGE = bytes(range(256)) * 40  # 10,240 bytes: 11 rows, 6 requests


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hrana]:
    with serving(tmp_path / "turso.db") as server:
        yield server


def connected(server: Hrana, limits: Limits = SMALL, token: str = TOKEN) -> LibsqlStore:
    def connect() -> Client:
        client = Client(server.url, token, hint="try again", timeout=5)
        server.clients.append(client)
        return client

    return LibsqlStore(Server("turso://here", connect, in_flight=1, sleep=lambda _seconds: None), limits)


@pytest.fixture
def store(server: Hrana) -> LibsqlStore:
    store = connected(server)
    store.prepare()
    return store


def rows(server: Hrana) -> list[tuple[str, int, int]]:
    with closing(sqlite3.connect(server.path)) as connection:
        return connection.execute("SELECT name, n, length(data) FROM chunks ORDER BY 1, sha256, 2").fetchall()


def change(server: Hrana, sql: str) -> None:
    with closing(sqlite3.connect(server.path)) as connection, connection:
        assert connection.execute(sql).rowcount > 0


def test_rows_and_requests_keep_to_the_limits(server: Hrana, store: LibsqlStore) -> None:
    before = server.requests
    store.put("packs/aa/x", LARGE)
    assert server.requests - before == 6  # a look, and 11 rows in five requests
    assert [length for _, _, length in rows(server)] == [1000] * 10 + [240]
    assert server.largest[0] < 2500 * 4 / 3 + 2500
    before = server.requests
    assert store.get("packs/aa/x") == LARGE
    assert server.requests - before == 5
    assert store.get_range("packs/aa/x", 990, 1020) == LARGE[990:2010]
    before = server.requests
    store.put("packs/aa/small", LARGE[:2500])
    assert store.get("packs/aa/small") == LARGE[:2500]
    assert server.requests - before == 2


def test_the_limits_of_the_format_are_the_defaults(server: Hrana) -> None:
    store = connected(server, Limits())
    store.prepare()
    data = os.urandom((3 << 20) + 1)
    store.put("packs/aa/x", data)
    assert [length for _, _, length in rows(server)] == [1 << 20] * 3 + [1]
    assert store.get("packs/aa/x") == data
    assert max(server.largest) < (2 << 20) * 4 / 3 + 8192


def test_what_the_server_calls_too_large_is_halved(server: Hrana) -> None:
    store = connected(server, Limits(row=32_000, request=64_000))
    store.prepare()
    data = os.urandom(100_000)
    server.request_max = 20_000
    store.put("packs/aa/x", data)
    assert max(length for _, _, length in rows(server)) == 8_000
    server.request_max = 1 << 30
    other = connected(server, Limits(row=32_000, request=64_000))
    server.answer_max = 10_000
    assert other.get("packs/aa/x") == data
    assert other.get_range("packs/aa/x", 500, 50_000) == data[500:50_500]
    server.answer_max = 1000
    with pytest.raises(StoreError, match="too large"):
        connected(server, Limits(row=32_000, request=64_000)).get("packs/aa/x")


@pytest.mark.parametrize("kind", ["cut", "lost", "500", "expired"])
def test_a_connection_may_break_at_every_request(tmp_path: Path, kind: str) -> None:
    """Each call is done exactly once, whichever of its requests is cut off, before or after it was carried out."""
    for number in range(40):
        with serving(tmp_path / f"{number}.db") as server:
            store = connected(server)
            server.fail(kind, after=number)
            store.prepare()
            store.put("packs/aa/x", LARGE)
            store.put("locks/a", b"1")
            with pytest.raises(ObjectExists):
                store.put("locks/a", b"2")
            store.put("locks/a", b"3", overwrite=True)
            assert store.get("packs/aa/x") == LARGE
            assert store.get_range("packs/aa/x", 2000, 5000) == LARGE[2000:7000]
            assert store.get("locks/a") == b"3"
            assert [info.size for info in store.list("")] == [1, len(LARGE)]
            store.delete("locks/a")
            assert [info.name for info in store.list("")] == ["packs/aa/x"]
            assert len(rows(server)) == 11
            if not server.hit:
                break
    else:
        pytest.fail("the calls took more requests than were cut")
    assert number > 20


def test_a_server_that_stays_away_is_an_error_without_the_token(server: Hrana, store: LibsqlStore) -> None:
    server.fail("cut", times=20)
    with pytest.raises(StoreError) as caught:
        store.get("a")
    assert TOKEN not in str(caught.value)
    assert caught.value.hint


def test_refused_tokens_and_full_databases_are_errors(server: Hrana, store: LibsqlStore) -> None:
    with pytest.raises(StoreError, match="refuses the token"):
        connected(server, token="wrong").delete("a")
    store.put("a", b"1")
    server.fail("full", times=9)
    with pytest.raises(StoreError, match="full"):
        store.put("b", LARGE)
    server.faults.clear()
    assert [info.name for info in store.list("")] == ["a"]


def test_a_cut_off_put_is_invisible_and_resumed(server: Hrana, store: LibsqlStore) -> None:
    server.fail("cut", after=3, times=4)
    with pytest.raises(StoreError):
        store.put("packs/aa/x", LARGE)
    assert len(rows(server)) == 4
    assert list(store.list("")) == []
    with pytest.raises(ObjectNotFound):
        store.get("packs/aa/x")
    before = server.requests
    store.put("packs/aa/x", LARGE)
    assert server.requests - before == 4  # a look, and the 7 rows that are missing
    assert store.get("packs/aa/x") == LARGE


def test_leftovers_are_removed_after_a_day(server: Hrana, store: LibsqlStore) -> None:
    server.fail("cut", after=3, times=4)
    with pytest.raises(StoreError):
        store.put("packs/aa/x", LARGE)
    store.put("packs/aa/y", LARGE)
    assert store.clean_leftovers() == 0
    change(server, "UPDATE chunks SET at = at - 86401")
    assert store.clean_leftovers() == 1
    assert {name for name, _, _ in rows(server)} == {"packs/aa/y"}
    assert store.get("packs/aa/y") == LARGE


def test_damage_is_found_and_heals_when_put_again(server: Hrana, store: LibsqlStore) -> None:
    store.put("packs/aa/x", LARGE)
    change(server, "UPDATE chunks SET data = zeroblob(1000) WHERE n = 3")
    with pytest.raises(StoreCorrupt, match="not what was stored"):
        store.get("packs/aa/x")
    assert store.get_range("packs/aa/x", 0, 3000) == LARGE[:3000]
    assert store.get_range("packs/aa/x", 3000, 10) == bytes(10)
    store.put("packs/aa/x", LARGE, overwrite=True)
    assert store.get("packs/aa/x") == LARGE
    change(server, "DELETE FROM chunks WHERE n = 4")
    with pytest.raises(StoreCorrupt, match="missing or too short"):
        store.get("packs/aa/x")
    with pytest.raises(StoreCorrupt, match="missing or too short"):
        store.get_range("packs/aa/x", 4500, 10)
    connected(server, Limits(row=700, request=1500)).put("packs/aa/x", LARGE, overwrite=True)
    assert store.get("packs/aa/x") == LARGE


def test_other_content_replaces_all_rows(server: Hrana, store: LibsqlStore) -> None:
    store.put("packs/aa/x", LARGE)
    store.put("packs/aa/x", LARGE[:5000], overwrite=True)
    assert store.get("packs/aa/x") == LARGE[:5000]
    assert len(rows(server)) == 5


def test_a_database_without_tables_is_no_store(server: Hrana, tmp_path: Path) -> None:
    file = tmp_path / "none.db"
    for store in (connected(server), LibsqlStore(FileDatabase(os.fsencode(file), sleep=time.sleep))):
        with pytest.raises(ObjectNotFound):
            store.get("a")
        with pytest.raises(StoreError, match="there is no store"):
            list(store.list(""))
        with pytest.raises(StoreError, match="there is no store"):
            store.put("a", b"")
        assert store.clean_leftovers() == 0
        store.close()
    assert not file.exists()


def test_stock_sqlite_reads_the_file(tmp_path: Path) -> None:
    store = open_store(f"libsql-file:{tmp_path}/new/store.db")
    store.prepare()
    data = os.urandom((2 << 20) + 5)
    store.put("packs/aa/x", data)
    store.close()
    with closing(sqlite3.connect(tmp_path / "new/store.db")) as connection:
        found = connection.execute("SELECT data FROM chunks WHERE name = 'packs/aa/x' ORDER BY n").fetchall()
    assert b"".join(row[0] for row in found) == data


KILLED = """
import itertools, os, sys
from drkit.store.turso import LibsqlStore, Limits
from drkit.store.database import open_database
database, _ = open_database(sys.argv[1])
store = LibsqlStore(database, Limits(row=1000, request=2000))
for n in itertools.count():
    name = f"packs/{sys.argv[2]}/{n:04}"
    print(name, flush=True)
    store.put(name, name.encode() * 1000)
"""


@pytest.mark.parametrize("kind", ["turso", "libsql-file"])
def test_kill_9_leaves_whole_objects_only(
    server: Hrana, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("TURSO_AUTH_TOKEN", TOKEN)
    url = f"turso+{server.url}" if kind == "turso" else f"libsql-file:{tmp_path}/store.db"
    store = open_store(url)
    store.prepare()
    for run in range(6):
        process = subprocess.Popen([sys.executable, "-c", KILLED, url, str(run)], cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        begun = process.stdout.readline()
        time.sleep(0.02 * run)
        process.send_signal(signal.SIGKILL)
        begun += process.stdout.read()
        process.wait(10)
        process.stdout.close()
        last = begun.decode().split()[-1]
        found = [info.name for info in store.list(f"packs/{run}/")]
        assert len(found) >= len(begun.decode().split()) - 1
        assert all(store.get(name) == name.encode() * 1000 for name in found)
        if last not in found:
            store.put(last, last.encode() * 1000)
            assert store.get(last) == last.encode() * 1000
    assert store.clean_leftovers() == 0
    store.close()


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURSO_AUTH_TOKEN", "t")
    monkeypatch.setenv("TURSO_DATABASE_URL", "libsql://db-me.turso.io")
    monkeypatch.chdir(tmp_path)
    assert open_store("turso:").url == open_store("libsql://db-me.turso.io").url == "turso://db-me.turso.io"
    assert open_store("turso+http://localhost:8080/").url == "turso+http://localhost:8080"
    assert open_store("libsql-file:x.db").url == f"libsql-file:{tmp_path}/x.db"
    assert open_database("turso://h?row=5&request=10&in_flight=2")[1] == {"row": 5, "request": 10, "in_flight": 2}
    for wrong in ("turso://", "turso://h?authToken=hush", "turso://me:hush@h", "turso://h/hush", "turso://h?row=hush"):
        with pytest.raises(UsageError) as caught:
            open_store(wrong)
        assert "hush" not in str(caught.value) + caught.value.hint
    for wrong in ("libsql-file:", "turso://h?row=0"):
        with pytest.raises(UsageError):
            open_store(wrong)
    monkeypatch.delenv("TURSO_DATABASE_URL")
    with pytest.raises(UsageError, match="no Turso database"):
        open_store("turso:")


def test_a_file_that_lies_in_the_source_is_refused(tmp_path: Path) -> None:
    """The process that has it open must not open it in any other way, as a scan would."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_text("a")
    cli = Cli(tmp_path, DRKIT_REPO=f"libsql-file:{source}/backup.db")
    assert cli("init").code == 0
    run = cli("backup", str(source))
    assert run.code == UsageError.code
    assert "backup.db" in run.err
    beside = Cli(tmp_path, DRKIT_REPO="libsql-file:backup.db")
    assert beside("init").code == 0
    made = beside("backup", str(tmp_path / "source"), "--exclude", "backup.db*", "--verify", "restore", "--json")
    assert made.code == 0, made
    assert made.json["files"] == 1
