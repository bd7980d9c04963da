"""`drkit enhance plan`: what a run would do, without a call and without a write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from drkit.cli import Console, Session, count, path_text
from drkit.errors import UsageError
from enhance.commands import options, validate

if TYPE_CHECKING:
    from enhance.pace import Limit
    from enhance.pipeline import Preview

EXAMPLES = """
drkit enhance plan ~/plugins
drkit enhance plan ~/plugins --profile marketplace --category sales
drkit enhance plan ~/plugins --generator gemini --model gemini-2.5-flash --json
"""
KEYS = {
    "plugins": "{path, findings, action, calls, thin, diff}; `calls` are at least and at most as many, `diff` shows "
    "the repairs that need no generator",
    "calls": "of all plugins, at least and at most",
    "tokens": "of the calls whose requests are known already, at most",
    "cost_usd": "at least and at most, where prices are configured",
}


def command(
    ctx: typer.Context,
    source: options.Source,
    *,
    generator: options.Generator = "",
    model: options.Model = "",
    profile: options.Profile = "",
    limit: options.Limit = None,
    plugin: options.Plugins = None,
    category: options.Categories = None,
    only_failed: options.OnlyFailed = False,
    form: Annotated[validate.Format, typer.Option("--format", help="How the plan is printed.")] = "text",
) -> None:
    """Show what a run would do: findings, repairs, calls and what they cost.

    No call is made and nothing is written. As SARIF the findings alone are printed.
    """
    from enhance.commands import shared
    from enhance.pipeline import look

    session: Session = ctx.obj
    if session.console.json and form == "sarif":
        raise UsageError("give one of --json and --format sarif")
    settings = shared.settings_of(session)
    wanted = options.Wanted(
        source, generator, model, profile, limit, tuple(plugin or ()), tuple(category or ()), only_failed
    )
    job = options.job_of(session, settings, wanted)
    preview = look(job)
    keys = preview_keys(preview, shared.limit_of(settings, job.generator.name, job.generator.model))
    if form == "sarif":
        validate.show(session, [one for chosen in preview.plugins for one in chosen.findings], "sarif")
    elif form == "json":
        import msgspec

        session.console.raw([msgspec.json.encode(keys), b"\n"])
    else:
        session.console.result(keys)
        show(session.console, preview, keys)


def preview_keys(preview: Preview, limit: Limit) -> dict[str, Any]:
    """Return a preview as JSON can hold it, with what its calls cost."""
    low, high = preview.calls
    known = limit.estimate(preview.tokens) / 1e9
    return {**preview.plain(), "cost_usd": [round(known, 4), round(known * high / low if low else known, 4)]}


def show(console: Console, preview: Preview, keys: dict[str, Any]) -> None:
    """Print a preview for people."""
    for one in preview.plugins:
        errors = sum(finding.level == "error" for finding in one.findings)
        found = f"{count(errors, 'error')}, {count(len(one.findings) - errors, 'warning')}"
        calls = f"; {_range(one.calls)} calls" if one.calls[1] else ""
        console.line(f"{path_text(one.path) or '.'}: {one.action}{' (thin)' if one.thin else ''}; {found}{calls}")
        for finding in one.findings:
            console.line(f"    {finding.level} {finding.rule} {finding.path}: {finding.message}")
        for line in one.diff.splitlines():
            console.line(f"    {line}")
    cost = f", {keys['cost_usd'][0]:.2f} to {keys['cost_usd'][1]:.2f} dollars" if keys["cost_usd"][1] else ""
    console.note(f"{count(len(preview.plugins), 'plugin')}, {_range(preview.calls)} calls{cost}")


def _range(calls: tuple[int, int]) -> str:
    return f"{calls[0]}" if calls[0] == calls[1] else f"{calls[0]} to {calls[1]}"
