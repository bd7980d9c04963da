"""`drkit doctor`: what would stand in the way of a recovery, and the command that mends it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.output import count, finding_text
from drkit.cli.session import Session
from drkit.clock import utc_now

if TYPE_CHECKING:
    from drkit.doctor import Place, Surroundings
    from drkit.repo import Repository
    from drkit.store.base import Store

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
    "rule": "the five of the 3-2-1-1-0 rule, {name, ok, evidence, repair}; none with --store",
}

_SECRETS = (
    "DRKIT_PASSWORD_FILE",
    "DRKIT_KEY_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
"""Environment variables that name files with secrets."""


def command(
    ctx: typer.Context,
    *,
    store: Annotated[
        str,
        typer.Option(
            "--store", metavar="STORE", help="Examine only this store, a name or URL, with a repository or not."
        ),
    ] = "",
) -> int:
    """Examine everything that a recovery needs, and say what mends what is wrong.

    Looks at the repository and its store, the clock, the devices, the ages of backups, proofs and drills, the
    inventory, what killed commands left behind, and who may read secrets; and whether the repository and the stores of
    drkit.toml keep the 3-2-1-1-0 rule: 3 copies, 2 kinds of store, 1 off-site, 1 append-only or immutable, 0 errors at
    the last verification. Nothing that is there is changed; one small object is written and deleted. Exit code: 0, 3
    for warnings, or that of the worst finding.
    """
    from drkit.doctor import examine, examine_store
    from drkit.store import open_store

    session: Session = ctx.obj
    if store:
        opened = open_store(session.config.resolve(store))
        try:
            report = examine_store(opened, now=utc_now)
        finally:
            opened.close()
    else:
        own = session.store()
        report = examine(
            own,
            session.inventory,
            around=_surroundings(session),
            now=utc_now,
            turso=session.turso,
            keys=session.keys,
            places=_places(session, own),
        )
    console = session.console
    console.result(report)
    for ability in report.abilities:
        console.line(f"{'yes' if ability.ok else 'no '}  {ability.name}: {ability.says}")
    for check in report.rule:
        console.line(f"{'yes' if check.ok else 'no '}  {check.name}{f': {check.evidence}' if check.ok else ''}")
    for finding in report.findings:
        console.line(f"{finding.severity}: {finding_text(finding)}")
        console.line(f"  repair: {finding.repair}")
    console.note(f"{', '.join(report.checks)} examined: {count(len(report.findings), 'finding')}")
    return report.exit


def _places(session: Session, own: Store) -> list[Place]:
    """Return the repository's own store and those that the configuration names for its copies."""
    from drkit.cli import copies
    from drkit.config import StoreConfig
    from drkit.doctor import Place
    from drkit.repo import Repository

    def opening(name: str) -> Callable[[], Repository]:
        return lambda: Repository.open(session.store(name), keys=session.keys)

    stores = session.config.stores
    named = next((name for name in stores if session.address(name) == own.url), own.url)
    places = [(named, stores.get(named, StoreConfig(own.url)))]
    places += [(name, stores[name]) for name in copies.of(session, own)]
    return [
        Place(name, store.medium, store.away, store.append_only, store.immutable, opening(name))
        for name, store in places
    ]


def _surroundings(session: Session) -> Surroundings:
    from drkit.config import DEFAULT_NAME
    from drkit.doctor import Surroundings

    return Surroundings(
        host=socket.gethostname(),
        secrets=tuple(os.fsencode(path) for name in _SECRETS if (path := os.environ.get(name, ""))),
        private=(session.inventory_path,),
        trusted=(os.fsencode(session.config_path or DEFAULT_NAME),),
    )
