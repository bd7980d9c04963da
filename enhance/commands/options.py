"""Options that several commands share, and the job that they describe."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Struct

from drkit.cli import Session, guarding
from drkit.errors import UsageError
from enhance.commands import shared

if TYPE_CHECKING:
    from enhance.pipeline import RunJob
    from enhance.settings import Settings

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="The directory with the plugins.")]
Profile = Annotated[
    str,
    typer.Option(
        "--profile", metavar="PROFILE", help="The rules: portable, claude-code or marketplace [default: portable]."
    ),
]
Generator = Annotated[
    str,
    typer.Option("--generator", metavar="NAME", help="offline, vertex, gemini or replay [default: offline]."),
]
Model = Annotated[str, typer.Option("--model", metavar="MODEL", help="The model that the generator asks.")]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=0, help="Take the first N plugins, after all other filters.")
]
Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", metavar="PLUGIN", help="Take this plugin, a path or name; repeatable.")
]
Categories = Annotated[
    list[str] | None, typer.Option("--category", metavar="NAME", help="Take plugins of this category; repeatable.")
]
OnlyFailed = Annotated[
    bool, typer.Option("--only-failed", help="Take plugins that failed or were parked last, and ask again.")
]
LockTimeout = Annotated[
    str, typer.Option("--lock-timeout", metavar="TIME", help="How long to wait for others who work on the source.")
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run: 'latest' or the beginning of its id.", show_default=False)
]


class Wanted(Struct, frozen=True):
    """What was asked for on the command line; what is empty is left to the settings."""

    source: str
    generator: str = ""
    model: str = ""
    profile: str = ""
    limit: int | None = None
    plugins: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    only_failed: bool = False
    lock_timeout: str = "60s"


def job_of(session: Session, settings: Settings, wanted: Wanted, **more: Any) -> RunJob:
    """Open repository and inventory, put back what was interrupted, and return the job that was asked for.

    `more` are further fields of it.
    """
    from drkit.inventory import Enhancements
    from drkit.timespan import parse_span
    from enhance.pipeline import RunJob, Selection
    from enhance.validators import PROFILES

    profile = wanted.profile or settings.profile
    if profile not in PROFILES:
        raise UsageError(f"there is no profile {profile!r}", hint=f"choose one of {', '.join(PROFILES)}")
    source, patience = os.fsencode(wanted.source), parse_span(wanted.lock_timeout)
    repository = session.open()
    guarding.recover_first(session, source, repository, lock_timeout_s=patience)
    site = guarding.make_site(session, source, repository, lock_timeout_s=patience)
    records = Enhancements(site.inventory)
    name = wanted.generator or settings.generator
    return RunJob(
        site=site,
        records=records,
        generator=shared.make_generator(name, wanted.model or settings.model, settings, records),
        profile=profile,
        selection=Selection(
            plugins=tuple(map(os.fsencode, wanted.plugins)),
            categories=wanted.categories,
            only_failed=wanted.only_failed,
            limit=wanted.limit,
        ),
        timeout_s=settings.timeout_s,
        flush=shared.flusher(session, site.repo),
        **more,
    )
