"""What a drill and a game day say when they are done."""

from __future__ import annotations

from msgspec import Struct


class Drill(Struct, frozen=True):
    """One timed restore to scratch. `plugin` is None where everything was restored.

    `store` is where it came from, and `snapshot` the newest one there, empty where the store could not be opened.
    `by` is "drkit" or "recover.py". `first_byte_s` ends when the first file with content stands whole in the scratch
    directory, `restore_s` when everything is written, `verify_s` is the reading back, and `total_s` all of it from
    the opening of the repository on. `rto_s` is what `total_s` must not exceed, `rpo_s` what the snapshot's age
    `age_s` must not. `reason` says why it did not pass.
    """

    plugin: bytes | None
    store: str
    by: str
    first_byte_s: float
    restore_s: float
    verify_s: float
    total_s: float
    rto_s: float
    age_s: float
    rpo_s: float
    files: int
    bytes: int
    passed: bool
    reason: str = ""
    snapshot: str = ""


class DrillReport(Struct, frozen=True):
    """All drills of one run; `snapshot` is the one that the first of them drilled."""

    snapshot: str
    drills: tuple[Drill, ...]
    duration_s: float

    @property
    def passed(self) -> bool:
        """Whether every drill passed, and there was one."""
        return bool(self.drills) and all(drill.passed for drill in self.drills)


class Loss(Struct, frozen=True):
    """One thing that a game day lost on purpose, and what came of it.

    `survived` means that everything came back as it was backed up. `lost` are the paths that did not, each of them
    named by the restore, or in a stretch that it named. `passed` means that drkit kept what it promises for this loss,
    in time: see docs/drills.md. `reason` says why not.
    """

    loss: str
    what: str
    survived: bool
    how: str
    lost: tuple[str, ...]
    total_s: float
    rto_s: float
    passed: bool
    reason: str = ""


class GameDayReport(Struct, frozen=True):
    """All losses of a game day, in the copy of a repository."""

    snapshot: str
    losses: tuple[Loss, ...]
    duration_s: float

    @property
    def passed(self) -> bool:
        """Whether drkit kept what it promises for every loss."""
        return bool(self.losses) and all(loss.passed for loss in self.losses)
