"""Counting what a backup has seen, and telling the progress."""

from __future__ import annotations

from collections.abc import Callable

from drkit.backup.cached import Counts
from drkit.progress import Progress


class Tally:
    """Counts of the entries recorded, and of the files among them that were as before.

    `tick` is called each time the progress is told.
    """

    def __init__(self, progress: Progress, tick: Callable[[], None]) -> None:
        self.files = self.dirs = self.others = 0
        self.bytes = self.unchanged = 0
        self._progress = progress
        self._tick = tick
        self._told = 0, 0

    def count(self, kind: str, size: int, *, unchanged: bool = False) -> None:
        """Count an entry."""
        if kind == "f":
            self.files += 1
            self.bytes += size
            self.unchanged += unchanged
        elif kind == "d":
            self.dirs += 1
        else:
            self.others += 1

    def count_all(self, counts: Counts, *, unchanged: bool) -> None:
        """Count several entries."""
        self.files += counts.files
        self.dirs += counts.dirs
        self.others += counts.others
        self.bytes += counts.size
        if unchanged:
            self.unchanged += counts.files

    def tell(self) -> None:
        """Tell how far the counts have come since the last time."""
        self._progress.advance(self.files - self._told[0], self.bytes - self._told[1])
        self._told = self.files, self.bytes
        self._tick()
