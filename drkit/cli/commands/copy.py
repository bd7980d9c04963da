"""`drkit copy`: bring other stores up to date."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drkit.cli import copies, recording
from drkit.cli.params import LevelName
from drkit.cli.session import Session
from drkit.errors import UsageError
from drkit.model import Level

if TYPE_CHECKING:
    from drkit.cli.copies import Done
    from drkit.copy import CopyReport
    from drkit.repo import Repository

EXAMPLES = """
drkit copy --to s3://bucket/plugins
drkit copy --to turso: --verify content
drkit copy --to /mnt/usb/backups --dry-run
drkit copy --all
"""
KEYS = {
    "source": "the store that was copied from",
    "target": "the store that was brought up to date",
    "repository": "id of the repository",
    "created": "whether the target was empty, and has become a repository",
    "dry_run": "whether nothing was written",
    "snapshots": "ids of the snapshots that were copied",
    "packs": "ids of the packs that were copied, each read back from the target and hashed",
    "bytes": "sum of their sizes",
    "present": "how many packs the target had already",
    "others": "how many other objects were copied: key slots, rows of inventories",
    "left_out": "ids of snapshots that were not copied because something that they need is damaged or missing",
    "findings": "{code, object, message, repair}; if there are any, the exit code is 3",
    "duration_s": "seconds",
    "verify": "result of 'drkit verify' of the copied snapshots at the target, null for a dry run and with --all",
    "copies": "of each store: {name, url, ok, error, created, snapshots, packs, bytes, lag, lag_s, duration_s}, as in "
    "the result of 'drkit backup'; with --all the keys above are of all stores together, and `target` is empty",
}


def command(
    ctx: typer.Context,
    *,
    to: Annotated[
        str,
        typer.Option("--to", metavar="STORE", help="The store to bring up to date: a name in drkit.toml, or a URL."),
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="Bring every store in drkit.toml up to date.")] = False,
    verify: Annotated[
        LevelName, typer.Option("--verify", help="How thoroughly to verify the copied snapshots; see 'drkit verify'.")
    ] = "exists",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be copied, and write nothing.")] = False,
) -> int:
    """Bring other stores up to date.

    An empty store becomes a copy of the repository; one that holds another repository is refused. What is there
    already is not sent again, also after an interruption. Every pack is hashed before it goes and again as the target
    gives it back; then the snapshots are verified there to the level of --verify, and that is recorded for this store.
    Nothing is deleted at the target. What is damaged here is not copied, and the exit code is 3.

    With --all, a store that fails does not stop the others; the exit code is 3 then.
    """
    session: Session = ctx.obj
    if bool(to) == every:
        raise UsageError("give one of --to and --all")
    repository = session.open()
    level = Level[verify.upper()]
    if every:
        stores = copies.of(session, repository.store)
        if not stores:
            raise UsageError(
                f"drkit.toml names no stores for copies of {repository.store.url}",
                hint="docs/copies.md describes [stores]; or name one with --to",
            )
        done = copies.every(session, repository, stores, level=level, dry_run=dry_run)
    else:
        copies.refuse_misspelt(session, to)
        done = copies.only(session, repository, to, level=level, dry_run=dry_run)
    if not dry_run:
        recording.flush(session, repository)
    reports = [each.report for each in done if each.report is not None]
    proof = done[0].proof if to else None
    session.console.result({**_together(repository, done, reports), "verify": proof, "copies": [d.copy for d in done]})
    copies.show(session, done, dry_run=dry_run)
    return copies.exit_code(session, done)


def _together(repository: Repository, done: Sequence[Done], reports: Sequence[CopyReport]) -> dict[str, Any]:
    """Return the keys of the reports, those of several stores taken together."""
    return {
        "source": repository.store.url,
        "target": done[0].copy.url if len(done) == 1 else "",
        "repository": repository.config.repository_id,
        "created": any(report.created for report in reports),
        "dry_run": any(report.dry_run for report in reports),
        "snapshots": _union(report.snapshots for report in reports),
        "packs": _union(report.packs for report in reports),
        "bytes": sum(report.bytes for report in reports),
        "present": sum(report.present for report in reports),
        "others": sum(report.others for report in reports),
        "left_out": _union(report.left_out for report in reports),
        "findings": [finding for report in reports for finding in report.findings],
        "duration_s": round(sum(each.copy.duration_s for each in done), 3),
    }


def _union(lists: Iterable[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(one for each in lists for one in each))
