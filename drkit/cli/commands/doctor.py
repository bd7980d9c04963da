"""`drkit doctor`: what would stand in the way of a recovery, and the command that mends it."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.output import count, finding_text
from drkit.cli.session import Session
from drkit.clock import utc_now

if TYPE_CHECKING:
    from drkit.doctor import Surroundings

EXAMPLES = """
drkit doctor
drkit doctor --json | jq -r '.findings[].repair'
drkit doctor --store /mnt/new-disk/backups
drkit doctor --store s3://bucket/folder
"""
KEYS = {
    "ok": "whether there is nothing but advice; if there is more, the exit code is that of the worst finding",
    "checks": "what was looked at",
    "findings": "{code, object, message, repair, exit}, worst first; `exit` is 0 for advice",
    "abilities": "with --store: what the store can, {name, ok, says, needed}",
}


def command(
    ctx: typer.Context,
    *,
    store: Annotated[
        str,
        typer.Option("--store", metavar="URL", help="Examine only this store, whether or not it has a repository."),
    ] = "",
) -> int:
    """Examine everything that a recovery needs, and say what mends what is wrong.

    Looks at the repository and its store, the clock, the devices, the ages of backups, proofs and drills, the
    inventory, what killed commands left behind, and who may read secrets. Nothing that is there is changed; one small
    object is written and deleted. Exit code: 0, 3 for warnings, or that of the worst finding.
    """
    from drkit.doctor import examine, examine_store
    from drkit.store import open_store

    session: Session = ctx.obj
    if store:
        opened = open_store(store)
        try:
            report = examine_store(opened, now=utc_now)
        finally:
            opened.close()
    else:
        report = examine(
            session.store(), session.inventory, around=_surroundings(session), now=utc_now, turso=session.turso
        )
    console = session.console
    console.result(report)
    for ability in report.abilities:
        console.line(f"{'yes' if ability.ok else 'no '}  {ability.name}: {ability.says}")
    for finding in report.findings:
        console.line(f"{finding.severity}: {finding_text(finding)}")
        console.line(f"  repair: {finding.repair}")
    console.note(f"{', '.join(report.checks)} examined: {count(len(report.findings), 'finding')}")
    return report.exit


def _surroundings(session: Session) -> Surroundings:
    from drkit.config import DEFAULT_NAME
    from drkit.doctor import Surroundings

    password = os.environ.get("DRKIT_PASSWORD_FILE", "")
    return Surroundings(
        host=socket.gethostname(),
        private=(session.inventory_path, *([os.fsencode(password)] if password else [])),
        trusted=(os.fsencode(session.config_path or DEFAULT_NAME),),
    )
