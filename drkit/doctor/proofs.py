"""What the inventory knows: whether it is whole, in step with its ends, and how old the proofs are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from drkit.doctor.report import DAMAGE, WARNING, Diagnosis, Targets, age, as_diagnosis
from drkit.doctor.repository import Newest
from drkit.errors import StoreError
from drkit.inventory import Inventory
from drkit.inventory.turso import Turso
from drkit.model import show_path
from drkit.repo import Repository

_HARMLESS = frozenset({"turso-behind"})


def check_inventory(inventory: Inventory, turso: tuple[str, str]) -> Iterator[Diagnosis]:
    """Check the audit's chains, what has not arrived in the repository, and Turso if a URL and a token are given."""
    for finding in inventory.check_audit():
        yield as_diagnosis(finding, DAMAGE)
    waiting = len(inventory.outbox_pending("stored"))
    if waiting:
        message = f"{waiting} recorded transactions are not in the repository that they tell of"
        repair = "the next command that records something on that repository stores them too, for instance drkit verify"
        yield Diagnosis("inventory-behind", show_path(inventory.path or b""), message, repair, WARNING)
    url, token = turso
    if url:
        from drkit.inventory.agree import compare_chains

        client = Turso(url, token)
        try:
            for finding in compare_chains(inventory, client):
                yield as_diagnosis(finding, WARNING if finding.code in _HARMLESS else DAMAGE)
        except StoreError as error:
            yield Diagnosis("turso-unreachable", client.name, str(error), error.hint, WARNING)
        finally:
            client.close()


def check_proofs(
    inventory: Inventory, repo: Repository, newest: list[Newest], *, now: datetime, targets: Targets
) -> Iterator[Diagnosis]:
    """Check that snapshots are those that were recorded, and how old the proofs are."""
    url, repo_id = repo.store.url, repo.config.repository_id
    verified = (inventory.last_verification(repo_id, url, level) for level in ("content", "restore"))
    proofs = (*verified, inventory.last_proof(repo_id, url, None))
    times = [proof.at for proof in proofs if proof is not None]
    verify = "drkit verify --level restore"
    if not times:
        yield Diagnosis("never-verified", url, "nothing here was ever verified at level content or restore", verify)
    elif (old := now - datetime.fromisoformat(max(times))) > targets.verified:
        message = f"the last verification was {age(old)} ago, the target is {age(targets.verified)}"
        yield Diagnosis("verified-long-ago", url, message, verify)
    yield from _drilled(inventory, repo, now, targets)
    for one in newest:
        yield from _witnessed(inventory, repo, one)
    yield from _vanished(inventory, repo, newest)


def _drilled(inventory: Inventory, repo: Repository, now: datetime, targets: Targets) -> Iterator[Diagnosis]:
    drills = [row for row in inventory.drills(limit=500) if row.repository == repo.config.repository_id]
    repair = "drkit drill --sample 5; 'drkit schedule print --github --every weekly' prints a job that does it"
    if not drills:
        yield Diagnosis("never-drilled", repo.store.url, "no restore from here was ever timed", repair)
        return
    old = now - datetime.fromisoformat(drills[0].at)
    if old > targets.drilled:
        message = f"the last drill was {age(old)} ago, the target is {age(targets.drilled)}"
        yield Diagnosis("drilled-long-ago", repo.store.url, message, repair)
    if not drills[0].passed:
        what = "everything" if drills[0].plugin is None else show_path(drills[0].plugin)
        message = f"the last drill, of {what}, failed: {drills[0].reason}"
        yield Diagnosis("drill-failed", repo.store.url, message, "see runbooks/drill-failed-in-ci.md")


def _vanished(inventory: Inventory, repo: Repository, newest: list[Newest]) -> Iterator[Diagnosis]:
    """Look for the newest snapshot that was recorded of each source: nothing removes it but for a newer one."""
    latest = {(one.snapshot.host, one.snapshot.raw_source): one.ref.name for one in newest}
    there = {ref.name for ref in repo.snapshots()}
    for record in inventory.newest_by_source():
        here = (record.repository, record.store) == (repo.config.repository_id, repo.store.url)
        if here and record.name not in there and latest.get((record.host, record.source), "") < record.name:
            message = f"the newest snapshot that was made of {show_path(record.source)} is not there any more"
            repair = (
                "find out who wrote to the store, which may be back in an older state; "
                "'drkit repair --from URL' brings the snapshot back from a copy"
            )
            yield Diagnosis("snapshot-vanished", record.name, message, repair, DAMAGE)


def _witnessed(inventory: Inventory, repo: Repository, one: Newest) -> Iterator[Diagnosis]:
    witness = inventory.witness(repo.config.repository_id, one.ref.name)
    if witness is not None and (witness.snapshot, witness.tree_sha256) != (one.ref.id, one.snapshot.tree_sha256):
        message = "this is not the snapshot that was recorded when it was made"
        repair = "find out who wrote to the repository; restore from another copy or an older snapshot"
        yield Diagnosis("snapshot-replaced", one.ref.name, message, repair, DAMAGE)
