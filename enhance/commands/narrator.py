"""What a run tells while it goes on: one line that changes on a terminal, else a line of fields for each event.

Lines are written at once, whole, and never to stdout. With --json each is an object with `"type": "progress"`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from drkit.cli import Console, path_text
from drkit.clock import utc_now
from enhance.generators.base import CallError
from enhance.model import FINAL, Reply, Status

if TYPE_CHECKING:
    from enhance.pace import Forecast, Pacer
    from enhance.pipeline import Step


class Narrator:
    """Tells of a run. A context manager: the changing line goes away in the end."""

    def __init__(self, console: Console, planned: Mapping[bytes, int]) -> None:
        self.planned = planned
        self.forecast: Forecast | None = None
        self.last: Status | None = None
        """The status that was told last."""
        self._console = console
        self._terminal = console.err.isatty() and not console.json
        self._counts: dict[Status, int] = {}
        self._made = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal and not self._console.quiet:
            self._write("\r\x1b[K")

    def step(self, step: Step) -> None:
        """Tell that a plugin has its final status."""
        self.last = step.status
        if step.status not in FINAL:
            return
        self._counts[step.status] = self._counts.get(step.status, 0) + 1
        if self.forecast is not None:
            self.forecast.finished(self.planned.get(step.plugin, 0), step.calls - self._made)
        self._made = step.calls
        fields = {"plugin": path_text(step.plugin), "status": str(step.status), "reason": step.reason}
        self._tell("plugin", {**fields, "done": step.done, "total": step.total, "calls": step.calls, **self._eta()})

    def answered(self, seconds: float, reply: Reply | None, error: CallError | None) -> None:
        """Tell that a call has ended."""
        fields: dict[str, Any] = {"seconds": round(seconds, 2)}
        if reply is not None:
            usage = reply.usage
            fields |= {"finish": reply.finish_reason, "tokens_in": usage.tokens_in, "tokens_out": usage.tokens_out}
        if error is not None:
            fields |= {"error": str(error), "blame": str(error.blame), "retry_after_s": error.retry_after_s}
        self._tell("call", fields)

    def pace(self, sentence: str) -> None:
        """Tell which pace is kept, and why."""
        self._tell("pace", {"evidence": sentence})

    def _eta(self) -> dict[str, Any]:
        return {"eta": self.forecast.eta().sentence} if self.forecast is not None else {}

    def _tell(self, event: str, fields: dict[str, Any]) -> None:
        if self._console.quiet:
            return
        if self._terminal:
            self._draw(event, fields)
            return
        told = {"time": f"{utc_now():%Y-%m-%dT%H:%M:%SZ}", "event": event}
        told |= {name: value for name, value in fields.items() if value not in {None, ""}}
        if self._console.json:
            self._write(json.dumps({"type": "progress", **told}) + "\n")
        else:
            self._write(" ".join(f"{name}={_field(value)}" for name, value in told.items()) + "\n")

    def _draw(self, event: str, fields: dict[str, Any]) -> None:
        if event == "plugin":
            counts = ", ".join(f"{count} {status}" for status, count in sorted(self._counts.items()))
            text = f"{fields['done']} of {fields['total']}: {counts}; {fields.get('eta') or fields['plugin']}"
        else:
            text = f"{event}: " + ", ".join(f"{name} {value}" for name, value in fields.items() if value is not None)
        width = shutil.get_terminal_size().columns - 1
        self._write(f"\r\x1b[K{_printable(text)[:width]}")

    def _write(self, text: str) -> None:
        self._console.err.write(text)
        self._console.err.flush()


class Told:
    """Calls of a pacer that a narrator hears of."""

    def __init__(self, pacer: Pacer, narrator: Narrator) -> None:
        self._pacer, self._narrator = pacer, narrator
        self._said = ""

    def ask(self, send: Callable[[], Reply], *, tokens: int, timeout_s: float) -> Reply:
        """Do as `Pacer.ask` does."""
        sentence = self._pacer.evidence().sentence
        if sentence != self._said:
            self._said = sentence
            self._narrator.pace(sentence)

        def timed() -> Reply:
            began = time.monotonic()
            try:
                reply = send()
            except CallError as error:
                self._narrator.answered(time.monotonic() - began, None, error)
                raise
            self._narrator.answered(time.monotonic() - began, reply, None)
            return reply

        return self._pacer.ask(timed, tokens=tokens, timeout_s=timeout_s)


def _field(value: Any) -> str:
    text = str(value)
    plain = text.isascii() and text.isprintable() and not set(text) & set(' "=\\')
    return text if plain else json.dumps(text)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
