"""`drkit guard check`: whether an edit would be permitted."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from drkit.cli import guarding
from drkit.cli.session import Session
from drkit.errors import GuardRefused

EXAMPLES = """
drkit guard check plugins/report-writer --source ~/plugins
"""
KEYS = {
    "permitted": "whether an edit would be permitted now; if not, the exit code is 30",
    "reasons": "what speaks against it",
}


def command(
    ctx: typer.Context,
    plugin: Annotated[str, typer.Argument(metavar="PLUGIN", help="The plugin's path, or its name.")],
    *,
    source: Annotated[str, typer.Option("--source", metavar="DIR", help="The directory that the plugin is in.")],
) -> int:
    """Say whether an edit of a plugin would be permitted now, and why not.

    Nothing is written, and nobody is waited for: somebody else's edit of the plugin is a reason. What the repository
    has of the plugin is restored to scratch.
    """
    from drkit.guard.check import check

    session: Session = ctx.obj
    report = check(guarding.make_site(session, os.fsencode(source), session.open()), plugin)
    session.console.result(report)
    for reason in report.reasons:
        session.console.warn(reason)
    session.console.line("permitted" if report.permitted else "refused")
    return 0 if report.permitted else GuardRefused.code
