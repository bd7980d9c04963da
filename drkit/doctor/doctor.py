"""The doctor verb: every check in turn. Nothing is changed but one small object that is written and deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from msgspec import structs

from drkit.doctor.leftovers import check_leftovers
from drkit.doctor.permissions import check_permissions
from drkit.doctor.proofs import check_inventory, check_proofs
from drkit.doctor.report import Diagnosis, DoctorReport, RuleCheck, Surroundings, Targets, report
from drkit.doctor.repository import Newest, check_repository, newest_snapshots
from drkit.doctor.rule import Place, Rule
from drkit.doctor.store import check_store, try_store
from drkit.errors import DrkitError, IntegrityError, RepositoryNotFound
from drkit.format.limits import FORMAT_MINOR
from drkit.inventory import Inventory
from drkit.repo import Repository
from drkit.seal import KeySource
from drkit.store.base import Store


def examine(
    store: Store,
    open_inventory: Callable[[], Inventory],
    *,
    around: Surroundings,
    now: Callable[[], datetime],
    targets: Targets | None = None,
    turso: tuple[str, str] = ("", ""),
    places: Sequence[Place] = (),
    keys: KeySource | None = None,
) -> DoctorReport:
    """Examine a repository, its inventory and what surrounds them. What is wrong becomes findings, never an error.

    `open_inventory` may fail; `turso` is a URL and a token, both empty where there is none. `places` are the stores
    that the 3-2-1-1-0 rule is held against, the repository's own first; without any it is not. `keys` open
    an encrypted repository.
    """
    targets = targets or Targets()
    checks: list[str] = []
    findings: list[Diagnosis] = []

    def run(name: str, found: Iterable[Diagnosis]) -> None:
        checks.append(name)
        try:
            findings.extend(found)
        except DrkitError as error:
            repair = error.hint
            if name == "repository" and len(places) > 1 and isinstance(error, (RepositoryNotFound, IntegrityError)):
                others = ", ".join(place.name for place in places[1:])
                repair = f"'drkit repair' brings it back from what the other stores hold ({others})"
            findings.append(Diagnosis(f"{name}-unreadable", store.url, str(error), repair, error.code))

    repo: Repository | None = None
    newest: list[Newest] = []
    recorded: Inventory | None = None
    rule: tuple[RuleCheck, ...] = ()

    def repository() -> Iterator[Diagnosis]:
        nonlocal repo, newest
        repo = Repository.open(store, keys=keys)
        newest, damaged = newest_snapshots(repo)
        yield from damaged
        yield from check_repository(repo, newest, now=now(), host=around.host, targets=targets)

    def inventory() -> Iterator[Diagnosis]:
        nonlocal recorded
        recorded = open_inventory()
        yield from check_inventory(recorded, turso)
        if repo is not None:
            yield from check_proofs(recorded, repo, newest, now=now(), targets=targets)

    run("repository", repository())

    def copies(repo: Repository) -> Iterator[Diagnosis]:
        nonlocal rule
        held = Rule(places, newest, host=around.host, targets=targets)
        yield from held.look(repo)
        rule = held.checks(recorded, now=now())
        yield from held.findings(rule)

    if repo is not None:
        if repo.config.format.minor <= FORMAT_MINOR:  # else this version must not write to it
            run("store", check_store(store, now=now))
        sources = [one.snapshot.raw_source for one in newest if one.snapshot.host == around.host]
        run("leftovers", check_leftovers(repo, sources, host=around.host, now=now()))
    run("inventory", inventory())
    if repo is not None and places:
        run("copies", copies(repo))
    run("permissions", check_permissions(around))
    return structs.replace(report(checks, findings), rule=rule)


def examine_store(store: Store, *, now: Callable[[], datetime]) -> DoctorReport:
    """Examine nothing but a store, whether or not a repository is in it, by everything that drkit asks of stores."""
    abilities, findings = try_store(store, now=now)
    return structs.replace(report(["store"], findings), abilities=abilities)
