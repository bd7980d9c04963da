"""The doctor verb: every check in turn. Nothing is changed but one small object that is written and deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from drkit.doctor.leftovers import check_leftovers
from drkit.doctor.permissions import check_permissions
from drkit.doctor.report import Diagnosis, DoctorReport, Surroundings, Targets, report
from drkit.doctor.repository import check_repository, newest_snapshots
from drkit.doctor.store import check_store
from drkit.errors import DrkitError
from drkit.repo import Repository
from drkit.store.base import Store


def examine(
    store: Store, *, around: Surroundings, now: Callable[[], datetime], targets: Targets | None = None
) -> DoctorReport:
    """Examine a repository and what surrounds it. What is wrong becomes findings; nothing is raised for it."""
    targets = targets or Targets()
    checks: list[str] = []
    findings: list[Diagnosis] = []

    def run(name: str, found: Iterable[Diagnosis]) -> None:
        checks.append(name)
        try:
            findings.extend(found)
        except DrkitError as error:
            findings.append(Diagnosis(f"{name}-unreadable", store.url, str(error), error.hint, error.code))

    run("repository", _repository(store, around, now(), targets))
    if not any(finding.code == "repository-unreadable" for finding in findings):
        run("store", check_store(store, now=now))
    run("permissions", check_permissions(around))
    return report(checks, findings)


def _repository(store: Store, around: Surroundings, now: datetime, targets: Targets) -> Iterator[Diagnosis]:
    repo = Repository.open(store)
    newest, damaged = newest_snapshots(repo)
    yield from damaged
    yield from check_repository(repo, newest, now=now, host=around.host, targets=targets)
    sources = [one.snapshot.raw_source for one in newest if one.snapshot.host == around.host]
    yield from check_leftovers(repo, sources, host=around.host, now=now)


def examine_store(store: Store, *, now: Callable[[], datetime]) -> DoctorReport:
    """Examine nothing but a store, whether or not a repository is in it."""
    return report(["store"], check_store(store, now=now))
