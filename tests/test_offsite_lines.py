"""Lines that break: every command, cut off at every single request, on real S3 and on the double of Turso."""

from __future__ import annotations

import contextlib
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from drkit.copy import copy
from drkit.errors import StoreError
from drkit.model import Level
from drkit.progress import NullProgress
from drkit.repair import repair
from drkit.repo import Repository
from drkit.repo.lock import unlock
from drkit.store import MemoryStore, Store, open_store
from drkit.store.wrap import Retrying
from drkit.verify import verify
from tests.support.hrana import TOKEN, Hrana, serving
from tests.support.proxy import MOMENTS, Proxy, proxied
from tests.support.pruning import check_all, keep_last, run_prune, utc_now
from tests.support.repos import Bench, contents, names
from tests.support.servers import Servers

Work = Callable[[Store], object]
MOST = 150
"""So many requests a command here may need."""


class Line(ABC):
    """A way to a server that breaks on order: `store` lies there, `direct` is the same by a way that holds."""

    moments: tuple[str, ...]
    step: int
    """At every so-maniest request it breaks: where a server takes long, not at each."""
    store: Store
    direct: Store

    @abstractmethod
    def begin(self, objects: Mapping[str, bytes]) -> None:
        """Make a new store with these objects, the same ones each time."""

    def close(self) -> None:
        """Close what the last beginning opened."""
        self.store.close()
        self.direct.close()

    @abstractmethod
    def cut(self, number: int, moment: str, times: int = 1) -> None:
        """Break at the request with this number, from 0, counted from now."""

    @abstractmethod
    def mend(self) -> bool:
        """Let it be whole again; return whether it broke."""


class S3Line(Line):
    moments = MOMENTS
    step = 3

    def __init__(self, servers: Servers, proxy: Proxy) -> None:
        self._servers = servers
        self._proxy = proxy

    def begin(self, objects: Mapping[str, bytes]) -> None:
        url = self._servers.url("s3")
        self.direct = open_store(url)
        for name, data in objects.items():
            self.direct.put(name, data, overwrite=True)
        self.store = open_store(url.replace(self._servers.endpoint("s3"), self._proxy.url))

    def cut(self, number: int, moment: str, times: int = 1) -> None:
        self._proxy.reset()
        self._proxy.cut(number, moment, times)

    def mend(self) -> bool:
        broken = self._proxy.cuts > 0
        self._proxy.reset()
        return broken


class TursoLine(Line):
    moments = ("cut", "lost", "500", "expired")
    step = 1

    def __init__(self, server: Hrana) -> None:
        self._server = server
        self._saved = False

    def begin(self, objects: Mapping[str, bytes]) -> None:
        self.store = self.direct = open_store("turso:")
        with contextlib.closing(sqlite3.connect(self._server.path)) as connection:
            if not self._saved:
                self._saved = True
                self.store.prepare()
                for name, data in objects.items():
                    self.store.put(name, data)
                for table in ("objects", "chunks"):
                    connection.execute(f"CREATE TABLE saved_{table} AS SELECT * FROM {table}")
            for table in ("objects", "chunks"):
                connection.execute(f"DELETE FROM {table}")
                connection.execute(f"INSERT INTO {table} SELECT * FROM saved_{table}")
            connection.commit()

    def cut(self, number: int, moment: str, times: int = 1) -> None:
        self._server.fail(moment, after=number, times=times)

    def mend(self) -> bool:
        broken = bool(self._server.hit)
        self._server.hit.clear()
        self._server.faults.clear()
        return broken


@contextmanager
def opened(kind: str, path: Path, servers: Callable[[], Servers]) -> Iterator[Line]:
    with pytest.MonkeyPatch.context() as patch:
        if kind == "s3":
            patch.setattr(Retrying, "_wait", lambda *_: None)
            with proxied(servers().endpoint("s3")) as proxy:
                yield S3Line(servers(), proxy)
        else:
            patch.setattr("drkit.store.database._FIRST_PAUSE_S", 0.0)
            with serving(path / "turso.db") as server:
                patch.setenv("TURSO_DATABASE_URL", server.url)
                patch.setenv("TURSO_AUTH_TOKEN", TOKEN)
                yield TursoLine(server)


@pytest.fixture(params=["s3", "turso"])
def line(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Line]:
    with opened(request.param, tmp_path, lambda: request.getfixturevalue("servers")) as found:
        yield found


class Scene:
    """A repository with three snapshots, a copy of it, and what each command does to the store at the other end."""

    def __init__(self, path: Path) -> None:
        self.bench = Bench(path)
        for turn in range(3):
            self.bench.plugin(f"plugins/p{turn}")
            self.bench.write("plugins/p0/changing.md", b"%d" % turn * 100)
            self.bench.back_up()
        self.whole: MemoryStore = self.bench.store  # type: ignore[assignment]

    def objects(self, command: str) -> dict[str, bytes]:
        """What the store holds that the command finds."""
        if command == "copy_to":
            return {}
        found = {name: self.whole.get(name) for name in names(self.whole, "")}
        if command == "repair":
            for name in [name for name in found if name.startswith(("packs/", "snapshots/", "index/"))][::2]:
                found[name] = found[name][:-1]
        return found

    def back_up(self, store: Store) -> None:
        self.bench.store = store
        try:
            self.bench.write("plugins/p1/new.md", b"new" * 500)
            self.bench.back_up()
        finally:
            self.bench.store = self.whole

    def prune(self, store: Store) -> None:
        keep_last(store, 1)
        run_prune(store)

    def copy_to(self, store: Store) -> None:
        copy(Repository.open(self.whole), store, progress=NullProgress(), now=utc_now)

    def copy_from(self, store: Store) -> None:
        target = MemoryStore("copy")
        report = copy(Repository.open(store), target, progress=NullProgress(), now=utc_now)
        assert report.findings == ()
        assert len(check_all(target).snapshots()) == 3

    def repair(self, store: Store) -> None:
        assert repair(store, [self.whole], progress=NullProgress(), now=utc_now).ok

    def read(self, store: Store) -> None:
        repo = Repository.open(store)
        assert contents(repo) == self.bench.files()
        assert verify(repo, repo.snapshots(), level=Level.CONTENT, progress=NullProgress()).findings == ()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


COMMANDS = ["back_up", "prune", "copy_to", "copy_from", "repair", "read"]


def check(store: Store) -> Repository:
    """Take everything out, and verify all of it."""
    taken = MemoryStore("taken out")
    for name in names(store, ""):
        taken.put(name, store.get(name))
    return check_all(taken)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_line_that_breaks_at_any_request_is_not_noticed(line: Line, scene: Scene, command: str) -> None:
    work: Work = getattr(scene, command)
    met = 0
    for number in range(0, MOST, line.step):
        line.begin(scene.objects(command))
        line.cut(number, line.moments[number // line.step % len(line.moments)])
        work(line.store)
        if not line.mend():
            line.close()
            break
        met += 1
        repo = check(line.direct)
        assert names(line.direct, "locks/") == []
        assert len(repo.snapshots()) == {"back_up": 4, "prune": 1}.get(command, 3)
        line.close()
    assert 2 < met < MOST // line.step


@pytest.mark.parametrize("command", COMMANDS)
def test_a_line_that_breaks_for_good_loses_nothing(line: Line, scene: Scene, command: str) -> None:
    """The command says so; when the line is back, what was there is there, and the same command ends its work."""
    work: Work = getattr(scene, command)
    failed = 0
    for number in range(0, MOST, 3 * line.step):
        line.begin(scene.objects(command))
        line.cut(number, line.moments[number // line.step % len(line.moments)], times=MOST)
        with suppress(StoreError):
            work(line.store)
            line.close()
            break  # the last answers were not needed
        assert line.mend()
        failed += 1
        if command not in {"copy_to", "repair"}:
            assert len(check(line.direct).snapshots()) >= 1
        if names(line.direct, "drkit.json"):
            unlock(line.direct, utc_now, every=True)
        work(line.store)
        assert contents(check(line.direct)) == scene.bench.files()
        line.close()
    line.mend()
    assert 0 < failed < MOST // (3 * line.step)
