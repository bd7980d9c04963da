"""How the stores of a repository stand, as far as the inventory knows: what each lacks, and what is proved of it."""

from __future__ import annotations

import json

from msgspec import Struct

from drkit.config import is_away
from drkit.inventory import queries
from drkit.inventory.engine import Engine
from drkit.inventory.records import SnapshotRecord

LEVELS = ("exists", "packs", "content", "restore")


class Standing(Struct, frozen=True):
    """What is known of one store.

    `snapshot` is the newest that is known to be there, None if none is. `behind` counts the snapshots of the
    repository, wherever they are, that came after it; `since` is when the first of them was taken, None if there is
    none. `proved` has the time of the newest proof of each level, highest first; `failed` is the highest level at which
    damage was found and no proof of that level or a higher one came after, empty if there is none.
    """

    url: str
    snapshot: str | None
    behind: int
    since: str | None
    proved: dict[str, str]
    failed: str


def standing(engine: Engine, repo_id: str, url: str) -> Standing:
    """Sum up what is known of the store `url` of a repository. Nothing is asked of the store.

    A snapshot is known to be in a store if it was made or found there, or verified there without a finding. One that
    was forgotten where it was made lags nowhere.
    """
    there = engine.execute(queries.NEWEST_THERE, (repo_id, url, url))
    newest, time = there[0] if there else (None, "")
    later = engine.execute(queries.LATER, (repo_id, time))
    forgotten = _forgotten(engine, later[0][2]) if later else frozenset()
    gone = {snapshot for snapshot, store, _ in later if (snapshot, store) in forgotten}
    times = {snapshot: at for snapshot, _, at in later if snapshot not in gone}
    proved, failed = {}, ""
    best = ""
    for level in reversed(LEVELS):
        good = _proved(engine, repo_id, url, level)
        if good:
            proved[level] = good
        best = max(best, good)
        bad = engine.execute(queries.FAILED, (repo_id, url, level))
        if bad and bad[0][0] > best:
            failed = failed or level
    return Standing(url, newest, len(times), min(times.values(), default=None), proved, failed)


def had_copies(engine: Engine, repo_id: str, url: str) -> bool:
    """Whether anything of a repository was ever copied to the store `url`."""
    return bool(engine.execute(queries.COPIED, (repo_id, url)))


def holders(engine: Engine, snapshot: SnapshotRecord) -> list[str]:
    """Return the URLs of the stores that are known to have a snapshot: those in other places than this one first."""
    found = dict.fromkeys([snapshot.store, *(url for (url,) in engine.execute(queries.HOLDERS, (snapshot.snapshot,)))])
    return sorted(found, key=is_away, reverse=True)


def _proved(engine: Engine, repo_id: str, url: str, level: str) -> str:
    """Return when something was last proved at a level, by a drill too; empty if never."""
    if level == "restore":
        proof = queries.last_proof(engine, repo_id, url, None)
        return proof.at if proof else ""
    good = queries.last_verification(engine, repo_id, url, level)
    return good.at if good else ""


def _forgotten(engine: Engine, since: str) -> frozenset[tuple[str, str]]:
    """Return the snapshots that were removed on purpose since then, each with the store."""
    details = [json.loads(detail) for (detail,) in engine.execute(queries.FORGOTTEN, (since,))]
    return frozenset((snapshot, detail["store"]) for detail in details for snapshot in detail["snapshots"])
