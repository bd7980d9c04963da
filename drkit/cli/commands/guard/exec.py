"""`drkit guard exec`: run a command that cannot do harm."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import structs

from drkit.cli import guarding, recording
from drkit.cli.output import Console, count, path_text
from drkit.cli.session import Session
from drkit.errors import GuardRefused, UsageError
from drkit.model import Finding, show_path
from drkit.timespan import parse_span

if TYPE_CHECKING:
    from drkit.guard import Recovered
    from drkit.guard.exec import ExecReport
    from drkit.guard.undo import Left

EXAMPLES = """
drkit guard exec report-writer --source ~/plugins -- ./codemod.sh
drkit guard exec plugins/a plugins/b --source . --validate 'make check' -- claude -p 'Add examples to a and b'
"""
KEYS = {
    "passed": "whether what the command did stays; if not, the exit code is 30",
    "command_exit": "the command's exit code; 127 if there is none of that name, 128 + N if the signal N ended it",
    "changed": "paths that it changed",
    "outside": "those that are in none of the named plugins; each directory only if nothing in it is listed",
    "rolled_back": "whether everything was put back",
    "snapshot": "id of the snapshot that was taken before",
    "after": "id of the snapshot of what stays, or null",
    "rejected_snapshot": "id of the snapshot, tagged `rejected`, of what was not accepted, or null",
    "validate_exit": "exit code of --validate, or null if it was not run",
    "reasons": "why it was not accepted",
    "left": "`{path, why}` of what could not be put back",
    "duration_s": "seconds",
}
_STDERR = 2


def command(
    ctx: typer.Context,
    words: Annotated[list[str], typer.Argument(metavar="PLUGIN", help="The plugins that may change: paths or names.")],
    *,
    source: Annotated[str, typer.Option("--source", metavar="DIR", help="The directory that the plugins are in.")],
    validate: Annotated[
        str,
        typer.Option("--validate", metavar="CMD", help="Then run this, by the shell; if it fails, all is undone."),
    ] = "",
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="GLOB", help="Neither compare nor put back what matches; repeatable."),
    ] = None,
    lock_timeout: Annotated[
        str, typer.Option("--lock-timeout", metavar="D", help="How long to wait for others on the source.")
    ] = "60s",
    keep_on_failure: Annotated[
        bool, typer.Option("--keep-on-failure", help="Put nothing back; what was rejected stays.")
    ] = False,
) -> int:
    """Run a command, given after --, and undo what it did unless it ends well and changes only the named plugins.

    Before it starts, a snapshot is taken and proved. If it fails, if --validate fails, or if anything else in the
    source differs afterwards, the present state is stored as a snapshot tagged 'rejected', and every differing path
    is put back. What the command prints goes to stderr. All that it started is ended with it. Ignored as well are
    '.git/**' and '**/__pycache__/**'.
    """
    session: Session = ctx.obj
    if not session.tail:
        raise UsageError("no command given", hint="write it after --: drkit guard exec PLUGIN --source DIR -- COMMAND")
    plugins = words[: len(words) - len(session.tail)]
    if not plugins:
        raise UsageError("no plugin named", hint="name the plugins that the command may change, before the --")
    seconds = 0.0 if lock_timeout in {"0", "0s"} else parse_span(lock_timeout)
    from drkit.guard.exec import Task, execute

    task = Task(
        plugins=tuple(plugins),
        command=tuple(session.tail),
        output=_STDERR,
        validate=validate,
        ignore=tuple(ignore or ()),
        keep_on_failure=keep_on_failure,
    )
    repository = session.open()
    site = guarding.make_site(session, os.fsencode(source), repository, lock_timeout_s=seconds)
    session.console.flush()
    with _hangup_terminates():
        report = execute(site, task, told=_Told(session, site.source))
    recording.flush(session, repository)
    _tell(session.console, report)
    return 0 if report.passed else GuardRefused.code


class _Told:
    """Tells what the report cannot."""

    def __init__(self, session: Session, source: bytes) -> None:
        self._session = session
        self._source = source

    def recovered(self, found: Sequence[Recovered]) -> None:
        """Say what others had left."""
        guarding.tell(self._session, self._source, found)

    def interrupted(self, rejected_snapshot: str, left: Sequence[Left]) -> None:
        """Say where what was undone is to be found."""
        message = "the interrupted command was undone"
        if left:
            message += f", but not {', '.join(show_path(one.path) for one in left)}"
        repair = f"see what it had done with 'drkit ls {rejected_snapshot[:12]}'"
        self._session.console.finding(Finding("interrupted", path_text(self._source), message, repair))


def _tell(console: Console, report: ExecReport) -> None:
    keys: dict[str, Any] = {
        **structs.asdict(report),
        "changed": list(map(path_text, report.changed)),
        "outside": list(map(path_text, report.outside)),
        "left": [{"path": path_text(one.path), "why": one.why} for one in report.left],
    }
    console.result(keys)
    for reason in report.reasons:
        console.warn(reason)
    for path in report.outside:
        console.warn(f"outside of the named plugins: {show_path(path)}")
    for one in report.left:
        console.warn(f"not put back: {show_path(one.path)}: {one.why}")
    paths = count(len(report.changed), "path")
    if report.passed:
        console.note(f"passed: {paths} changed; the snapshot before is {report.snapshot[:12]}")
        return
    console.line(f"undone: {paths} put back" if report.rolled_back else f"rejected, but kept: {paths} changed")
    if report.rejected_snapshot:
        console.line(f"what was rejected is kept as snapshot {report.rejected_snapshot[:12]}")


@contextlib.contextmanager
def _hangup_terminates() -> Iterator[None]:
    """Let the end of the terminal undo the command as SIGTERM does, unless it was to be ignored."""
    before = signal.getsignal(signal.SIGHUP)
    if before == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
