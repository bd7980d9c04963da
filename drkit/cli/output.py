"""What the user sees: results on stdout, everything else on stderr, as text or as JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from drkit.errors import PartialError, UsageError

if TYPE_CHECKING:
    from drkit.model import Entry, Finding


class Console:
    """Where a command prints. With `json` only `result` and errors print; `quiet` leaves out `note`s.

    Text never fails to print, and never steers the terminal: what cannot be shown comes out escaped.
    """

    def __init__(
        self,
        *,
        json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self.out = out or sys.stdout or _nowhere()  # None where the caller has closed it
        self.err = err or sys.stderr or _nowhere()

    def result(self, value: Any) -> None:
        """Print the command's result, a struct or a dictionary, as one line of JSON; nothing without --json."""
        if self.json:
            import msgspec

            self.raw([msgspec.json.encode(value), b"\n"])

    def raw(self, chunks: Iterable[bytes]) -> None:
        """Write bytes to stdout as they are."""
        self.out.flush()
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:  # unbuffered, as with PYTHONUNBUFFERED, a write may be short
                rest = rest[self.out.buffer.write(rest) :]

    def line(self, text: str = "") -> None:
        """Print a line of what was asked for."""
        if not self.json:
            _write(self.out, text)

    def note(self, text: str) -> None:
        """Print a line that says what was done; not with --quiet."""
        if not self.quiet:
            self.line(text)

    def warn(self, text: str) -> None:
        """Print a warning to stderr. With --json warnings are part of the result, and this prints nothing."""
        if not self.json:
            _write(self.err, f"warning: {text}")

    def finding(self, finding: Finding) -> None:
        """Print to stderr what was found wrong on the way to the result."""
        if self.json:
            from msgspec import json, to_builtins

            _write(self.err, json.encode({"type": "warning", **to_builtins(finding)}).decode())
        else:
            self.warn(f"{finding_text(finding)}; {finding.repair}")

    def error(self, code: int, message: str, hint: str) -> None:
        """Print an error and the next step to stderr."""
        if self.json:
            import json

            error = {"type": "error", "code": code, "message": printable(message), "hint": printable(hint)}
            _write(self.err, json.dumps(error))
        else:
            _write(self.err, f"error: {message}")
            _write(self.err, f"hint: {hint}")

    def no_json(self, command: str) -> None:
        """Refuse --json for a command whose result is bytes."""
        if self.json:
            raise UsageError(f"'drkit {command}' writes plain bytes", hint="leave out --json")

    def lost(self, lost: Sequence[str]) -> int:
        """Warn of everything that could not be read, and return the exit code that says so."""
        for text in lost:
            self.warn(text)
        return PartialError.code if lost else 0

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
        """Print columns as wide as their widest cell; those numbered in `right` are aligned to the right."""
        lines = [header, *rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            cells = (
                cell.rjust(width) if number in right else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            self.line("  ".join(cells).rstrip())

    def flush(self) -> None:
        """Push out what is buffered, so that a closed pipe shows now and not at exit."""
        self.out.flush()
        self.err.flush()


def printable(text: str) -> str:
    """Return text that a terminal shows as it is: control characters and undecoded bytes come out escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else _escape(char) for char in text)


def finding_text(finding: Finding) -> str:
    """Return what was found, and in which object."""
    named = finding.object in finding.message
    return finding.message if named else f"{finding.object}: {finding.message}"


def path_text(raw: bytes) -> str:
    """Return a path for JSON: exact where it is UTF-8, else with `\\xNN` for the bytes that are not."""
    return raw.decode("utf-8", "backslashreplace")


def path_keys(raw: bytes) -> dict[str, str]:
    """Return the keys of a path in a JSON object: `path`, and `path_b64` where the path is not UTF-8."""
    from drkit.format.manifest import text_or_b64  # msgspec, which --version does without

    text, encoded = text_or_b64(raw)
    return {"path": path_text(raw), "path_b64": encoded} if encoded else {"path": text}


def entry_keys(raw: bytes, entry: Entry) -> dict[str, Any]:
    """Return the keys of an entry in JSON: those of the manifest, and always `path`, `type` and `size`."""
    import msgspec

    return {**path_keys(raw), "type": entry.type, "size": entry.size, **msgspec.to_builtins(entry)}


def size(count: int) -> str:
    """Return a number of bytes for people: `999 B`, `1.5 MiB`."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def moment(time: str) -> str:
    """Return the time in a snapshot's name as RFC 3339."""
    return f"{time[:4]}-{time[4:6]}-{time[6:11]}:{time[11:13]}:{time[13:]}"


def duration(seconds: float) -> str:
    """Return a time span for people: `0.42 s`, `12.3 s`, `3 min 04 s`, `2 h 05 min`."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def count(number: int, noun: str) -> str:
    """Return `1 file`, `1,200 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # open as long as the process


def _escape(char: str) -> str:
    undecoded = 0xDC80 <= ord(char) <= 0xDCFF  # what os.fsdecode makes of a byte that is no UTF-8
    return f"\\x{ord(char) - 0xDC00:02x}" if undecoded else char.encode("unicode_escape").decode()


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(printable(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")
