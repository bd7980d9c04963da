"""How progress looks: a bar on a terminal after a second, elsewhere a line every five."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self, TextIO

from drkit.cli.output import Console, count, size

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

FIRST_AFTER = 1.0
DRAW_EVERY = 0.1
LINE_EVERY = 5.0


class ConsoleProgress:
    """Shows on stderr how far a command is. Use as a context manager, so that the bar goes away on an error too."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._err = console.err
        self._clock = clock
        self._terminal = console.err.isatty()
        self._next = clock() + (FIRST_AFTER if self._terminal else LINE_EVERY)
        self._bar: Bar | None = None
        self.start(None, None, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, total_files: int | None, total_bytes: int | None, what: str) -> None:
        """Begin a stage: counters start at 0."""
        self._what = what
        self._total_files, self._total_bytes = total_files, total_bytes
        self._files = self._bytes = 0

    def advance(self, files: int, bytes: int) -> None:  # noqa: A002  # the protocol's word
        """Count, and show it when it is time."""
        self._files += files
        self._bytes += bytes
        now = self._clock()
        if now < self._next:
            return
        if self._terminal:
            self._next = now + DRAW_EVERY
            self._draw()
        else:
            self._next = now + LINE_EVERY
            self._err.write(f"{self._what}: {self._counts()}\n")
            self._err.flush()

    def _draw(self) -> None:
        if self._bar is None:
            self._bar = _make_bar(self._err)
            self._bar.start()
        by_bytes = self._total_bytes is not None
        self._bar.update(
            self._bar.task_ids[0],
            description=self._what,
            total=self._total_bytes if by_bytes else self._total_files,
            completed=self._bytes if by_bytes else self._files,
            counts=self._counts(),
        )

    def _counts(self) -> str:
        files = f"{self._files:,} of " if self._total_files is not None else ""
        files += count(self._files if self._total_files is None else self._total_files, "file")
        of = f" of {size(self._total_bytes)}" if self._total_bytes is not None else ""
        return f"{files}, {size(self._bytes)}{of}"


def _make_bar(stream: TextIO) -> Bar:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[counts]}", markup=False),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=RichConsole(file=stream), transient=True)
    bar.add_task("", total=None, counts="")
    return bar
