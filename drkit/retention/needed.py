"""What must not be forgotten whatever a policy says: what is proved, and what a guarded run may want back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from drkit.inventory import Enhancements, Inventory
from drkit.model import Level
from drkit.retention.policy import DAY_S, Kept, groups

RECENT_S = 7 * DAY_S
"""So long after it was taken, a snapshot of a guarded run is kept for those who find out late."""
_GUARD_EVENTS = frozenset({"edit", "guard-exec"})
_GUARD_TAGS = frozenset({"enhance", "enhance-rollback", "rejected"})
_AUDIT = 50_000
_PROOFS = (Level.PACKS, Level.CONTENT, Level.RESTORE)


def keep_newest(snapshots: Sequence[Kept]) -> None:
    """Add a reason to the newest snapshot of each host and source; one that was rejected only if all were."""
    for group in groups(snapshots):
        accepted = [one for one in group if not one.rejected]
        (accepted or group)[-1].reasons.append("newest of its source")


def keep_guarded(snapshots: Sequence[Kept], inventory: Inventory | None, repo_id: str) -> None:
    """Add reasons to the snapshots that guarded runs stand on: unfinished ones, and those of the last days.

    A snapshot is recent by its age in the store. Its tags tell of runs of which this inventory does not know.
    """
    by_id = {str(one.ref.id): one for one in snapshots}
    for one in snapshots:
        if one.age_s < RECENT_S and _GUARD_TAGS.intersection(one.snapshot.tags):
            one.reasons.append("recent guarded run")
    if inventory is None:
        return
    for snapshot_id, unfinished in _of_runs(inventory, repo_id, by_id):
        one = by_id[snapshot_id]
        if unfinished:
            one.reasons.append("unfinished guarded run")
        elif one.age_s < RECENT_S:
            one.reasons.append("recent guarded run")
    for link in inventory.audit(limit=_AUDIT):
        if link.event in _GUARD_EVENTS:
            detail = msgspec.json.decode(link.detail)
            for key in ("snapshot", "rejected_snapshot"):
                found = by_id.get(detail.get(key) or "")
                if found is not None and found.age_s < RECENT_S:
                    found.reasons.append("recent guarded run")


def _of_runs(inventory: Inventory, repo_id: str, by_id: Mapping[str, Kept]) -> Iterator[tuple[str, bool]]:
    """Yield the snapshots of enhancement runs that are there, and whether their run is unfinished.

    A run that was killed stays unfinished until a later one of the same source has ended.
    """
    enhancements = Enhancements(inventory)
    ended: set[bytes] = set()
    for run in enhancements.runs():  # newest first
        if run.repository != repo_id:
            continue
        unfinished = run.ended is None and run.source not in ended
        if run.ended is not None:
            ended.add(run.source)
        tops = {run.snapshot_before, run.snapshot_after or ""} & by_id.keys()
        if not unfinished and all(by_id[top].age_s >= RECENT_S for top in tops):
            continue
        rows = {row.snapshot or "" for row in enhancements.statuses(run.run)}
        for snapshot_id in sorted(tops | (rows & by_id.keys())):
            yield snapshot_id, unfinished


def keep_verified(snapshots: Sequence[Kept], inventory: Inventory, repo_id: str) -> None:
    """Add reasons so that the last proof of everything stays: of each source, at each level and store, and of plugins.

    A plugin's proof is as good in any kept snapshot that has it with the same tree hash. To be called when all other
    reasons are there.
    """
    by_id = {str(one.ref.id): one for one in snapshots}
    order = {snapshot_id: number for number, snapshot_id in enumerate(by_id)}
    whole, plugins = _proofs(inventory, repo_id, by_id)
    last: dict[tuple[object, ...], str] = {}
    for store, snapshot_id, level in whole:
        for reached in _PROOFS:
            key = (store, by_id[snapshot_id].group, reached)
            if level >= reached and order[snapshot_id] > order.get(last.get(key, ""), -1):
                last[key] = snapshot_id
    for snapshot_id in dict.fromkeys(last.values()):
        by_id[snapshot_id].reasons.append("last verified")
    newest: dict[tuple[str, tuple[str, bytes], bytes], str] = {}
    for store, snapshot_id, plugin in plugins:
        one = (store, by_id[snapshot_id].group, plugin)
        after = max(order[snapshot_id], order.get(last.get((store, one[1], Level.RESTORE), ""), -1))
        if after == order[snapshot_id] and after > order.get(newest.get(one, ""), -1):
            newest[one] = snapshot_id
    _keep_plugins(newest, by_id, order, inventory)


def _keep_plugins(
    newest: Mapping[tuple[str, tuple[str, bytes], bytes], str],
    by_id: Mapping[str, Kept],
    order: Mapping[str, int],
    inventory: Inventory,
) -> None:
    trees: dict[str, dict[bytes, str]] = {}

    def tree(snapshot_id: str, plugin: bytes) -> str:
        if snapshot_id not in trees:
            trees[snapshot_id] = {row.path: row.tree_sha256 for row in inventory.plugins(snapshot_id)}
        return trees[snapshot_id].get(plugin, "")

    # The oldest first: an older snapshot of the same night holds what the later ones prove, too.
    for (_, group, plugin), snapshot_id in sorted(newest.items(), key=lambda item: order[item[1]]):
        kept = [one for one in by_id.values() if one.reasons and one.group == group]
        proved = tree(snapshot_id, plugin)
        if not any(str(one.ref.id) == snapshot_id for one in kept) and not (
            proved and any(tree(str(one.ref.id), plugin) == proved for one in kept)
        ):
            by_id[snapshot_id].reasons.append("last verified")


def _proofs(
    inventory: Inventory, repo_id: str, by_id: Mapping[str, Kept]
) -> tuple[list[tuple[str, str, Level]], list[tuple[str, str, bytes]]]:
    """Return what was proved of the snapshots that are there: (store, id, level) and (store, id, plugin).

    What failed the last time is not proved, whatever it was before.
    """
    whole: list[tuple[str, str, Level]] = []
    plugins: list[tuple[str, str, bytes]] = []
    failed: set[tuple[str, str]] = set()
    for row in inventory.verifications():  # newest first
        known = row.repository == repo_id and row.snapshot in by_id
        if not known or (row.store, row.snapshot) in failed:
            continue
        if row.plugin is not None:
            plugins += [(row.store, row.snapshot, row.plugin)] if row.ok and row.level == "restore" else []
        elif not row.ok:
            failed.add((row.store, row.snapshot))
        elif row.level.upper() in Level.__members__:
            whole.append((row.store, row.snapshot, Level[row.level.upper()]))
    for drill in inventory.drills():
        if drill.repository == repo_id and drill.passed and drill.snapshot in by_id:
            if drill.plugin is None:
                whole.append((drill.store, drill.snapshot, Level.RESTORE))
            else:
                plugins.append((drill.store, drill.snapshot, drill.plugin))
    return whole, plugins
