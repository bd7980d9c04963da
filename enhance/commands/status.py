"""`drkit enhance status`: where a run stands, its own process's or another's."""

from __future__ import annotations

import typer

from drkit.cli import Session
from drkit.clock import utc_now
from enhance.commands import options, standing

EXAMPLES = """
drkit enhance status
drkit enhance status 20261122T2200 --json
"""
KEYS = standing.KEYS


def command(ctx: typer.Context, run: options.RunName = "latest") -> None:
    """Show progress, success rate, calls, quota and time left, and cost of a run.

    Everything comes from the inventory, so it works during a run, after it, and after it was killed. The estimate
    counts calls, not plugins.
    """
    from drkit.inventory import Enhancements

    session: Session = ctx.obj
    records, now = Enhancements(session.inventory()), utc_now()
    keys = standing.standing(records, records.run(run))
    session.console.result(keys)
    standing.show(session.console, keys, now)
