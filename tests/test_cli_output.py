"""What is printed, and where."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drkit.cli.output import Console, count, duration, path_keys, path_text, printable, size
from drkit.cli.progress import ConsoleProgress
from drkit.errors import UsageError


class Stream(io.TextIOWrapper):
    """A stream in memory, a terminal or not."""

    def __init__(self, encoding: str = "utf-8", *, terminal: bool = False) -> None:
        self.bytes = io.BytesIO()
        self.terminal = terminal
        super().__init__(self.bytes, encoding=encoding, newline="", write_through=True)

    def isatty(self) -> bool:
        return self.terminal

    @property
    def text(self) -> str:
        self.flush()
        return self.bytes.getvalue().decode(self.encoding)


def make(*, json: bool = False, quiet: bool = False, encoding: str = "utf-8") -> tuple[Console, Stream, Stream]:
    out, err = Stream(encoding), Stream(encoding)
    return Console(json=json, quiet=quiet, out=out, err=err), out, err


def say_everything(console: Console) -> None:
    console.result({"key": 1})
    console.line("asked")
    console.note("told")
    console.warn("beware")


def test_text_goes_to_both_streams() -> None:
    console, out, err = make()
    say_everything(console)
    assert (out.text, err.text) == ("asked\ntold\n", "warning: beware\n")


def test_quiet_leaves_out_notes_only() -> None:
    console, out, err = make(quiet=True)
    say_everything(console)
    assert (out.text, err.text) == ("asked\n", "warning: beware\n")


def test_json_is_one_object_and_nothing_else() -> None:
    console, out, err = make(json=True)
    say_everything(console)
    assert (out.text, err.text) == ('{"key":1}\n', "")


def test_errors_have_a_hint_in_both_forms() -> None:
    console, out, err = make()
    console.error(13, "it broke", "mend it")
    assert (out.text, err.text) == ("", "error: it broke\nhint: mend it\n")
    console, out, err = make(json=True)
    console.error(13, "it \udcff broke", "mend it")
    assert out.text == ""
    assert json.loads(err.text) == {"type": "error", "code": 13, "message": "it \\xff broke", "hint": "mend it"}


def test_bytes_come_after_the_text_before_them() -> None:
    console, out, _ = make()
    console.line("first")
    console.raw([b"\xff", b"\n"])
    assert out.bytes.getvalue() == b"first\n\xff\n"


class Short(io.BytesIO):
    """Takes three bytes at a time, as an unbuffered pipe may."""

    def write(self, data: Any) -> int:
        return super().write(bytes(data[:3]))


def test_short_writes_lose_nothing() -> None:
    short = Short()
    out = io.TextIOWrapper(short)
    Console(out=out).raw([b"0123456789", b"", b"abcd"])
    assert short.getvalue() == b"0123456789abcd"


def test_commands_of_bytes_refuse_json() -> None:
    make()[0].no_json("cat")
    with pytest.raises(UsageError, match="drkit cat"):
        make(json=True)[0].no_json("cat")


@given(st.text(st.characters(codec=None), max_size=30), st.sampled_from(["utf-8", "ascii", "latin-1"]))
def test_any_text_can_be_printed_and_steers_no_terminal(text: str, encoding: str) -> None:
    console, out, _ = make(encoding=encoding)
    console.line(text)
    assert out.text.removesuffix("\n").replace("\n", "").isprintable()
    assert out.text.count("\n") == text.count("\n") + 1


@pytest.mark.parametrize(
    ("text", "shown"), [("é", "é"), ("a\x1b[31m", "a\\x1b[31m"), ("a\udcffb", "a\\xffb"), ("\ud800", "\\ud800")]
)
def test_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("raw", "keys"),
    [
        (b"a/b", {"path": "a/b"}),
        (b"a\nb\\", {"path": "a\nb\\"}),
        (b"a\xff", {"path": "a\\xff", "path_b64": "Yf8="}),
    ],
)
def test_paths_in_json_lose_nothing(raw: bytes, keys: dict[str, str]) -> None:
    assert path_keys(raw) == keys
    assert path_text(raw) == keys["path"]


def test_tables_align() -> None:
    console, out, _ = make()
    console.table(("NAME", "N", "X"), [("long name", "1", ""), ("b", "1,000", "x")], right=(1,))
    assert out.text == "NAME           N  X\nlong name      1\nb          1,000  x\n"


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1024**3, "1.0 GiB"),
        (1024**5, "1024.0 TiB"),
    ],
)
def test_sizes(number: int, shown: str) -> None:
    assert size(number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.004, "0.00 s"), (9.999, "10.0 s"), (59.99, "1 min 00 s"), (184, "3 min 04 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_counts() -> None:
    assert [count(n, "file") for n in (0, 1, 1200)] == ["0 files", "1 file", "1,200 files"]


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_nothing_in_the_first_second(terminal: bool) -> None:
    err, clock = Stream(terminal=terminal), Clock()
    with ConsoleProgress(Console(err=err), clock=clock) as progress:
        progress.start(10, 1000, "backing up")
        clock.now = 0.9
        progress.advance(1, 100)
    assert err.text == ""


def test_progress_writes_lines_now_and_then_without_a_terminal() -> None:
    err, clock = Stream(), Clock()
    with ConsoleProgress(Console(err=err), clock=clock) as progress:
        progress.start(4, 4096, "backing up")
        for now in (5.5, 6.0, 11.0):
            clock.now = now
            progress.advance(1, 1024)
        progress.start(None, None, "reading")
        clock.now = 17.0
        progress.advance(1, 10)
    assert err.text.splitlines() == [
        "backing up: 1 of 4 files, 1.0 KiB of 4.0 KiB",
        "backing up: 3 of 4 files, 3.0 KiB of 4.0 KiB",
        "reading: 1 file, 10 B",
    ]


def test_progress_draws_a_bar_on_a_terminal_and_removes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    err, clock = Stream(terminal=True), Clock()
    with ConsoleProgress(Console(err=err), clock=clock) as progress:
        progress.start(4, None, "re[ad]ing")
        clock.now = 1.5
        progress.advance(1, 1024)
    assert "re[ad]ing" in err.text
    assert "1 of 4 files, 1.0 KiB" in err.text
    assert err.text.endswith("\x1b[2K")
