"""What the commands have in common: settings, generators, what paces their calls, the job of a run."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from msgspec import structs

from drkit.cli import recording
from drkit.clock import utc_now
from drkit.errors import UsageError
from drkit.timespan import parse_span
from enhance.settings import Settings, read_settings

if TYPE_CHECKING:
    from drkit.cli import Session
    from drkit.inventory import Enhancements, Inventory
    from drkit.repo import Repository
    from enhance.generators.base import Generator
    from enhance.pace import Limit, Pacer

PASSIVE = frozenset({"offline", "replay"})
"""Generators that answer without a call."""


def settings_of(session: Session) -> Settings:
    """Return `[enhance]` of the configuration."""
    return read_settings(session.config.enhance)


def limit_of(settings: Settings, generator: str, model: str) -> Limit:
    """Return the limits that hold for a model as this generator reaches it; without any if none are stated."""
    from enhance.pace import Limit

    project, location = settings.project, settings.location
    if generator == "vertex":
        project = project or os.environ.get("GOOGLE_CLOUD_PROJECT", "")
        location = location or os.environ.get("GOOGLE_CLOUD_LOCATION", "global")
    return settings.limit(project, location, model) or Limit(project=project, location=location, model=model)


def make_generator(name: str, model: str, settings: Settings, records: Enhancements) -> Generator:
    """Return a generator. UsageError if there is none of this name, or if something that it needs is missing."""
    from enhance.generators import make

    if name == "replay":
        name, model = _recorded(name, model, settings, records)
        recorded = make(name, _options(name, model, settings))
        return make("replay", {"recorded": recorded, "lookup": _lookup(records)})
    return make(name, _options(name, model, settings))


def _options(name: str, model: str, settings: Settings) -> dict[str, Any]:
    if name in PASSIVE:
        return {}
    limit = limit_of(settings, name, model)
    prices = {key: getattr(limit, key) for key in ("usd_per_million_tokens_in", "usd_per_million_tokens_out")}
    own = {"model": model, "project": settings.project, "location": settings.location}
    return {**prices, **settings.parameters, **own}


def _recorded(name: str, model: str, settings: Settings, records: Enhancements) -> tuple[str, str]:
    """Return the generator and the model that are replayed: those of the settings, else of the newest run with one."""
    if settings.generator not in PASSIVE and (model or settings.model):
        return settings.generator, model or settings.model
    for run in records.runs():
        if run.generator not in PASSIVE and model in {"", run.model}:
            return run.generator, run.model
    hint = "run 'drkit enhance run' with another generator first, or name it as `generator` in [enhance]"
    raise UsageError(f"there is nothing for {name!r} to answer from: no run of a model is recorded", hint=hint)


def _lookup(records: Enhancements) -> Callable[[str, str, str], Any]:
    from enhance.model import Reply, Usage

    def lookup(request_sha256: str, phase: str, answer_key: str) -> Reply | None:
        found = records.response(answer_key, request_sha256, phase)
        if found is None:
            return None
        return Reply(found.text, found.finish_reason, Usage(found.tokens_in, found.tokens_out, found.cost_usd))

    return lookup


def make_pacer(
    inventory: Inventory, settings: Settings, limit: Limit, run: str, *, finish_by: datetime | None = None
) -> Pacer:
    """Return what paces the calls of a run, over the ledger that all processes share."""
    from enhance.pace import Ledger, Pacer, boot_time

    return Pacer(
        Ledger(inventory),
        limit,
        settings.pace,
        run=run,
        now=utc_now,
        monotonic=boot_time,
        sleep=time.sleep,
        random=random.SystemRandom().random,
        finish_by=finish_by,
    )


def parse_finish_by(text: str, now: datetime) -> datetime | None:
    """Return the moment that `2h`, `07:30` (the next one, local time) or an ISO 8601 time means; None if empty."""
    if not text:
        return None
    local = now.astimezone()
    hour, colon, minute = text.partition(":")
    if colon and hour.isdecimal() and minute.isdecimal() and int(hour) < 24 and int(minute) < 60:
        clock = local.replace(tzinfo=None, hour=int(hour), minute=int(minute), second=0, microsecond=0)
        then = clock.astimezone()
        return then if then > local else (clock + timedelta(days=1)).astimezone()
    with contextlib.suppress(ValueError):
        then = datetime.fromisoformat(text)
        return then if then.tzinfo else then.astimezone()
    try:
        return now + timedelta(seconds=parse_span(text))
    except UsageError as error:
        raise UsageError(f"{text!r} is no time to finish by", hint="write 07:30, 2h or 2026-11-23T07:30") from error


def flusher(session: Session, repository: Repository) -> Callable[[], None]:
    """Return what sends recorded rows away. A Turso that failed is not waited for again until the command ends."""
    reachable = [bool(session.turso[0])]

    def flush() -> None:
        reachable[0] = recording.flush(session, repository, turso=reachable[0])

    return flush


def plain_limit(limit: Limit) -> Mapping[str, Any]:
    """Return a limit as data that a run's record can hold."""
    return structs.asdict(limit)
