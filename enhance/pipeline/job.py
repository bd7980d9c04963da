"""What a run is given, and what it tells: the types that the command line and the pipeline share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from msgspec import Struct, structs

from drkit.guard import Policy, Site
from drkit.inventory import Enhancements
from drkit.progress import NullProgress, Progress
from enhance.generators.base import Generator
from enhance.model import Finding, Reply, Status, Usage


class Calls(Protocol):
    """What lets calls pass one by one: a quota, a pace. `enhance.pace.Pacer` is one."""

    def ask(self, send: Callable[[], Reply], *, tokens: int, timeout_s: float) -> Reply:
        """Make a call when it may be made, again where that helps, each reserved durably before it is made.

        BudgetExhausted if no call may be made in this run any more, CallError of the last try.
        """
        ...


class Selection(Struct, frozen=True):
    """Which plugins are worked on: all filters hold, then the first `limit` by path.

    `plugins` are paths or names; an ambiguous name is an error. `only_failed` takes those whose newest status is
    failed or parked, and asks again what was answered unusably.
    """

    plugins: tuple[bytes, ...] = ()
    categories: tuple[str, ...] = ()
    only_failed: bool = False
    limit: int | None = None


class Step(Struct, frozen=True):
    """Something that just happened to a plugin. `done` of `total` plugins have their final status."""

    run: str
    plugin: bytes
    status: Status
    reason: str
    done: int
    total: int
    calls: int


def _ignore(step: Step) -> None:
    del step


def _said(usage: Usage) -> float:
    return usage.cost_usd


def _stay() -> None:
    return


class RunJob(Struct, frozen=True):
    """All that a run needs. `calls` makes, from the run's id, what paces a remote generator's calls.

    `timeout_s` bounds a single call, and `price` tells what it cost in dollars. `flush` is called after each plugin,
    when its rows may leave the machine. `options` are recorded with the run as they are.
    """

    site: Site
    records: Enhancements
    generator: Generator
    profile: str = "portable"
    selection: Selection = Selection()
    policy: Policy | None = None
    calls: Callable[[str], Calls] | None = None
    timeout_s: float = 120.0
    price: Callable[[Usage], float] = _said
    options: Mapping[str, Any] = {}
    progress: Progress = NullProgress()
    notify: Callable[[Step], None] = _ignore
    flush: Callable[[], None] = _stay

    @property
    def repo_id(self) -> str:
        """The repository's id, which is a part of every record's key."""
        return self.site.repo.config.repository_id


class RunReport(Struct, frozen=True):
    """What a run did: paths are relative to the source, and true of the two snapshots that it names.

    `exit_code` is 20 if `absent` (claimed but not to be seen) is not empty, 32 if a quota or a refusal stopped the
    calls, which `stopped` tells, 3 if something is left to look at, else 0.
    """

    run: str
    plugins: int
    statuses: Mapping[str, int]
    model_calls: int
    files_changed: tuple[bytes, ...]
    changed_by_others: tuple[bytes, ...]
    thin: tuple[bytes, ...]
    snapshot_before: str
    snapshot_after: str
    duration_s: float
    cost_usd: float = 0.0
    absent: tuple[bytes, ...] = ()
    stopped: str = ""
    interrupted: bool = False
    reasons: Mapping[bytes, str] = {}
    warnings: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """The exit code of `drkit enhance run`."""
        if self.absent:
            return 20
        if self.stopped:
            return 32
        left = any(self.statuses.get(status) for status in (Status.FAILED, Status.PARKED))
        return 3 if left or self.thin or self.changed_by_others or self.warnings else 0

    def plain(self) -> dict[str, Any]:
        """Return the report as JSON can hold it: the keys of the contract and some more."""
        return {**keys(self), "exit_code": self.exit_code}


class Chosen(Struct, frozen=True):
    """A plugin in a preview: what would become of it. `calls` are at least and at most as many as that."""

    path: bytes
    findings: tuple[Finding, ...]
    action: str
    calls: tuple[int, int]
    thin: bool
    diff: str


class Preview(Struct, frozen=True):
    """What a run would begin with. `diff` of each plugin shows the repairs that need no model."""

    plugins: tuple[Chosen, ...]
    calls: tuple[int, int]
    tokens: int

    def plain(self) -> dict[str, Any]:
        """Return the preview as JSON can hold it."""
        return keys(self)


class RollbackReport(Struct, frozen=True):
    """What a rollback put back. `conflicts` are plugins that somebody changed since, and that were left alone."""

    run: str
    plugins: int
    files_changed: tuple[bytes, ...]
    conflicts: tuple[bytes, ...]
    snapshot_before: str
    duration_s: float

    @property
    def exit_code(self) -> int:
        """The exit code of `drkit enhance rollback`."""
        return 30 if self.conflicts else 0

    def plain(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        return keys(self)


def keys(report: Struct) -> dict[str, Any]:
    """Return a report as JSON can hold it."""
    return {name: plain(one) for name, one in structs.asdict(report).items()}


def plain(value: Any) -> Any:
    """Return a report's value as JSON can hold it; paths that are not UTF-8 have `\\xNN` in them."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, Struct):
        return keys(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return value
