"""The console script: parse, run one command, and turn whatever happens into output and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from drkit import __version__
from drkit.cli.argv import Argv, hoist
from drkit.cli.output import Console
from drkit.errors import DrkitError, UsageError

COMPLETION = "_DRKIT_COMPLETE"


class Terminated(BaseException):
    """SIGTERM arrived. An exception, so that everything on the way out is cleaned up."""


def run() -> NoReturn:
    """Run the command line of this process and end it.

    The interpreter is not taken down piece by piece: that took a quarter of a small command's time, and when `main`
    returns everything is written and closed.
    """
    code = 130  # of a SIGINT outside of `main`, or while it reports one
    with suppress(KeyboardInterrupt):
        code = main()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with suppress(OSError, ValueError):  # closed, or nobody reads: `main` has dealt with that
                    stream.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (without the program's name) and return the exit code."""
    words = sys.argv[1:] if argv is None else argv
    console = Console(json="--json" in words)
    command = ""
    try:
        args = hoist(words)
        command = args.rest[0] if args.rest else ""
        console = Console(json=args.has("--json"), quiet=args.has("--quiet", "-q"), verbose=args.has("--verbose", "-v"))
        with _sigterm_raises():
            code = _version(console) if args.rest[:1] == ["--version"] else _run(args, console)
            console.flush()
        return code
    except BaseException as error:  # noqa: BLE001  # the one place where every error ends
        return _report(error, console, command)


def _version(console: Console) -> int:
    if console.json:
        console.result({"version": __version__})
    console.line(f"drkit {__version__}")
    return 0


def _run(args: Argv, console: Console) -> int:
    import gc

    # Entries and rows come by the hundred thousand and are no cycles: looking for some took a tenth of a backup. What
    # the next lines import is not either.
    gc.set_threshold(100_000, 50, 50)
    import typer

    from drkit.cli.app import NAMES, build
    from drkit.cli.session import Session

    name = args.rest[0] if args.rest and args.rest[0] in NAMES and COMPLETION not in os.environ else None
    parser = typer.main.get_command(build(name, *args.rest[1:2] if name else ()))
    if not args.rest and args.tail is None and COMPLETION not in os.environ:
        if not console.json:
            console.line(parser.make_context("drkit", [], resilient_parsing=True).get_help())
        raise UsageError("no command given", hint="see 'drkit --help'")
    session = Session(console)
    session.tail = args.tail or []
    # Workers that wait for the interpreter's lock between two calls of zstd get it after 1 ms instead of 5.
    sys.setswitchinterval(0.001)
    try:
        if COMPLETION in os.environ:
            parser.main(args.all, "drkit")
        with parser.make_context("drkit", args.all, obj=session) as context:
            code = parser.invoke(context) or 0
    except typer.Exit as done:
        return done.exit_code
    except SystemExit as done:  # from the options and the protocol of completion
        return int(done.code or 0)
    finally:
        found = session.close()
    return code or found


def _report(error: BaseException, console: Console, command: str) -> int:
    """Print an error of `command` (empty: of none yet); return its exit code."""
    if isinstance(error, BrokenPipeError):
        # Whoever read the output has had enough. Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if console.verbose and not console.json:
        import traceback

        traceback.print_exception(error, file=console.err)
    code, message, hint = _explain(error, command)
    console.error(code, message, hint)
    return code


def _explain(error: BaseException, command: str) -> tuple[int, str, str]:
    """Return exit code, message and hint."""
    if isinstance(error, UsageError) and error.hint == UsageError.default_hint:
        return error.code, str(error), f"see 'drkit {command} --help'" if command else "see 'drkit --help'"
    if isinstance(error, DrkitError):
        return error.code, str(error), error.hint
    again = "run the command again; what it has stored so far is used"
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted", again
    if isinstance(error, Terminated):
        return 143, "terminated", again
    # The parser's errors share no public base class across the versions of typer.
    format_message = getattr(error, "format_message", None)
    if format_message is not None:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "drkit"
        return UsageError.code, format_message(), f"see '{path} --help'"
    return DrkitError.code, f"{type(error).__name__}: {error}", DrkitError.default_hint


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def terminate(_signal: int, _frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
