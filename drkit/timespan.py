"""Spans of time as people write them: `90s`, `5m`, `24h`, `7d`, `1h30m`."""

from __future__ import annotations

import re

from drkit.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhdw])", re.ASCII)


def parse_span(text: str) -> float:
    """Return the seconds that `text` means: numbers with the units s, m, h, d, w, one after another.

    UsageError if it is nothing of the kind, or no time at all.
    """
    parts = _PART.findall(text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != text or seconds <= 0:
        raise UsageError(
            f"{text!r} is no span of time", hint="write a number and a unit, for instance 90s, 5m, 24h, 7d"
        )
    return seconds
