"""`drkit enhance quota`: what of the configured limits is left, and how fast calls may be made now."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from drkit.cli import Session
from enhance.commands import options

EXAMPLES = """
drkit enhance quota
drkit enhance quota --model gemini-2.5-flash --json
"""
KEYS = {
    "quotas": "{project, location, model, headroom, requests_per_minute, tokens_per_minute, requests_per_day, "
    "minute_left, tokens_left, day_left, day_opens, held_s, delay_s, pace}; limits as they are configured, null for "
    "none; what is left has the headroom taken off; `held_s` is how long a server asked to wait",
}


def command(
    ctx: typer.Context,
    *,
    generator: options.Generator = "",
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Only this model.")] = "",
) -> None:
    """Show what is left of each quota in drkit.toml, and the pace that is kept.

    What all processes of this machine used counts together. The pace comes with the evidence for it.
    """
    from enhance.commands import shared

    session: Session = ctx.obj
    console = session.console
    settings = shared.settings_of(session)
    wanted = [model] if model else [*(table.model for table in settings.quota), settings.model]
    rows = []
    for name in dict.fromkeys(filter(None, wanted)):
        limit = shared.limit_of(settings, generator or settings.generator, name)
        pacer = shared.make_pacer(session.inventory(), settings, limit, "")
        state = pacer.state()
        row: dict[str, Any] = {"project": limit.project, "location": limit.location, "model": limit.model}
        stated = ("headroom", "requests_per_minute", "tokens_per_minute", "requests_per_day")
        row |= {key: getattr(limit, key) for key in stated}
        row |= {key: getattr(state, key) for key in ("minute_left", "tokens_left", "day_left")}
        row |= {"day_opens": f"{state.day_opens:%Y-%m-%dT%H:%M:%SZ}", "held_s": state.held_s}
        row |= {"delay_s": state.delay_s, "pace": state.sentence}
        rows.append(row)
    console.result({"quotas": rows})
    if not rows:
        console.line("no quota is configured: write [[enhance.quota]] into drkit.toml, see docs/pacing.md")
    for row in rows:
        where = "/".join(filter(None, (row["project"], row["location"], row["model"])))
        console.line(f"{where}  (a part of 1/{row['headroom']:g} of each limit is used)")
        console.line(f"  minute  {_left(row['minute_left'])} calls, {_left(row['tokens_left'])} tokens left")
        console.line(f"  day     {_left(row['day_left'])} calls left, the next begins {row['day_opens']}")
        if row["held_s"]:
            console.line(f"  held    the server asked to wait {row['held_s']:.0f} s more")
        console.line(f"  pace    {row['pace']}")


def _left(number: int | None) -> str:
    return "any number of" if number is None else f"{number:,}"
