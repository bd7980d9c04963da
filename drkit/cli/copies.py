"""The configured stores: which of them hold copies of a repository, and how they are brought up to date."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from msgspec import Struct

from drkit.cli import recording
from drkit.cli.output import count, duration, size
from drkit.cli.session import Session
from drkit.errors import DrkitError, IntegrityError, PartialError, UsageError
from drkit.model import Finding, Level

if TYPE_CHECKING:
    from drkit.copy import CopyReport
    from drkit.inventory.standing import Standing
    from drkit.repo import Repository
    from drkit.store.base import Store
    from drkit.verify import VerifyReport


class StoreCopy(Struct, frozen=True):
    """What became of one store. `snapshots` and `packs` were copied, or are to be; `bytes` are those of packs.

    `lag` counts the snapshots that it lacks now, `lag_s` is how long ago the first of them was taken; None where the
    inventory cannot be asked.
    """

    name: str
    url: str
    ok: bool
    error: str
    created: bool = False
    snapshots: int = 0
    packs: int = 0
    bytes: int = 0
    lag: int | None = None
    lag_s: float | None = None
    duration_s: float = 0.0


class Done(Struct, frozen=True):
    """A store that was tried: what became of it, and the reports as far as it came."""

    copy: StoreCopy
    report: CopyReport | None = None
    proof: VerifyReport | None = None
    hint: str = ""


def of(session: Session, store: Store) -> dict[str, str]:
    """Return the configured stores, name → URL, that hold copies of the repository in `store`.

    None does if the configuration names another repository: its stores are not for this one.
    """
    return {name: url for name, url in _others(session, store).items() if name in session.config.stores}


def good(session: Session, store: Store) -> list[Store]:
    """Open the repository and the copies that the configuration names, but for `store`; tell of those that fail."""
    from drkit.repo import Repository, opening

    own = ""
    with suppress(DrkitError):  # the settings may be what is to be repaired
        own = opening.read_settings(store)[0].repository_id
    found = []
    for name in _others(session, store):
        try:
            other = session.store(name)
            copy_id = Repository.open(other, keys=session.keys).config.repository_id
            if own and copy_id != own:
                raise UsageError(f"{other.url} holds another repository ({copy_id})", hint="name a copy with --from")
        except DrkitError as error:
            tell(session, Finding("copy-left-out", name, f"no copy comes from there: {error}", error.hint))
        else:
            found.append(other)
    return found


def _others(session: Session, store: Store) -> dict[str, str]:
    config = session.config
    places = {name: session.address(name) for name in config.stores}
    if config.repo and (home := session.address(config.repo)) not in places.values():
        places = {config.repo: home, **places}
    if config.repo and store.url not in places.values():
        return {}
    return {name: url for name, url in places.items() if url != store.url}


def every(
    session: Session, repository: Repository, stores: Mapping[str, str], *, level: Level, dry_run: bool = False
) -> list[Done]:
    """Bring the stores up to date, one after another; one that fails does not stop the others.

    One that is known to have had a copy must have one: the directory of a disk that is not mounted is empty, too.
    """
    known = recording.standings(session, repository, list(stores.values()))
    done = []
    for (name, url), before in zip(stores.items(), known, strict=True):
        began = monotonic()
        create = before is None or before.snapshot is None
        try:
            done.append(_bring_up(session, repository, name, level, create=create, dry_run=dry_run))
        except DrkitError as error:
            failed = StoreCopy(name, url, ok=False, error=str(error), duration_s=round(monotonic() - began, 3))
            done.append(Done(failed, hint=error.hint))
    return _with_lags(session, repository, done)


def refuse_misspelt(session: Session, named: str) -> None:
    """UsageError for a word that is no store of the configuration and no directory: it would become one here."""
    known = session.config.stores
    if known and named not in known and not any(sign in named for sign in "/:~") and not os.path.exists(named):
        raise UsageError(
            f"drkit.toml names no store {named!r}; it has {', '.join(known)}",
            hint=f"write ./{named} for a new directory of that name",
        )


def only(session: Session, repository: Repository, named: str, *, level: Level, dry_run: bool = False) -> list[Done]:
    """Bring one store up to date, by its name or URL. What goes wrong is raised."""
    return _with_lags(session, repository, [_bring_up(session, repository, named, level, create=True, dry_run=dry_run)])


def _bring_up(
    session: Session, repository: Repository, named: str, level: Level, *, create: bool, dry_run: bool
) -> Done:
    """Copy, verify at the store what was copied, and record both."""
    from drkit.cli.commands import verify as prove
    from drkit.clock import utc_now
    from drkit.copy import copy
    from drkit.repo import Repository

    began = monotonic()
    target = session.store(named)
    with session.progress() as progress:
        report = copy(repository, target, create=create, dry_run=dry_run, progress=progress, now=utc_now)
    proof = None
    if not dry_run:
        recording.copied(session, report)
        there = Repository.open(target, keys=repository.keys)
        snapshots = there.snapshots()
        refs = [ref for ref in snapshots if ref.id in report.snapshots] or snapshots[-1:]
        proof = prove.run(session, there, refs, level) if refs else None
    findings = (*report.findings, *(proof.findings if proof else ()))
    done = StoreCopy(
        name=named,
        url=report.target,
        ok=not findings,
        error=f"{findings[0].object}: {findings[0].message}" if findings else "",
        created=report.created,
        snapshots=len(report.snapshots),
        packs=len(report.packs),
        bytes=report.bytes,
        duration_s=round(monotonic() - began, 3),
    )
    return Done(done, report, proof, findings[0].repair if findings else "")


def _with_lags(session: Session, repository: Repository, done: Sequence[Done]) -> list[Done]:
    """Return what was done with what the inventory says of each store now."""
    from msgspec.structs import replace

    standings = recording.standings(session, repository, [each.copy.url for each in done])
    return [
        replace(each, copy=replace(each.copy, lag=standing.behind, lag_s=behind_s(session, standing)))
        if standing
        else each
        for each, standing in zip(done, standings, strict=True)
    ]


def behind_s(session: Session, standing: Standing) -> float:
    """Return how long a store has been behind, in seconds; 0 if it is not."""
    from datetime import datetime

    if standing.since is None:
        return 0.0
    now = datetime.fromisoformat(session.inventory().stamp())
    return round((now - datetime.fromisoformat(standing.since)).total_seconds(), 3)


def verdict(session: Session, done: Sequence[Done]) -> int:
    """Tell what failed or lags too far; return the exit code: 3 if that is more than [copies] allows."""
    policy = session.config.copies
    required = len(done) if policy.require is None else min(policy.require, len(done))
    enough = sum(each.copy.ok for each in done) >= required
    for each in done:
        copy = each.copy
        if not copy.ok:
            tell(session, _failed(each))
        if copy.lag and policy.too_far(copy.lag, copy.lag_s or 0.0):
            enough = False
            message = f"{copy.url} lacks {count(copy.lag, 'snapshot')}, the first taken {duration(copy.lag_s or 0)} ago"
            tell(session, Finding("copy-lags", copy.name, message, f"drkit copy --to {copy.name}"))
    return 0 if enough else PartialError.code


def _failed(done: Done) -> Finding:
    copy = done.copy
    return Finding("copy-failed", copy.name, f"{copy.url} is not up to date: {copy.error}", done.hint)


def tell(session: Session, finding: Finding) -> None:
    """Print a finding once."""
    if finding not in session.told:
        session.told.add(finding)
        session.console.finding(finding)


def show(session: Session, done: Sequence[Done], *, dry_run: bool = False) -> None:
    """Print what was found on the way, and for each store that was reached what was done."""
    from drkit.cli.commands import verify as prove

    did = "would copy" if dry_run else "copied"
    for each in done:
        if each.report is None:
            continue
        session.told.update(each.report.findings)
        if not session.console.json:
            for finding in each.report.findings:
                session.console.finding(finding)
        copy = each.copy
        session.console.note(
            f"{did} {count(copy.snapshots, 'snapshot')} in {count(copy.packs, 'pack')}, {size(copy.bytes)}, "
            f"to {copy.url}; {count(each.report.present, 'pack')} there already, {duration(copy.duration_s)}"
        )
        if each.proof is not None:
            prove.show(session, each.proof)


def exit_code(session: Session, done: Sequence[Done]) -> int:
    """Tell which stores were not reached; return the exit code of a command that was to bring all up to date."""
    for each in done:
        if each.report is None:
            tell(session, _failed(each))
    if any(each.proof is not None and not each.proof.ok for each in done):
        return IntegrityError.code
    return 0 if all(each.copy.ok for each in done) else PartialError.code
