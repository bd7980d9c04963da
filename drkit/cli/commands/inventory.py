"""`drkit inventory`: the record of what was backed up, verified, restored and drilled."""

from __future__ import annotations

import io
import shlex
from contextlib import AbstractContextManager, closing
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drkit.cli.output import count, path_text
from drkit.cli.session import Session
from drkit.errors import UsageError
from drkit.model import Finding

if TYPE_CHECKING:
    from drkit.inventory import Inventory
    from drkit.inventory.turso import Turso

EXAMPLES = """
drkit inventory
drkit inventory push
drkit inventory pull
drkit inventory rebuild --repo ~/backups
drkit inventory sql 'SELECT time, files FROM snapshots ORDER BY time DESC LIMIT 5'
drkit inventory export drills --format csv
"""
KEYS = {
    "path": "the local file",
    "inventory": "its id",
    "rows": "table → how many rows it has",
    "to_store": "how many commands the repositories have not got the rows of",
    "to_push": "how many commands Turso has not got the rows of",
    "turso": "the Turso database that is named, or null",
}

Action = Literal["status", "push", "pull", "rebuild", "sql", "export"]


def command(
    ctx: typer.Context,
    action: Annotated[Action, typer.Argument(metavar="ACTION", help="status, push, pull, rebuild, sql or export.")] = (
        "status"
    ),
    what: Annotated[
        str, typer.Argument(metavar="QUERY|TABLE", help="For sql the query, for export a table [default: all].")
    ] = "",
    *,
    form: Annotated[Literal["json", "csv"], typer.Option("--format", help="What export writes.")] = "json",
) -> int:
    """Look into the inventory, or bring it into step with its ends.

    'status' counts rows; 'push' sends to Turso, and to the repository if one is named, what they have not got; 'pull'
    fetches all that Turso has; 'rebuild' brings back all that a repository has, with no inventory and no Turso. Both
    print the commands that restore the newest snapshots. 'sql' runs one statement that only reads. The JSON keys are
    those of 'status'; docs/inventory.md has the others.
    """
    session: Session = ctx.obj
    if bool(what) != (action == "sql") and not (what and action == "export"):
        raise UsageError("'sql' needs a query, and no action but 'export' takes another argument")
    actions = {"status": _status, "push": _push, "pull": _pull, "rebuild": _rebuild}
    if action == "sql":
        _sql(session, what)
    elif action == "export":
        _export(session, what, form)
    else:
        actions[action](session)
    return 0


def _status(session: Session) -> None:
    inventory = session.inventory()
    rows = inventory.counts()
    pending = {end: len(inventory.outbox_pending(end)) for end in ("stored", "pushed")}
    url, _ = session.turso
    path = path_text(session.inventory_path)
    console = session.console
    console.result(
        {
            "path": path,
            "inventory": inventory.id,
            "rows": rows,
            "to_store": pending["stored"],
            "to_push": pending["pushed"],
            "turso": url or None,
        }
    )
    console.line(f"inventory {inventory.id} at {path}")
    console.table(("TABLE", "ROWS"), [(name, f"{number:,}") for name, number in rows.items() if number], right=(1,))
    console.line(f"not yet in a repository: the rows of {count(pending['stored'], 'command')}")
    if url:
        console.line(f"not yet in {url}: the rows of {count(pending['pushed'], 'command')}")
    else:
        console.line("no Turso database is named (TURSO_DATABASE_URL)")


def _push(session: Session) -> None:
    from drkit.inventory import objects, sync

    url, _ = session.turso
    named = bool(session.repo or session.config.repo)
    if not (url or named):
        raise UsageError("no Turso database and no repository is named", hint="set TURSO_DATABASE_URL, or give --repo")
    inventory = session.inventory()
    stored = 0
    if named:
        repository = session.open()
        stored = objects.store_rows(inventory, repository.store, repository.config.repository_id)
    report = sync.SyncReport(0, 0)
    if url:
        with _turso(session) as turso:
            report = sync.push(inventory, turso)
    session.console.result({"rows": report.rows, "requests": report.requests, "stored": stored})
    session.console.note(
        f"sent {count(report.rows, 'row')} to Turso in {count(report.requests, 'request')}, "
        f"{count(stored, 'row')} to the repository"
    )


def _pull(session: Session) -> None:
    from drkit.inventory import sync

    inventory = session.inventory()
    with _turso(session) as turso:
        report = sync.pull(inventory, turso)
    commands = restore_commands(inventory)
    session.console.result({"rows": report.rows, "requests": report.requests, "commands": commands})
    session.console.note(f"Turso has {count(report.rows, 'row')}, fetched in {count(report.requests, 'request')}")
    _show(session, commands)


def _rebuild(session: Session) -> None:
    from drkit.cli.recording import rebuild

    inventory = session.inventory()
    repository = session.open()
    findings: list[Finding] = []
    rows, found = rebuild(inventory, repository, warn=findings.append)
    repository.findings.extend(findings)
    commands = restore_commands(inventory)
    session.console.result({"rows": rows, "snapshots": found, "commands": commands})
    session.console.note(
        f"the repository has {count(rows, 'recorded row')}; {count(found, 'snapshot')} recorded from the snapshots"
    )
    _show(session, commands)


def _sql(session: Session, query: str) -> None:
    columns, rows = session.inventory().sql(query)
    shown = [[path_text(value) if isinstance(value, bytes) else value for value in row] for row in rows]
    session.console.result({"columns": columns, "rows": shown})
    if columns:
        session.console.table(columns, [["" if value is None else str(value) for value in row] for row in shown])


def _export(session: Session, name: str, form: str) -> None:
    from drkit.inventory.objects import row_keys
    from drkit.inventory.tables import TABLES

    tables = [table for table in TABLES if name in {"", table.name}]
    if not tables:
        known = ", ".join(table.name for table in TABLES)
        raise UsageError(f"the inventory has no table {name!r}", hint=f"it has {known}")
    inventory = session.inventory()
    if form == "csv":
        session.console.no_json("inventory export --format csv")
        for table in tables:
            session.console.raw(
                [_csv((("table", *table.all), *((table.name, *row) for row in inventory.table(table))))]
            )
        return
    import msgspec

    content = {table.name: [row_keys(table, row) for row in inventory.table(table)] for table in tables}
    session.console.result(content)
    if not session.console.json:
        session.console.raw([msgspec.json.format(msgspec.json.encode(content), indent=1), b"\n"])


def restore_commands(inventory: Inventory) -> list[str]:
    """Return, for the newest snapshot of each source and each store that has it, the command that puts it back."""
    from drkit.inventory.standing import holders

    commands = []
    for record in inventory.newest_by_source():
        target = record.source.decode("utf-8", "surrogateescape")
        for store in holders(inventory.engine, record):
            words = ["drkit", "restore", record.snapshot[:16], "--repo", store, "--target", target]
            commands.append(shlex.join(words))
    return commands


def _show(session: Session, commands: list[str]) -> None:
    if commands:
        session.console.line("everything comes back with, of each source from any store that is left:")
    for line in commands:
        session.console.line(f"  {line}")


def _csv(rows: Any) -> bytes:
    import csv

    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(
        [path_text(value) if isinstance(value, bytes) else value for value in row] for row in rows
    )
    return text.getvalue().encode()


def _turso(session: Session) -> AbstractContextManager[Turso]:
    from drkit.inventory.turso import Turso

    url, token = session.turso
    if not url:
        raise UsageError("no Turso database is named", hint="set TURSO_DATABASE_URL and TURSO_AUTH_TOKEN")
    return closing(Turso(url, token))
