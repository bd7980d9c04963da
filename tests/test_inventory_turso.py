"""The end of the outbox in Turso, against a server double on loopback that fails in every way that it can."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drkit.errors import IntegrityError, StoreError, UsageError
from drkit.inventory import Inventory
from drkit.inventory.audit import check_chains
from drkit.inventory.engine import Engine
from drkit.inventory.sync import pull, push
from drkit.inventory.tables import TABLES
from drkit.inventory.turso import Turso
from tests.support.hrana import TOKEN, Hrana, serving
from tests.support.recording import content, drill, opened, record_backup, record_verification

FAULTS = ("401", "500", "cut", "lost", "expired", "slow")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hrana]:
    with serving(tmp_path / "turso.db") as server:
        yield server


def client(server: Hrana, *, token: str = TOKEN, timeout: float = 10) -> Turso:
    """Return a client that is closed with the server."""
    turso = Turso(server.url, token, timeout=timeout)
    server.clients.append(turso)
    return turso


def there(server: Hrana) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables of the server."""
    return {table.name: server.rows(table.name) for table in TABLES}


def fill(inventory: Inventory) -> None:
    """Record a bit of everything."""
    for number in range(3):
        snapshot_id = record_backup(inventory, number, plugins=4)
        record_verification(inventory, snapshot_id)
        inventory.record_drill(drill(snapshot_id, b"\xff\x00" if number else None))


def test_push_then_pull_gives_the_same_rows(tmp_path: Path, server: Hrana) -> None:
    with opened(tmp_path / "a.db") as inventory, opened(tmp_path / "bare.db") as bare:
        fill(inventory)
        report = push(inventory, client(server))
        assert report.rows == sum(inventory.counts().values())
        assert there(server) == content(inventory)
        assert inventory.outbox_pending("pushed") == []
        assert push(inventory, client(server)).requests == 0
        pull(bare, client(server))
        assert content(bare) == content(inventory)
        assert bare.check_audit() == []
        before = there(server)
        pull(inventory, client(server))  # what is here already stays, and nothing doubles
        push(bare, client(server))
        assert content(inventory) == before == there(server)


def test_a_backup_of_235_plugins_takes_few_requests(tmp_path: Path, server: Hrana) -> None:
    with opened(tmp_path / "a.db") as inventory:
        record_backup(inventory, 1, plugins=235)
        first = push(inventory, client(server)).requests
        record_backup(inventory, 2, plugins=235)
        assert (first, push(inventory, client(server)).requests) == (3, 2)  # the first looks, and makes the tables


def test_machines_share_one_database(tmp_path: Path, server: Hrana) -> None:
    with opened(tmp_path / "a.db") as one, opened(tmp_path / "b.db") as two, opened(tmp_path / "c.db") as bare:
        fill(one)
        fill(two)
        push(one, client(server))
        push(two, client(server))
        record_backup(one, 9)
        push(one, client(server))
        pull(bare, client(server))
        assert content(bare) == there(server)
        for table, rows in content(bare).items():
            assert rows == sorted(content(one)[table] + content(two)[table])
        assert bare.check_audit() == []


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_after_a_fault_the_next_push_catches_up(tmp_path: Path, server: Hrana, kind: str, after: int) -> None:
    server.fail(kind, after=after)
    timeout = 0.1 if kind == "slow" else 10
    server.delay = 0.25
    with opened(tmp_path / "a.db") as inventory:
        fill(inventory)
        with pytest.raises(StoreError):
            push(inventory, client(server, timeout=timeout), rows_at_once=20)
        assert server.hit == [kind]
        record_backup(inventory, 7)
        push(inventory, client(server), rows_at_once=20)
        assert there(server) == content(inventory)
        assert inventory.outbox_pending("pushed") == []
    engine = Engine(str(server.path).encode(), sleep=lambda _seconds: None)
    assert check_chains(engine) == []
    engine.close()


def test_a_full_server_takes_none_of_a_transaction(tmp_path: Path, server: Hrana) -> None:
    with opened(tmp_path / "a.db") as inventory:
        record_backup(inventory, 1)
        push(inventory, client(server))
        before = there(server)
        record_backup(inventory, 2, plugins=235)
        server.fail("full", after=1)
        with pytest.raises(StoreError, match="full"):
            push(inventory, client(server))
        assert server.hit == ["full"]
        assert there(server) == before
        push(inventory, client(server))
        assert there(server) == content(inventory)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.lists(
        st.tuples(
            st.sampled_from(["backup", "verify", "drill", "push", "pull"]),
            st.integers(0, 1),
            st.sampled_from(["", *FAULTS[:-1]]),
            st.integers(0, 5),
        ),
        max_size=12,
    )
)
def test_whatever_fails_where_all_agree_in_the_end(
    tmp_path_factory: pytest.TempPathFactory, data: list[tuple[str, int, str, int]]
) -> None:
    directory = tmp_path_factory.mktemp("agree")
    with (
        serving(directory / "turso.db") as server,
        opened(directory / "a.db") as one,
        opened(directory / "b.db") as two,
    ):
        machines = (one, two)
        numbers = itertools.count()
        for action, machine, fault, after in data:
            inventory = machines[machine]
            server.faults.clear()
            if fault:
                server.fail(fault, after=after)
            if action == "backup":
                record_backup(inventory, next(numbers))
            elif action == "verify":
                record_verification(inventory, "1")
            elif action == "drill":
                inventory.record_drill(drill("1", None))
            else:
                try:
                    push(inventory, client(server), rows_at_once=5) if action == "push" else pull(
                        inventory, client(server)
                    )
                except StoreError:
                    assert fault
        server.faults.clear()
        for inventory in machines:
            push(inventory, client(server))
        for inventory in machines:
            pull(inventory, client(server))
            assert content(inventory) == there(server)
            assert inventory.check_audit() == []


def test_a_copy_that_was_written_to_under_the_same_id_is_noticed(tmp_path: Path, server: Hrana) -> None:
    with opened(tmp_path / "a.db") as inventory:
        record_backup(inventory, 1)
        for suffix in ("", "-wal"):
            (tmp_path / f"kept{suffix}").write_bytes((tmp_path / f"a.db{suffix}").read_bytes())
        record_backup(inventory, 2)
        push(inventory, client(server))
        before = there(server)
    (tmp_path / "a.db-wal").unlink(missing_ok=True)
    for suffix in ("", "-wal"):
        (tmp_path / f"kept{suffix}").replace(tmp_path / f"a.db{suffix}")
    with opened(tmp_path / "a.db") as old:  # as if the file came back from last night's copy of the disk
        record_backup(old, 3)
        with pytest.raises(IntegrityError, match="a copy of the file"):
            push(old, client(server))
    assert there(server) == before


def test_the_local_file_is_free_while_the_network_is_waited_for(tmp_path: Path, server: Hrana) -> None:
    locked = []
    with opened(tmp_path / "a.db") as inventory, opened(tmp_path / "a.db") as other:
        fill(inventory)
        turso = client(server)
        exchange = turso._exchange

        def recording(body: bytes) -> tuple[int, bytes]:
            record_verification(other, "1")  # LockedError, if somebody held the lock
            locked.append(False)
            return exchange(body)

        turso._exchange = recording  # type: ignore[method-assign]
        push(inventory, turso)
    assert len(locked) >= 3


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1:9", StoreError),
        ("ftp://example", UsageError),
        ("libsql://", UsageError),
        ("http://h:x", UsageError),
    ],
)
def test_nobody_there(url: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        Turso(url, "secret", timeout=2).transaction([("SELECT 1", ())])


def test_the_token_is_in_no_message(server: Hrana) -> None:
    with pytest.raises(StoreError, match="refuses the token") as caught:
        client(server, token="wrong-and-secret").transaction([("SELECT 1", ())])
    assert "secret" not in str(caught.value) + caught.value.hint


def test_a_token_that_cannot_be_one_is_refused_without_showing_it() -> None:
    with pytest.raises(UsageError) as caught:
        Turso("http://localhost", "sec\nret")
    assert "sec" not in str(caught.value)


def test_a_statement_that_fails_leaves_nothing_of_its_transaction(server: Hrana) -> None:
    turso = client(server)
    turso.transaction([("CREATE TABLE t (a)", ())])
    with pytest.raises(StoreError, match="nowhere"):
        turso.transaction([("INSERT INTO t VALUES (1)", ()), ("INSERT INTO nowhere VALUES (1)", ())])
    assert turso.transaction([("SELECT * FROM t", ())]) == [[]]


def test_the_vendors_client_and_ours_see_the_same(server: Hrana) -> None:
    values = (2**62 + 1, -1, 0.5, "ü", b"\xff\x00a", None)
    turso = client(server)
    turso.transaction([("CREATE TABLE t (a INTEGER, b INTEGER, c REAL, d TEXT, e BLOB, f TEXT)", ())])
    turso.transaction([("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", values)])
    # In a process of its own: while it waits it holds the interpreter, and the server could not answer.
    done = subprocess.run(
        [sys.executable, "-c", VENDOR, server.url, TOKEN], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == f"[{values!r}]\n"
    assert turso.transaction([("SELECT * FROM t", ())])[0][1] == (2**62, 1, 1.5, "x", b"", None)


VENDOR = """
import sys
try:
    import libsql_experimental as libsql
except ModuleNotFoundError:
    import libsql
theirs = libsql.connect(sys.argv[1], auth_token=sys.argv[2], isolation_level=None)
print(theirs.execute("SELECT * FROM t").fetchall())
theirs.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", (str(2**62), 1, 1.5, "x", b"", None))
"""
