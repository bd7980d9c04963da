"""How progress looks: a bar on a terminal, a line now and then elsewhere, nothing for the first second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from drkit.cli.output import Console, count, size

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

FIRST_AFTER = 1.0
LINE_EVERY = 5.0


class ConsoleProgress:
    """Shows on stderr how far a command is. Use as a context manager, so that the bar goes away on an error too."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._terminal = console.err.isatty()
        self._began = clock()
        self._next = self._began + FIRST_AFTER
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._totals: tuple[int | None, int | None] = (None, None)
        self._what = ""
        self._files = 0
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, total_files: int | None, total_bytes: int | None, what: str) -> None:
        """Begin a stage: counters start at 0, and the bar, if it is shown, changes to it."""
        self._what, self._totals = what, (total_files, total_bytes)
        self._files = self._bytes = 0
        if self._bar is not None and self._task is not None:
            self._bar.reset(self._task, total=self._total, description=what)

    def advance(self, files: int, bytes: int) -> None:  # noqa: A002  # the protocol's word
        """Count, and show it when it is time."""
        self._files += files
        self._bytes += bytes
        now = self._clock()
        if now < self._next:
            return
        if self._terminal:
            self._next = now + 0.1
            self._draw()
        else:
            self._next = now + LINE_EVERY
            self._console.err.write(f"{self._what}: {self._counts()}\n")
            self._console.err.flush()

    @property
    def _total(self) -> int | None:
        """What the bar is measured in: bytes if their total is known, else files."""
        files, size_ = self._totals
        return size_ if size_ is not None else files

    @property
    def _done(self) -> int:
        return self._bytes if self._totals[1] is not None or self._totals[0] is None else self._files

    def _draw(self) -> None:
        if self._bar is None:
            self._bar, self._task = _bar(self._console), None
            self._task = self._bar.add_task(self._what, total=self._total, counts="")
            self._bar.start()
        assert self._task is not None
        self._bar.update(self._task, completed=self._done, counts=self._counts())

    def _counts(self) -> str:
        files, size_ = self._totals
        parts = []
        if self._files or files:
            parts.append(f"{self._files:,}/{count(files, 'file')}" if files is not None else count(self._files, "file"))
        if self._bytes or size_:
            parts.append(f"{size(self._bytes)} of {size(size_)}" if size_ is not None else size(self._bytes))
        return ", ".join(parts)


def _bar(console: Console) -> Any:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        console=RichConsole(file=console.err),
        transient=True,
    )
