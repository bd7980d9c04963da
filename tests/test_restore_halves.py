"""Large trees are written by two processes: no tree, store, fault or kill shows that from outside."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drkit.clock import utc_now
from drkit.errors import DrkitError, NoSpace, StoreError
from drkit.model import Place
from drkit.progress import NullProgress
from drkit.repo import Repository, SnapshotRef
from drkit.repo.reader import BlobReader
from drkit.restore import RestoreReport, halves, restore_tree
from drkit.restore import build as build_module
from drkit.restore import plan as plan_module
from drkit.restore.attrs import Host
from drkit.restore.report import Lost, Outcome
from drkit.restore.writer import Writer
from drkit.seal import Secret
from drkit.store import LocalStore, MemoryStore
from tests.support.restoring import back_up
from tests.support.trees import ROOT, Node, build, snapshot_tree

DEEP = [b"a", b"\xff sealed", b"b", b"c"]
SERVE = "; from drkit.restore.halves import serve; serve()"
NAMES = "from drkit.errors import NoSpace, StoreError; from drkit.store import LocalStore"
THROW = "(_ for _ in ()).throw"
SOON = 20.0


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "_APART", 1)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[halves._Second]]:
    """Every second process that writes."""
    started: list[halves._Second] = []
    init = halves._Second.__init__

    def noted(self: halves._Second, *args: Any) -> None:
        init(self, *args)
        started.append(self)

    monkeypatch.setattr(halves._Second, "__init__", noted)
    yield started
    assert all(one._process.poll() is not None for one in started)


def leaves(seed: int) -> dict[bytes, Node]:
    """Enough files for more than one segment, and one of each other kind; equal contents in each directory."""
    files = {b"%03d" % number: Node("f", size=number % 7 * 100, seed=number % 20 + 1) for number in range(70)}
    return {
        **files,
        b"alone": Node("f", mode=0o4755, size=3000, seed=100 + seed, xattrs=(("user.a", b"1"),)),
        b"empty": Node("d", mode=0o2755),
        b"link": Node("l", target=b"../nowhere"),
        b"old": Node("f", mtime_ns=-(10**9) - 1),
        b"pipe": Node("p", mode=0o620),
        b"\xfe": Node("f", size=9, seed=3),
    }


def deep_tree(**more: Node) -> Node:
    """Directories in each other, each with files before and after the next, and with a mode and a time of its own."""
    inner = Node("d", mode=0o751, mtime_ns=10**18, children=leaves(0))
    for number, name in enumerate(reversed(DEEP), start=1):
        children = {**leaves(number), name: inner}
        xattrs = (("user.dir", b"%d" % number),)
        mode = 0o500 if name == b"c" and ROOT else 0o710 + number
        inner = Node("d", mode=mode, mtime_ns=10**18 + number, children=children, xattrs=xattrs)
    inner.children.update({os.fsencode(name): node for name, node in more.items()})
    return inner


def backed_up(tmp_path: Path, tree: Node, *secrets: Secret) -> tuple[Repository, SnapshotRef]:
    build(tmp_path / "source", tree)
    return back_up(
        tmp_path / "source", Repository.create(LocalStore(bytes(tmp_path / "repo")), now=utc_now(), secrets=secrets)
    )


def restored(tmp_path: Path, repo: Repository, ref: SnapshotRef) -> RestoreReport:
    return restore_tree(repo, ref, bytes(tmp_path / "out"))


@pytest.mark.parametrize("share", [0.02, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
def test_wherever_it_is_cut_the_tree_comes_back(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[halves._Second]
) -> None:
    monkeypatch.setattr(plan_module, "_FIRST", share)
    repo, ref = backed_up(tmp_path, deep_tree())
    report = restored(tmp_path, repo, ref)
    assert len(processes) == 1
    assert report.tree_sha256 == repo.load(ref).tree_sha256
    assert snapshot_tree(tmp_path / "out") == snapshot_tree(tmp_path / "source")
    assert (report.lost, report.notes) == ((), ())


def test_an_encrypted_repository_opens_in_both(tmp_path: Path, processes: list[halves._Second]) -> None:
    repo, ref = backed_up(tmp_path, deep_tree(), Secret("keyfile", bytes(range(32))))
    restored(tmp_path, repo, ref)
    assert len(processes) == 1
    assert snapshot_tree(tmp_path / "out") == snapshot_tree(tmp_path / "source")


@pytest.mark.parametrize("why", ["hard links", "memory", "no interpreter", "a name that cannot be"])
def test_where_two_cannot_one_writes_all_of_it(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[halves._Second]
) -> None:
    more = {}
    if why == "hard links":
        more = {"same": Node("f", size=5, seed=1), "two": Node("h")}
    repo, ref = backed_up(tmp_path, deep_tree(**more))
    if why == "memory":
        repo, ref = back_up(tmp_path / "source", Repository.create(MemoryStore(), now=utc_now()))
    if why == "no interpreter":
        monkeypatch.setattr(sys, "executable", None)
    refuse = [True] * (why == "a name that cannot be")
    mkdir = os.mkdir

    def refused(path: Any, *args: Any, **more: Any) -> None:
        if refuse and path == b"b":
            refuse.pop()
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        mkdir(path, *args, **more)

    monkeypatch.setattr(os, "mkdir", refused)
    restored(tmp_path, repo, ref)
    assert not processes
    assert not refuse
    assert snapshot_tree(tmp_path / "out") == snapshot_tree(tmp_path / "source")


def test_too_few_descriptors_for_the_directories_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Node("d", children=leaves(0))
    for _ in range(20):
        tree = Node("d", children={b"d": tree})
    repo, ref = backed_up(tmp_path, tree)
    make = halves._make
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def short(root_fd: int, shared: Sequence[bytes]) -> None:
        assert len(shared) == 20
        free = os.dup(root_fd)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 15, hard))
        make(root_fd, shared)

    monkeypatch.setattr(halves, "_make", short)
    try:
        with pytest.raises(StoreError, match="Too many open files"):
            restored(tmp_path, repo, ref)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_lost_is_the_same_as_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, ref = backed_up(tmp_path, deep_tree())
    pack = max((tmp_path / "repo/packs").rglob("*.zst"), key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[len(data) // 8] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    two = restored(tmp_path, repo, ref)
    monkeypatch.setattr(build_module, "_APART", 1 << 30)
    one = restore_tree(repo, ref, bytes(tmp_path / "again"))
    assert two.lost
    assert (two.lost, two.files, two.tree_sha256) == (one.lost, one.files, one.tree_sha256)


def test_many_open_files_are_no_hindrance(tmp_path: Path, processes: list[halves._Second]) -> None:
    repo, ref = backed_up(tmp_path, deep_tree())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1024):
            stack.enter_context(open(os.devnull))
        restored(tmp_path, repo, ref)
    assert len(processes) == 1


def fails(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let the second process do something else before its work."""
    monkeypatch.setattr(halves, "_PROGRAM", "import sys; sys.path[:] = {path!r}; " + program.replace("{", "{{") + SERVE)


@pytest.mark.parametrize(
    ("program", "error", "match"),
    [
        ("import os; os.kill(os.getpid(), 9)", DrkitError, "ended with -9"),
        ("print('noise', end='', flush=True)", DrkitError, "ended with"),
        (
            f"import os; os.mkdir = lambda *a, **k: {THROW}(OSError(28, 'No space left on device'))",
            NoSpace,
            "space",
        ),
        (
            f"{NAMES}; LocalStore.get_range = lambda *a: {THROW}(StoreError('gone'))",
            StoreError,
            "gone",
        ),
        (
            f"{NAMES}; LocalStore.get_range = lambda *a: {THROW}(NoSpace('gone'))",
            StoreError,
            "gone",
        ),
    ],
    ids=["killed", "noise", "full", "store", "a kind of store error"],
)
def test_its_failure_is_the_restores_and_leaves_nothing(
    program: str, error: type[DrkitError], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, ref = backed_up(tmp_path, deep_tree())
    before = sorted(os.listdir(tmp_path))
    fails(monkeypatch, program)
    with pytest.raises(error, match=match):
        restored(tmp_path, repo, ref)
    assert sorted(os.listdir(tmp_path)) == before


def test_progress_counts_what_both_have_written(tmp_path: Path) -> None:
    class Counted:
        files = size = 0

        def start(self, *_: object) -> None:
            self.stages = getattr(self, "stages", 0) + 1

        def advance(self, files: int, size: int) -> None:
            if self.stages == 1:
                self.files += files
                self.size += size

    repo, ref = backed_up(tmp_path, deep_tree())
    counted = Counted()
    report = restore_tree(repo, ref, bytes(tmp_path / "out"), progress=counted)
    assert (counted.files, counted.size) == (report.files + report.dirs + report.links + report.others, report.bytes)


HELD = """
import sys
from drkit.repo import Repository
from drkit.restore import build, halves, restore_tree
from drkit.store import LocalStore
build._APART = 1
halves._PROGRAM = (
    "import sys; sys.path[:] = {path!r}; import os, time; open(%r, 'w').write(str(os.getpid())); "
    "import drkit.restore.halves as h; write = h._write; "
    "h._write = lambda *a: (time.sleep(100), write(*a)); h.serve()" % sys.argv[3]
)
repo = Repository.open(LocalStore(sys.argv[1]))
restore_tree(repo, repo.resolve("latest"), sys.argv[2].encode())
"""


def test_it_does_not_outlive_a_killed_restore(tmp_path: Path) -> None:
    repo, ref = backed_up(tmp_path, deep_tree())
    told = tmp_path / "pid"
    first = subprocess.Popen([sys.executable, "-c", HELD, tmp_path / "repo", tmp_path / "out", told])
    deadline = time.monotonic() + SOON
    while not (told.exists() and told.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = int(told.read_text())
    time.sleep(0.3)  # it reads what it is to do
    first.send_signal(signal.SIGKILL)
    first.wait(SOON)
    while Path(f"/proc/{second}").exists() and "Z" not in Path(f"/proc/{second}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert restored(tmp_path, repo, ref).tree_sha256 == repo.load(ref).tree_sha256
    assert sorted(os.listdir(tmp_path)) == ["out", "pid", "repo", "source"]


def test_what_lies_around_the_middle_is_passed_over_in_the_order_of_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bytes, what is in a directory comes after a name that goes on with a dot; in a manifest it comes before."""
    files = {b"%03d" % number: Node("f", size=9, seed=number) for number in range(300)}
    repo, ref = backed_up(tmp_path, Node("d", children={b"a": Node("d", children=files), b"a.b": Node("f")}))
    passed: list[Place] = []
    monkeypatch.setattr(BlobReader, "pass_over", lambda _, place: passed.append(place))
    snapshot = repo.load(ref)
    around = [segment.first for segment in repo.segments(snapshot)][1]
    assert around.startswith(b"a/")
    writer = Writer(-1, Host(0, 0, 0, True, True, True), Outcome(), NullProgress(), sync_each=False)
    halves._write(writer, repo, snapshot, {}, b"a.b", None, around)
    assert passed


def test_what_it_is_told_holds_everything() -> None:
    """Every field of an outcome comes over: one that was added later would be lost in silence."""
    outcome = Outcome({b"\xff": "why"}, [Lost("p", "why", "q")], {b"s"}, {"mode"}, [(b"p", 0o7)], {b"o"}, {b"t"})
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(halves._Told(outcome=outcome)), type=halves._Told).outcome
    assert again == outcome
    merged = Outcome()
    merged.add(outcome)
    assert merged == outcome
