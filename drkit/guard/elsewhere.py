"""Proofs in other stores: before a permit, the snapshot goes there and is brought back from there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from msgspec import structs

from drkit.copy import copy, record_copy
from drkit.errors import DrkitError, GuardRefused, IntegrityError, RepositoryNotFound, UsageError
from drkit.guard.site import Elsewhere, Policy, Site
from drkit.inventory.standing import had_copies
from drkit.progress import NullProgress
from drkit.repo import Repository, SnapshotRef
from drkit.store.base import Store


def check_stores(site: Site, policy: Policy) -> None:
    """Refuse a policy that asks for more stores than there are, or for others."""
    own = {site.store_url, site.repo.store.url}
    known = own.union(*({other.name, other.url} for other in site.others))
    if missing := [name for name in policy.stores if name not in known]:
        raise GuardRefused(
            f"the rule asks for a proof in {', '.join(missing)}, where this repository is not",
            hint="name the store in drkit.toml as [stores.NAME], or drop it from the rule",
        )
    if policy.copies > 1 + len(site.others):
        raise GuardRefused(
            f"the rule asks for {policy.copies} copies, and there are {1 + len(site.others)} stores",
            hint="name more in drkit.toml as [stores.NAME], or ask for fewer copies in the rule",
        )


def chosen(site: Site, policy: Policy) -> list[Elsewhere]:
    """Return the other stores that a policy names."""
    return [other for other in site.others if {other.name, other.url}.intersection(policy.stores)]


def prove_elsewhere(
    site: Site, policy: Policy, ref: SnapshotRef, prove: Callable[[Site], None], lately: Callable[[Site], bool]
) -> None:
    """Bring a snapshot to as many other stores as the policy asks for, and prove it in each.

    The stores that the policy names come first, and none of them may fail; of the rest, another may stand for one
    that does. `prove` and `lately` get the site as it is with the other store in the place of its own; what `lately`
    says is proved is neither copied nor proved again. GuardRefused with the reasons.
    """
    named = chosen(site, policy)
    rest = [other for other in site.others if other not in named]
    proved, failures = 0, list[str]()
    for other in (*named, *rest):
        if other not in named and proved >= policy.copies - 1:
            break
        try:
            with closing(other.open()) as store:
                _prove_in(site, store, ref, prove, lately)
        except DrkitError as error:
            failures.append(f"{other.name}: {error}")
            if other in named:
                break
        else:
            proved += 1
    if proved < max(policy.copies - 1, len(named)):
        raise GuardRefused(
            f"the snapshot just taken is not proved in as many stores as the rule asks for: {'; '.join(failures)}",
            hint="see 'drkit doctor'; then 'drkit copy --all' brings the stores up to date",
        )


def _prove_in(
    site: Site, store: Store, ref: SnapshotRef, prove: Callable[[Site], None], lately: Callable[[Site], bool]
) -> None:
    there = look(site, store)
    if there is not None and lately(_at(site, there)):
        return
    if there is None or ref not in there.snapshots():
        report = copy(site.repo, store, progress=NullProgress(), now=site.now)
        record_copy(site.inventory, report)
        there = Repository.open(store, keys=site.repo.keys)
        if ref not in there.snapshots():
            said = "; ".join(f"{finding.object}: {finding.message}" for finding in report.findings)
            raise IntegrityError(f"the snapshot did not come there: {said}")
    prove(_at(site, there))


def _at(site: Site, there: Repository) -> Site:
    return structs.replace(site, repo=there, store_url=there.store.url)


def look(site: Site, store: Store) -> Repository | None:
    """Return what is in another store; None if nothing was ever there, RepositoryNotFound if something was.

    The directory of a disk that is not mounted is empty, too. UsageError if it is another repository.
    """
    try:
        there = Repository.open(store, keys=site.repo.keys)
    except RepositoryNotFound as error:
        if not had_copies(site.inventory.engine, site.repo.config.repository_id, store.url):
            return None
        raise RepositoryNotFound(f"there is no repository in {store.url} any more", hint=error.hint) from error
    if there.config.repository_id != site.repo.config.repository_id:
        raise UsageError(f"{store.url} holds another repository", hint="name another place for it in drkit.toml")
    return there
