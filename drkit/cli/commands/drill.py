"""`drkit drill`: restore for real, against the clock, and compare."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drkit.cli.output import Console, count, duration, size
from drkit.cli.session import Session
from drkit.errors import DrillFailed, DrkitError, UsageError
from drkit.model import show_path

if TYPE_CHECKING:
    from drkit.drill import Drill, DrillOptions, DrillReport, GameDayReport, Loss
    from drkit.inventory import Inventory
    from drkit.model import PluginRow, Snapshot
    from drkit.repo import Repository, SnapshotRef

EXAMPLES = """
drkit drill
drkit drill --plugin report-writer --rto 30s
drkit drill --sample 5 --junit drill.xml
drkit drill --full --standalone --rto 10m --rpo 24h
drkit drill --sample 5 --store berlin --store usb
drkit drill --all-stores --sample 5
drkit drill --game-day --all-stores
"""
KEYS = {
    "snapshot": "id of the snapshot that was drilled, of several stores in the first of them",
    "drills": "{plugin, store, by, first_byte_s, restore_s, verify_s, total_s, rto_s, age_s, rpo_s, files, bytes, "
    "passed, reason, snapshot}; `plugin` is a path, null for everything; `store` is where it was taken from; none of a "
    "game day",
    "losses": "of a game day: {loss, what, survived, how, lost, total_s, rto_s, passed, reason}",
    "passed": "whether all of them passed; if not, the exit code is 22",
    "duration_s": "seconds",
}


def command(
    ctx: typer.Context,
    *,
    plugin: Annotated[
        str, typer.Option("--plugin", metavar="PLUGIN", help="Drill this plugin: its path or name.")
    ] = "",
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample", metavar="N", min=1, help="Drill N plugins, least recently drilled first [default: 1]."
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Drill everything at once.")] = False,
    rto: Annotated[
        str,
        typer.Option(
            "--rto",
            metavar="TIME",
            help="How long a restore may take, as 90s or 1h30m [default: 5m, of everything 30m].",
        ),
    ] = "",
    rpo: Annotated[str, typer.Option("--rpo", metavar="TIME", help="How old the newest snapshot may be.")] = "24h",
    store: Annotated[
        list[str] | None,
        typer.Option("--store", metavar="STORE", help="Drill from this store, a name or URL; repeatable."),
    ] = None,
    all_stores: Annotated[
        bool, typer.Option("--all-stores", help="Drill from the repository and every store of drkit.toml.")
    ] = False,
    standalone: Annotated[
        bool, typer.Option("--standalone", help="Restore with the repository's recover.py, without drkit.")
    ] = False,
    cold: Annotated[
        bool, typer.Option("--cold", help="Drop what the system has cached of the repository before each drill.")
    ] = False,
    game_day: Annotated[
        bool, typer.Option("--game-day", help="Lose things in a copy of the repository, and see what comes back.")
    ] = False,
    junit: Annotated[str, typer.Option("--junit", metavar="FILE", help="Write the result as JUnit XML too.")] = "",
) -> int:
    """Restore for real into a scratch directory, time it, and compare tree hashes.

    Live data is never touched; scratch is below TMPDIR. A drill passes if everything came back as it was backed up,
    within --rto, from a snapshot that is no older than --rpo. One that does not makes the exit code 22. With several
    stores --sample deals the plugins out to them, to the store that was drilled least recently first; everything else
    is drilled from each. A game day also destroys a store, in scratch, and brings it back from what each other one
    holds.
    """
    from drkit.cli import copies, gameday
    from drkit.drill import DrillOptions
    from drkit.timespan import parse_span

    if (bool(plugin), sample is not None, full or game_day).count(True) > 1:
        raise UsageError("give one of --plugin, --sample, and --full or --game-day")
    if store and all_stores:
        raise UsageError("--all-stores has those of --store in it", hint="give one of them")
    options = DrillOptions(
        by="recover.py" if standalone else "drkit",
        rto_s=parse_span(rto) if rto else None,
        rpo_s=parse_span(rpo),
        cold=cold,
    )
    session: Session = ctx.obj
    names = list(dict.fromkeys(store or [session.repo or session.config.repo]))
    if all_stores:
        names += copies.of(session, session.store())
    if game_day:
        session.repo = names[0]
        losses = gameday.run(session, names[1:], options)
        _finish(session.console, losses, junit)
        return 0 if losses.passed else DrillFailed.code
    report = _drills(session, names, options, plugin, sample, full=full)
    _finish(session.console, report, junit)
    return 0 if report.passed else DrillFailed.code


def _drills(
    session: Session, names: Sequence[str], options: DrillOptions, plugin: str, sample: int | None, *, full: bool
) -> DrillReport:
    """Drill from each store, and record it. Of several, one that cannot be opened is a drill that failed."""
    from drkit.cli import gameday, recording
    from drkit.drill import DrillReport, unreachable

    inventory = gameday.inventory_of(session)
    shares: Sequence[tuple[str, int | None]] = [(name, sample) for name in names]
    if len(names) > 1 and not (plugin or full):
        shares = _dealt(session, names, sample or 1, inventory)
    reports = []
    opened: dict[str, Repository] = {}
    for name, here in shares:
        session.repo = name
        try:
            repository = session.open()
            ref = repository.resolve("latest")
            rows = _rows(repository, ref, inventory, plugin, sample and here, full=full)
        except DrkitError as error:
            if len(names) == 1:
                raise
            reports.append(DrillReport("", (unreachable(session.address(name), error, options),), 0.0))
            continue
        reports.append(_drill(session, repository, ref, rows, options, inventory))
        opened[name] = repository
        if inventory is not None:
            recording.drill(session, repository, reports[-1])
    for repository in _keepers(session, names, opened) if inventory is not None else ():
        recording.flush(session, repository)
    return DrillReport(
        next((report.snapshot for report in reports if report.snapshot), ""),
        tuple(drill for report in reports for drill in report.drills),
        round(sum(report.duration_s for report in reports), 3),
    )


def _keepers(session: Session, names: Sequence[str], opened: dict[str, Repository]) -> list[Repository]:
    """Return where the rows go: of several stores to the first, from where they are copied, if it can be opened."""
    if len(names) > 1 and names[0] not in opened:
        session.repo = names[0]
        try:
            opened = {names[0]: session.open(), **opened}
        except DrkitError:
            return list(opened.values())
    return [opened[names[0]]] if names[0] in opened else []


def _dealt(
    session: Session, names: Sequence[str], sample: int, inventory: Inventory | None
) -> list[tuple[str, int | None]]:
    """Return how many plugins of a sample each store gets; the one that was drilled least recently comes first."""
    last: dict[str, str] = {}
    if inventory is not None:
        ids = {row.repository for row in inventory.newest_by_source()}
        for repository_id in ids:
            last |= inventory.drilled_stores(repository_id)
    ordered = sorted(names, key=lambda name: last.get(session.address(name), ""))
    shares = [(name, len(range(number, sample, len(ordered)))) for number, name in enumerate(ordered)]
    return [share for share in shares if share[1]]


def _rows(
    repository: Repository,
    ref: SnapshotRef,
    inventory: Inventory | None,
    plugin: str,
    sample: int | None,
    *,
    full: bool,
) -> list[PluginRow | None]:
    from drkit.drill import choose

    snap = repository.load(ref)
    if plugin:
        return [repository.plugin(snap, plugin)]
    if full or (sample is None and not snap.plugins):
        return [None]
    order = None
    if inventory is not None:
        order = partial(inventory.least_recently_drilled, repository.config.repository_id, repository.store.url)
    return [*choose(repository, snap, sample or 1, order=order, random=SystemRandom())]


def _drill(
    session: Session,
    repository: Repository,
    ref: SnapshotRef,
    rows: list[PluginRow | None],
    options: DrillOptions,
    inventory: Inventory | None,
) -> DrillReport:
    from drkit.clock import utc_now
    from drkit.drill import drill

    def witness(ref: SnapshotRef, snap: Snapshot) -> str | None:
        seen = inventory.witness(repository.config.repository_id, ref.id) if inventory is not None else None
        if seen is None or (seen.name, seen.tree_sha256) == (ref.name, snap.tree_sha256):
            return None
        return f"the inventory has recorded the tree hash {seen.tree_sha256} for the snapshot {seen.name}"

    with session.progress() as progress:
        return drill(repository, ref, rows, options=options, now=utc_now, progress=progress, witness=witness)


def _finish(console: Console, report: DrillReport | GameDayReport, junit: str) -> None:
    """Print a report, as text or JSON, and write it as JUnit XML."""
    from drkit.drill import DrillReport

    drills, losses = (report.drills, ()) if isinstance(report, DrillReport) else ((), report.losses)
    console.result(
        {
            "snapshot": report.snapshot,
            "drills": [_json(drill) for drill in drills],
            "losses": losses,
            "passed": report.passed,
            "duration_s": report.duration_s,
        }
    )
    for drill in drills:
        _show_drill(console, drill, several=len({each.store for each in drills}) > 1)
    for loss in losses:
        _show_loss(console, loss)
    what = count(len(drills), "drill") if drills else "game day"
    console.note(
        f"{what} of snapshot {report.snapshot[:12]} {'passed' if report.passed else 'FAILED'} "
        f"in {duration(report.duration_s)}"
    )
    if junit:
        _write_junit(junit, report)


def _verdict(done: Drill | Loss) -> str:
    return "passed" if done.passed else "FAILED"


def _name(drill: Drill) -> str:
    return "everything" if drill.plugin is None else show_path(drill.plugin) or "."


def _json(drill: Drill) -> dict[str, Any]:
    from msgspec.structs import asdict

    return {**asdict(drill), "plugin": None if drill.plugin is None else show_path(drill.plugin)}


def _show_drill(console: Console, drill: Drill, *, several: bool) -> None:
    where = f" from {drill.store}" if several else ""
    times = f"{duration(drill.total_s)} of {duration(drill.rto_s)}"
    parts = (
        f"first byte {duration(drill.first_byte_s)}, restore {duration(drill.restore_s)}, "
        f"verify {duration(drill.verify_s)}"
    )
    amount = f"{count(drill.files, 'file')}, {size(drill.bytes)}"
    text = f"{_verdict(drill)}  {_name(drill)}{where}: {times} ({parts}), {amount}, by {drill.by}"
    if drill.passed:
        console.note(text)
    else:
        console.line(text)
        console.line(f"        {drill.reason}")


def _show_loss(console: Console, loss: Loss) -> None:
    text = f"{_verdict(loss)}  {loss.what}"
    verdict = "survived" if loss.survived else f"{count(len(loss.lost), 'path')} lost" if loss.lost else "not survived"
    result = f"        {verdict}, in {duration(loss.total_s)}: {loss.how}"
    if loss.passed:
        console.note(text)
        console.note(result)
        for path in loss.lost:
            console.note(f"        lost: {path}")
    else:
        console.line(text)
        console.line(f"        {loss.reason}")


def _write_junit(path: str, report: DrillReport | GameDayReport) -> None:
    from drkit.drill import DrillReport
    from drkit.drill.junit import Case, encode

    if isinstance(report, DrillReport):
        cases = [Case(_name(drill), f"drkit.drill.{drill.by}", drill.total_s, drill.reason) for drill in report.drills]
    else:
        cases = [Case(loss.what, f"drkit.game-day.{loss.loss}", loss.total_s, loss.reason) for loss in report.losses]
    try:
        with open(path, "wb") as file:
            file.write(encode("drkit drill", cases, datetime.now(UTC)))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint="check --junit") from error
