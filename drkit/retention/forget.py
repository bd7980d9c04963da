"""The forget verb: removes snapshots that no policy, no proof and no guarded run asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from msgspec import Struct

from drkit.errors import IntegrityError, ObjectNotFound
from drkit.inventory import Inventory
from drkit.repo import Repository
from drkit.retention.needed import keep_guarded, keep_newest, keep_verified
from drkit.retention.policy import Kept, Policy, apply


class ForgetReport(Struct, frozen=True):
    """What was, or with `dry_run` would be, removed and kept, oldest first. `damaged` could not be read, and stay."""

    kept: tuple[Kept, ...]
    removed: tuple[Kept, ...]
    damaged: tuple[str, ...]
    dry_run: bool


def forget(
    repo: Repository,
    policy: Policy,
    *,
    inventory: Inventory | None = None,
    needed: Mapping[str, str] | None = None,
    dry_run: bool = False,
    told: Callable[[ForgetReport], object] | None = None,
) -> ForgetReport:
    """Remove the snapshots that nothing keeps; `told` hears the plan before anything is removed.

    `needed` names more snapshots (by id) that must stay, and why. Kept in any case: the newest snapshot of each host
    and source, the last verified one, what guarded runs need; and what cannot be read. Ages are differences of the
    store's own stamps, to that of the newest snapshot: a repository that rests loses nothing. UsageError for a policy
    that keeps nothing; StoreError if the store refuses. Space comes back with `prune`.
    """
    if not dry_run:
        repo.check_writable()
    snapshots, damaged = read_snapshots(repo)
    apply(policy, snapshots)
    keep_newest(snapshots)
    for one in snapshots:
        if needed and one.ref.id in needed:
            one.reasons.append(needed[one.ref.id])
    keep_guarded(snapshots, inventory, repo.config.repository_id)
    if inventory is not None:
        keep_verified(snapshots, inventory, repo.config.repository_id)
    for one in snapshots:
        one.reasons[:] = dict.fromkeys(one.reasons)
    report = ForgetReport(
        kept=tuple(one for one in snapshots if one.reasons),
        removed=tuple(one for one in snapshots if not one.reasons),
        damaged=damaged,
        dry_run=dry_run,
    )
    if told is not None:
        told(report)
    if not dry_run:
        for one in report.removed:
            with contextlib.suppress(ObjectNotFound):  # somebody else forgot it just now
                repo.store.delete(one.ref.name)
    return report


def read_snapshots(repo: Repository) -> tuple[list[Kept], tuple[str, ...]]:
    """Return all snapshots, oldest first, with their ages; and what is wrong with those that cannot be read."""
    stamps = {info.name: info.modified for info in repo.store.list("snapshots/")}
    newest = max(stamps.values(), default=0.0)
    snapshots: list[Kept] = []
    damaged: list[str] = []
    for ref in repo.snapshots():
        stamp = stamps.get(ref.name, newest)
        try:
            snapshots.append(Kept(ref, repo.load(ref), stamp, newest - stamp, []))
        except ObjectNotFound:
            continue  # forgotten by somebody else
        except IntegrityError as error:
            damaged.append(str(error))
    return snapshots, tuple(damaged)
