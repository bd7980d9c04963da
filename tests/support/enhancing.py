"""What enhance's tests stand on: a marketplace with its records, a scripted generator, and a watch over every write.

The watch is an audit hook: for as long as a test of enhance runs, whatever drkit or enhance does to a path below a
source that was looked at fails, unless the guard is just applying an edit or putting one back. What a test does itself
is nobody's business; what it does from inside of a generator it does `as_somebody_else`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar

import pytest
from msgspec import structs

import enhance.discover
from drkit.guard import differences, take_snapshot
from drkit.guard.apply import Applier
from drkit.inventory import Enhancements
from enhance.generators.base import BadReply, Request
from enhance.model import Finding, Material, Plan, PlannedSkill, Proposal, Reply
from enhance.pipeline import RunJob, RunReport, run
from tests.support.guarding import Guarded

# The watch

_PERMITTED: ContextVar[bool] = ContextVar("permitted", default=False)
_sources: set[bytes] = set()
_strays: list[str] = []
_local = threading.local()
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "os.truncate": ((0, None),),
    "os.setxattr": ((0, None),),
    "os.removexattr": ((0, None),),
}
"""Events that change something: the places of their paths, and of the descriptors that these are relative to."""


class StrayWrite(AssertionError):
    """Something below a source was about to be changed without a permit."""


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _sources or _PERMITTED.get():
        return
    if event == "open":
        path, mode, flags = args
        writes = bool(flags & _WRITING) if isinstance(flags, int) else bool(set(str(mode)) & set("wax+"))
        pairs = [(path, getattr(_local, "dir_fd", None))] if writes else []
    elif event in _PATHS:
        pairs = [(args[at], args[fd] if fd is not None else None) for at, fd in _PATHS[event]]
    else:
        return
    for path, dir_fd in pairs:
        full = _resolved(path, dir_fd)
        if any(full == one or full.startswith(one + b"/") for one in _sources) and (who := _culprit()):
            _strays.append(f"{event} {full!r} by {who}")
            raise StrayWrite(_strays[-1])


def _resolved(path: Any, dir_fd: Any) -> bytes:
    """Return the real path that an event is about, its last component as it is."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}").encode() if path >= 0 else b""
    raw = os.fsencode(path)
    if isinstance(dir_fd, int) and dir_fd >= 0 and not raw.startswith(b"/"):
        raw = os.fsencode(os.readlink(f"/proc/self/fd/{dir_fd}")) + b"/" + raw
    head, tail = os.path.split(os.path.abspath(raw))
    return os.path.join(os.path.realpath(head), tail)


def _culprit() -> str:
    """Return the innermost module of drkit or enhance that this happens in, empty if it is the test's own doing."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.split(".")[0] in {"drkit", "enhance"}:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _permitted(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def marked(*args: Any, **kwargs: Any) -> Any:
        before = _PERMITTED.set(True)
        try:
            return method(*args, **kwargs)
        finally:
            _PERMITTED.reset(before)

    return marked


def _noticed(look: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(look)
    def noticed(source: bytes, *args: Any, **kwargs: Any) -> Any:
        if getattr(_local, "watching", False):
            _sources.add(os.path.realpath(source))
        return look(source, *args, **kwargs)

    return noticed


def _install() -> None:
    """Add the hook, once for the process; mark what the guard alone may do, and notice which sources are looked at."""
    for name in ("apply", "finish", "put_back"):
        setattr(Applier, name, _permitted(getattr(Applier, name)))
    enhance.discover.discover = _noticed(enhance.discover.discover)
    sys.addaudithook(_hook)


_install()


@pytest.fixture(autouse=True)
def no_stray_writes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Watch every test of enhance."""
    if not request.module.__name__.startswith("tests.test_enhance"):
        yield
        return
    plain_open = os.open

    def watched_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        _local.dir_fd = dir_fd  # which the event does not tell
        try:
            return plain_open(path, flags, mode, dir_fd=dir_fd)
        finally:
            _local.dir_fd = None

    monkeypatch.setattr(os, "open", watched_open)
    _local.watching = True
    try:
        yield
    finally:
        _local.watching = False
        found = list(_strays)
        _sources.clear()
        _strays.clear()
    assert found == [], "changed without a permit"


@contextlib.contextmanager
def as_somebody_else() -> Iterator[None]:
    """Do in a block what somebody else does meanwhile."""
    before = _PERMITTED.set(True)
    try:
        yield
    finally:
        _PERMITTED.reset(before)


def watch(source: Path) -> None:
    """Watch a source before anybody has looked at it."""
    _sources.add(os.path.realpath(os.fsencode(source)))


def strays() -> list[str]:
    """Return what was found so far, and forget it."""
    found = list(_strays)
    _strays.clear()
    return found


# A generator that says what it is told


def skill(name: str, body: str = "", description: str = "") -> bytes:
    """Return a SKILL.md that passes every rule."""
    description = description or f"Does what {name} does, step by step. Use when somebody asks for {name}."
    body = body or f"# {name}\n\n## Usage\n\n" + f"Run the steps of {name} one after the other and look at each. " * 4
    return f"---\nname: {name}\ndescription: {description}\n---\n\n{body.rstrip()}\n".encode()


Said = str | Reply | BaseException | Callable[[], "Said"]


class Scripted:
    """A generator whose calls count, and whose answers a test sets: `says[plugin name, phase]` is a list of them.

    An answer is taken from the list, the last one stays. Without a list the answer is good: one skill, `<plugin>-use`.
    """

    name: ClassVar[str] = "scripted"
    remote: ClassVar[bool] = True

    def __init__(self, model: str = "m1") -> None:
        self.model = model
        self.key: Mapping[str, str] = {"generator": "scripted", "model": model, "prompts": "1"}
        self.says: dict[tuple[str, str], list[Said]] = {}
        self.calls: list[tuple[str, str]] = []

    def plan_request(self, material: Material) -> Request:
        return Request("plan", f"plan {material.plugin.name} {sorted(material.texts.items())}", tokens=100)

    def generate_request(self, material: Material, plan: Plan) -> Request:
        names = [one.name for one in plan.skills]
        return Request("generate", f"write {material.plugin.name} {names} {sorted(material.texts.items())}", tokens=500)

    def repair_request(
        self, material: Material, plan: Plan, proposal: Proposal, findings: Sequence[Finding]
    ) -> Request:
        return Request("repair", f"mend {material.plugin.name} {[one.rule for one in findings]}", tokens=500)

    def send(self, request: Request, material: Material, *, timeout_s: float) -> Reply:
        name = material.plugin.name
        self.calls.append((name, request.phase))
        said = self.says.get((name, request.phase)) or [_good(name, request.phase)]
        answer: Any = said.pop(0) if len(said) > 1 else said[0]
        while callable(answer) and not isinstance(answer, BaseException):
            answer = answer()
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, Reply) else Reply(answer, "stop")

    def read_plan(self, reply: Reply, material: Material) -> Plan:
        data = self._read(reply)
        if not isinstance(data, list):
            raise BadReply("it is no list of skills")
        return Plan(tuple(PlannedSkill(name, "") for name in data), "" if data else "nothing to say")

    def read_proposal(self, reply: Reply, material: Material, plan: Plan) -> Proposal:
        data = self._read(reply)
        if not isinstance(data, dict):
            raise BadReply("it is no object of files")
        return Proposal({path.encode(): text.encode() for path, text in data.items()})

    def _read(self, reply: Reply) -> Any:
        if reply.finish_reason != "stop":
            raise BadReply(f"it was not finished: {reply.finish_reason}")
        try:
            return json.loads(reply.text)
        except ValueError as error:
            raise BadReply("it is not JSON") from error


def _good(name: str, phase: str) -> str:
    return json.dumps([f"{name}-use"]) if phase == "plan" else files(f"{name}-use")


def files(*names: str, body: str = "") -> str:
    """Return an answer that proposes some skills."""
    return json.dumps({f"skills/{name}/SKILL.md": skill(name, body).decode() for name in names})


class Open:
    """A quota without end."""

    def ask(self, send: Callable[[], Reply], *, tokens: int, timeout_s: float) -> Reply:
        assert tokens > 0
        assert timeout_s > 0
        return send()


# A marketplace


class Market(Guarded):
    """A source with plugins that have no skill, and what runs on it need."""

    def __init__(self, root: Path, *names: str) -> None:
        super().__init__(root)
        self.generator = Scripted()
        for name in names:
            self.add(f"plugins/{name}")

    def add(self, path: str, files: dict[str, bytes] | None = None) -> Path:
        """Add a plugin with a command to write about."""
        name = path.rsplit("/", 1)[-1]
        text = f"# {name}\n\n" + "\n".join(f"Line {number} says what {name} does." for number in range(40)) + "\n"
        command = f"---\ndescription: Runs {name}\n---\n\n{text}"
        manifest = json.dumps({"name": name, "version": "1.0.0", "description": f"The plugin {name}"})
        given = {"README.md": text.encode(), f"commands/{name}.md": command.encode(), **(files or {})}
        return self.plugin(path, {**given, ".claude-plugin/plugin.json": manifest.encode()})

    def job(self, **more: Any) -> RunJob:
        """Return a job with this market's generator and everything newly opened."""
        site = more.pop("site", None) or self.site()
        given = {"generator": self.generator, "calls": lambda _run: Open(), **more}
        return RunJob(site, Enhancements(site.inventory), **given)

    def run(self, **more: Any) -> RunReport:
        """Run, and hold the report against the snapshots once more."""
        job = self.job(**more)
        report = run(job)
        assert_true(job, report)
        return report

    def tree(self) -> str:
        """Return the tree hash of the source as it is now."""
        return take_snapshot(self.site()).tree_sha256

    def read(self, path: str) -> bytes:
        return (self.source / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """Change a file, as somebody else does."""
        full = self.source / path
        with as_somebody_else():
            full.parent.mkdir(parents=True, exist_ok=True)
            full.write_bytes(data)


def assert_true(job: RunJob, report: RunReport) -> None:
    """Hold a report to all that it promises: the sums, and the difference of its two snapshots."""
    repo = job.site.repo
    found = differences(repo, repo.resolve(report.snapshot_before), repo.resolve(report.snapshot_after))
    claimed = set(report.files_changed), set(report.changed_by_others)
    assert claimed[0] | claimed[1] == {one.path for one in found}
    assert not claimed[0] & claimed[1]
    assert sum(report.statuses.values()) == report.plugins
    assert set(report.statuses) <= {"verified", "skipped", "failed", "parked"}
    rows = job.records.statuses(report.run)
    assert len(rows) == len({row.plugin_path for row in rows}) == report.plugins
    record = job.records.run(report.run)
    assert record.report == report.plain()
    assert structs.asdict(record)["exit_code"] == report.exit_code
