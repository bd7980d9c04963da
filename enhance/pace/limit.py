"""What a provider allows, as the configuration states it, and what of it is used."""

from __future__ import annotations

import math

from msgspec import Struct

from drkit.errors import UsageError
from drkit.inventory import Caps, Key
from enhance.model import Usage

_NANO = 1_000_000_000


class Limit(Struct, frozen=True):
    """The limits of one model of a project at a location; None is no limit, 0 means that nothing is allowed.

    `headroom` divides every one of them; what is left is rounded down, but never to nothing: of a limit of 2 a minute
    with a headroom of 3, one call is used. Prices are in US dollars for a million tokens. Days begin at midnight in
    `zone`.
    """

    project: str = ""
    location: str = ""
    model: str = ""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_day: int | None = None
    usd_per_run: float | None = None
    headroom: float = 3.0
    usd_per_million_tokens_in: float = 0.0
    usd_per_million_tokens_out: float = 0.0
    zone: str = "America/Los_Angeles"

    def check(self) -> None:
        """Refuse what cannot be meant: UsageError."""
        for name in ("requests_per_minute", "tokens_per_minute", "requests_per_day", "usd_per_run"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} of {self.model!r} is {value}", hint="write 0 or more, or leave it out")
        if not (math.isfinite(self.headroom) and self.headroom >= 1):
            raise UsageError(f"headroom of {self.model!r} is {self.headroom}", hint="write 1 or more; the default is 3")
        prices = (self.usd_per_million_tokens_in, self.usd_per_million_tokens_out)
        if min(prices) < 0 or not all(map(math.isfinite, prices)):
            raise UsageError(f"a price of {self.model!r} is below 0", hint="write US dollars for a million tokens")
        if self.usd_per_run is not None and not any(prices):
            hint = "add usd_per_million_tokens_in and usd_per_million_tokens_out"
            raise UsageError(f"usd_per_run of {self.model!r} cannot be kept without prices", hint=hint)

    @property
    def key(self) -> Key:
        """What the provider counts by."""
        return Key(self.project, self.location, self.model)

    @property
    def closed(self) -> str:
        """The name of a limit that allows nothing, or nothing: waiting never helps."""
        names = ("requests_per_minute", "tokens_per_minute", "requests_per_day", "usd_per_run")
        return next((name for name in names if getattr(self, name) == 0), "")

    @property
    def caps(self) -> Caps:
        """What is used of it."""
        money = None if self.usd_per_run is None else int(self.usd_per_run / self.headroom * _NANO)
        return Caps(
            requests_per_minute=self._part(self.requests_per_minute),
            tokens_per_minute=self._part(self.tokens_per_minute),
            requests_per_day=self._part(self.requests_per_day),
            money=money,
            zone=self.zone,
        )

    def _part(self, value: int | None) -> int | None:
        return None if value is None else min(value, max(1, math.floor(value / self.headroom)))

    def estimate(self, tokens: int) -> int:
        """Return what a call of so many tokens costs at most, in billionths of a dollar."""
        dearest = max(self.usd_per_million_tokens_in, self.usd_per_million_tokens_out)
        return math.ceil(tokens * dearest * _NANO / 1_000_000)

    def cost(self, usage: Usage) -> int:
        """Return what a call cost, in billionths of a dollar: as the usage says it, else by the prices."""
        if usage.cost_usd:
            return math.ceil(usage.cost_usd * _NANO)
        dollars = usage.tokens_in * self.usd_per_million_tokens_in + usage.tokens_out * self.usd_per_million_tokens_out
        return math.ceil(dollars * _NANO / 1_000_000)
