"""`drkit enhance watch`: `drkit enhance status`, again and again until the run has ended."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from drkit.cli import Session
from drkit.clock import utc_now
from drkit.timespan import parse_span
from enhance.commands import options, standing

EXAMPLES = """
drkit enhance watch
drkit enhance watch latest --interval 10s --json
"""
KEYS = standing.KEYS


def command(
    ctx: typer.Context,
    run: options.RunName = "latest",
    *,
    interval: Annotated[str, typer.Option("--interval", metavar="TIME", help="How long between two looks.")] = "2s",
) -> int:
    """Show where a run stands, again and again until it has ended.

    The exit code is then the run's own. With --json each look is a line of its own. To interrupt this does nothing to
    the run.
    """
    from drkit.inventory import Enhancements

    session: Session = ctx.obj
    console, pause = session.console, parse_span(interval)
    records = Enhancements(session.inventory())
    name = records.run(run).run
    while True:
        record = records.run(name)
        keys = standing.standing(records, record)
        if console.out.isatty() and not console.json:
            console.raw([b"\x1b[H\x1b[2J"])
        console.result(keys)
        standing.show(console, keys, utc_now())
        console.flush()
        if record.ended is not None:
            return record.exit_code or 0
        time.sleep(pause)
