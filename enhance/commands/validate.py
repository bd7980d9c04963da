"""`drkit enhance validate`: hold a source against the rules for skills, plugins and marketplaces."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drkit.cli import Session, guarding
from drkit.errors import ProposalRejected, UsageError

if TYPE_CHECKING:
    from enhance.model import Finding

Format = Literal["text", "json", "sarif"]

EXAMPLES = """
drkit enhance validate ~/plugins
drkit enhance validate ~/plugins --profile claude-code
drkit enhance validate ~/plugins --format sarif > findings.sarif
"""
KEYS = {
    "findings": "{rule, level, path, message, line}; `line` is 0 where none applies",
    "plugins": "how many plugins were looked at",
    "skills": "how many skills",
}

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="The directory with the plugins.")]
Profile = Annotated[
    str, typer.Option("--profile", metavar="PROFILE", help="The rules to hold to: portable, claude-code, marketplace.")
]


def command(
    ctx: typer.Context,
    source: Source,
    *,
    profile: Profile = "",
    form: Annotated[Format, typer.Option("--format", help="How findings are printed.")] = "text",
) -> int:
    """Check plugins, skills and marketplaces against the rules of docs/rules.md.

    Nothing is written, and no repository is needed. With errors the exit code is 31, with warnings alone it is 0.
    """
    from drkit.source import PluginRules
    from enhance.commands.shared import settings_of
    from enhance.discover import discover
    from enhance.validators import check_source

    session: Session = ctx.obj
    console, config = session.console, session.config
    if console.json and form == "sarif":
        raise UsageError("give one of --json and --format sarif")
    profile = profile or settings_of(session).profile
    place = os.path.realpath(os.fsencode(source))
    guarding.recover_first(session, place)
    discovery = discover(place, PluginRules(config.plugins.markers, config.plugins.globs), config.backup.exclude)
    findings = check_source(place, discovery, profile)
    show(session, findings, form, plugins=len(discovery.plugins), skills=len(discovery.skills()))
    return ProposalRejected.code if any(one.level == "error" for one in findings) else 0


def show(session: Session, findings: Sequence[Finding], form: Format, *, plugins: int = 0, skills: int = 0) -> None:
    """Print findings in one of the formats."""
    import msgspec

    from enhance.findings import to_json, to_text

    if form == "sarif":
        from drkit import __version__
        from enhance.sarif import to_sarif

        session.console.raw([msgspec.json.encode(to_sarif(findings, version=__version__)), b"\n"])
    elif form == "json" or session.console.json:
        session.console.raw([msgspec.json.encode(to_json(findings, plugins=plugins, skills=skills)), b"\n"])
    else:
        session.console.line(to_text(findings, plugins=plugins, skills=skills).rstrip("\n"))
