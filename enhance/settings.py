"""`[enhance]` of drkit.toml: what may stand in it. Options of the command line win over it.

[enhance]
generator = "gemini"
model = "gemini-2.5-flash"

[enhance.pace]
delay_s = [5, 2.5]          # pause and jitter between two calls, in seconds

[[enhance.quota]]           # one for each model that is used
model = "gemini-2.5-flash"
requests_per_minute = 15
requests_per_day = 1500
headroom = 3                # use a third of each limit
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct, structs

from drkit.errors import UsageError
from enhance.pace.limit import Limit
from enhance.pace.policy import Pace


class PaceTable(Pace, frozen=True, forbid_unknown_fields=True):
    """`[enhance.pace]`: the fields of `Pace`."""


class QuotaTable(Limit, frozen=True, forbid_unknown_fields=True):
    """One `[[enhance.quota]]`: the fields of `Limit`. An empty project, location or model stands for every one."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All of `[enhance]`. `project` and `location` are those of Vertex; `timeout_s` bounds a single call.

    `parameters` go to the generator, which says what they may be: docs/generators.md.
    """

    generator: str = "offline"
    model: str = ""
    profile: str = "portable"
    project: str = ""
    location: str = ""
    timeout_s: float = 120.0
    parameters: dict[str, Any] = {}
    pace: PaceTable = PaceTable()
    quota: tuple[QuotaTable, ...] = ()

    def limit(self, project: str, location: str, model: str) -> Limit | None:
        """Return the limits that hold for a model: of those that match, the one that names most of the three.

        None if no table matches: then only the pace, and what the server says, hold back calls.
        """
        wanted = (project, location, model)
        best: tuple[int, QuotaTable] | None = None
        for table in self.quota:
            named = (table.project, table.location, table.model)
            if all(one in {"", other} for one, other in zip(named, wanted, strict=True)):
                exact = sum(map(bool, named))
                if best is None or exact > best[0]:
                    best = (exact, table)
        if best is None:
            return None
        return Limit(**{**structs.asdict(best[1]), "project": project, "location": location, "model": model})


def read_settings(raw: Mapping[str, Any]) -> Settings:
    """Return the settings in the table `enhance`, as drkit passes it on. UsageError names the key that is wrong."""
    hint = "docs/enhance.md lists the keys that [enhance] may have"
    try:
        settings = msgspec.convert(raw, Settings)
    except msgspec.ValidationError as error:
        raise UsageError(f"[enhance] of drkit.toml: {error}", hint=hint) from error
    settings.pace.check()
    for table in settings.quota:
        table.check()
    if settings.timeout_s <= 0:
        raise UsageError("[enhance] of drkit.toml: timeout_s is not above 0", hint=hint)
    return settings
