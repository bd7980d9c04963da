"""The clock that all processes of a machine share and nobody sets."""

from __future__ import annotations

import time


def boot_time() -> float:
    """Return the seconds since the machine started; they go on while it sleeps, where the system counts those."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
