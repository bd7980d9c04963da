"""`drkit status`: one screen of what is protected, and how well it is proved."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import structs

from drkit.cli.output import Console, count, path_keys, path_text, size
from drkit.cli.session import Session
from drkit.clock import utc_now
from drkit.errors import UsageError

if TYPE_CHECKING:
    from drkit.status import LastDrill, SourceStatus, StatusReport, StoreStatus

EXAMPLES = """
drkit status
drkit status --rpo 12h --watch
drkit status --openmetrics > /var/lib/node_exporter/drkit.prom
"""
KEYS = {
    "ok": "whether every source meets its targets",
    "at": "when this status was taken",
    "inventory": "its id",
    "sources": "{path, repository, store, host, snapshot, time, age_s, files, plugins, bytes, verified, rpo_s, "
    "rpo_target_s, rpo_met, full_drill, plugin_drill, rto_met, groups}; `path` is the source, `rpo_s` the age of its "
    "newest verified snapshot; null where there is none",
    "stores": "of each store that is to have every snapshot: {name, url, repository, snapshot, lag, lag_s, lag_met, "
    "proved, failed}; `snapshot` is the newest there, `lag` how many came after it, `lag_s` how long ago the first of "
    "them was taken, `proved` the age in seconds of the newest proof of each level, `failed` the level at which damage "
    "was found since, or empty",
    "pending": "how many recorded transactions the repository (`stored`) and Turso (`pushed`) have not got",
}
GROUPS = 12
INTERVAL = 2.0  # seconds between two looks of --watch


def command(
    ctx: typer.Context,
    *,
    rpo: Annotated[
        str, typer.Option("--rpo", metavar="TIME", help="How old the newest verified snapshot may be.")
    ] = "24h",
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds, until interrupted.")] = False,
    openmetrics: Annotated[
        bool, typer.Option("--openmetrics", help="Print OpenMetrics text, for a node exporter.")
    ] = False,
) -> None:
    """Show what is protected, where, and when and how it was last proved.

    Everything comes from the inventory; no repository is read. A source whose targets are missed is marked with '!'.
    Groups of plugins that were never restored, or not for the longest time, come first. Of each of the [stores] in
    drkit.toml it shows how many snapshots it lacks, and when it was last verified.
    """
    from drkit.status import openmetrics as as_metrics
    from drkit.status import status
    from drkit.timespan import parse_span

    session: Session = ctx.obj
    console = session.console
    rpo_s = parse_span(rpo)
    if (watch, openmetrics, console.json).count(True) > 1:
        raise UsageError("give one of --watch, --openmetrics and --json")
    stores = _stores(session)
    ends = ("stored", "pushed") if session.turso[0] else ("stored",)
    try:
        while True:
            report = status(
                session.inventory(),
                now=utc_now(),
                rpo_s=rpo_s,
                ends=ends,
                stores=stores,
                copies=session.config.copies,
            )
            if openmetrics:
                console.raw([as_metrics(report).encode()])
                return
            if watch and console.out.isatty():
                console.raw([b"\x1b[H\x1b[2J"])
            console.result(_json(report))
            _show(console, report)
            if not watch:
                return
            console.flush()
            time.sleep(INTERVAL)
    except KeyboardInterrupt:
        if not watch:
            raise


def _json(report: StatusReport) -> dict[str, Any]:
    """Return the report with its paths as text."""
    return {**structs.asdict(report), "sources": [_source_json(source) for source in report.sources]}


def _source_json(source: SourceStatus) -> dict[str, Any]:
    keys = structs.asdict(source)
    drills = {
        name: drill and {**structs.asdict(drill), "plugin": None if drill.plugin is None else path_text(drill.plugin)}
        for name, drill in (("full_drill", source.full_drill), ("plugin_drill", source.plugin_drill))
    }
    groups = [{**structs.asdict(group), "path": path_text(group.path)} for group in source.groups]
    return {**path_keys(keys.pop("source")), **keys, **drills, "groups": groups}


def _show(console: Console, report: StatusReport) -> None:
    if not report.sources:
        console.line("nothing is protected yet: the inventory knows of no snapshot")
        console.line("  drkit backup SOURCE")
    for source in report.sources:
        _show_source(console, source)
        console.line()
    for store in report.stores:
        _show_store(console, store)
    if report.stores:
        console.line()
    waiting = [f"{count(n, 'transaction')} not {end}" for end, n in report.pending.items() if n]
    console.note(f"{report.at}  inventory {report.inventory[:12]}" + "".join(f", {text}" for text in waiting))


def _show_source(console: Console, source: SourceStatus) -> None:
    shown = path_text(source.source)
    console.line(f"{'!' if not source.rpo_met or source.rto_met is False else ' '} {source.host}:{shown}")
    console.line(f"    in        {source.store}")
    what = f"{count(source.files, 'file')}, {count(source.plugins, 'plugin')}, {size(source.bytes)}"
    console.line(f"    snapshot  {source.snapshot[:12]}, {age(source.age_s)} old: {what}")
    proof = source.verified
    if proof is None:
        console.line("    verified  never: drkit verify --level restore")
    else:
        which = "" if proof.snapshot == source.snapshot else f" (snapshot {proof.snapshot[:12]})"
        console.line(f"    verified  at level {proof.level}, {age(proof.age_s)} ago{which}")
    console.line(f"    RPO       {_against(source.rpo_s, source.rpo_target_s)}")
    _show_drill(console, "everything", source.full_drill, "drkit drill --full")
    _show_drill(console, "a plugin", source.plugin_drill, "drkit drill --sample 5")
    if source.groups:
        console.line("    plugins   proved by a restore")
        for group in source.groups[:GROUPS]:
            last = "not all yet" if group.age_s is None else f"the oldest {age(group.age_s)} ago"
            console.line(f"      {group.proved:>5} of {group.plugins:<5} {path_text(group.path) or '.'}: {last}")
        if len(source.groups) > GROUPS:
            console.line(f"      and {len(source.groups) - GROUPS} more groups")


def _stores(session: Session) -> dict[str, str]:
    """Return the repository and the configured stores, name → URL; nothing if none are configured."""
    config = session.config
    if not config.stores:
        return {}
    stores = {name: session.address(name) for name in config.stores}
    named = config.repo or session.repo
    home = session.address(named) if named else ""
    return stores if not home or home in stores.values() else {"repo": home, **stores}


def _show_store(console: Console, store: StoreStatus) -> None:
    lag = "up to date"
    if store.lag:
        lag = f"lacks {count(store.lag, 'snapshot')}, the first taken {age(store.lag_s)} ago"
        lag += "" if store.lag_met else f": TOO MUCH: drkit copy --to {store.name}"
    proofs, youngest = [], float("inf")
    for level, seconds in store.proved.items():  # the highest first: one that is older than that tells nothing
        if seconds < youngest:
            proofs.append(f"{level} {age(seconds)} ago")
            youngest = seconds
    proof = f"verified at level {', '.join(proofs)}" if proofs else "never verified"
    if store.failed:
        again = f"drkit verify --all --store {store.name} --level {store.failed}"
        proof = f"DAMAGED: drkit repair --repo {store.name}; {again}"
    console.line(f"{' ' if store.lag_met and not store.failed else '!'} {store.name}: {store.url}")
    console.line(f"    {lag}; {proof}")


def _show_drill(console: Console, what: str, drill: LastDrill | None, advice: str) -> None:
    if drill is None:
        console.line(f"    RTO       {what}: never drilled: {advice}")
        return
    name = f" ({path_text(drill.plugin)})" if drill.plugin else ""
    result = "" if drill.passed else f" FAILED: {drill.reason}"
    by = "" if drill.by == "drkit" else f" by {drill.by}"
    console.line(
        f"    RTO       {what}{name}: {_against(drill.total_s, drill.rto_s)}, {age(drill.age_s)} ago{by}{result}"
    )


def _against(value: float | None, target: float) -> str:
    if value is None:
        return f"unknown, the target is {age(target)}"
    return f"{age(value)} of {age(target)}{'' if value <= target else ': MISSED'}"


def age(seconds: float) -> str:
    """Return a time span in its two largest units: `3 d 4 h`, `5 h 20 min`, `40 s`, `0.25 s`."""
    if abs(seconds) < 10:
        return f"{seconds:.2f} s"
    whole = round(abs(seconds))
    sign = "-" if seconds < 0 else ""
    for unit, name, smaller, small in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{sign}{whole // unit} {name}" + (f" {rest} {small}" if rest else "")
    return f"{sign}{whole} s"
