"""`drkit unlock`: remove the locks that killed commands have left in a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.output import count
from drkit.cli.session import Session

if TYPE_CHECKING:
    from drkit.repo.lock import FoundLock

EXAMPLES = """
drkit unlock
drkit unlock --all
"""
KEYS = {
    "removed": "{name, owner}: the locks that were removed",
    "left": "{name, owner}: those of commands that are still at work",
}


def command(
    ctx: typer.Context,
    *,
    every: Annotated[
        bool, typer.Option("--all", help="Remove the others, too: backups that still run will fail.")
    ] = False,
) -> None:
    """Remove locks that killed commands have left in the repository.

    A lock is left if it was not rewritten for 30 minutes, by the store's own clock, or if its process is known to have
    ended. Backups and prunes do the same when they begin. A command whose lock is taken away notices, and fails before
    it can do harm.
    """
    from drkit.clock import utc_now
    from drkit.repo.lock import unlock

    session: Session = ctx.obj
    removed, left = unlock(session.open().store, utc_now, every=every)
    session.console.result({"removed": list(map(_keys, removed)), "left": list(map(_keys, left))})
    for what, locks in (("removed", removed), ("left", left)):
        for lock in locks:
            session.console.line(f"{what}: {lock.name} ({lock.owner or 'owner unknown'})")
    session.console.note(f"{count(len(removed), 'lock')} removed, {len(left)} left")


def _keys(lock: FoundLock) -> dict[str, str]:
    return {"name": lock.name, "owner": lock.owner}
