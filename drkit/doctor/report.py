"""What doctor is told, and what it returns."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from datetime import timedelta

from msgspec import Struct

from drkit.errors import IntegrityError, PartialError
from drkit.model import Finding, show_path
from drkit.store.contract import Ability

ADVICE = 0
WARNING = PartialError.code
DAMAGE = IntegrityError.code


class Diagnosis(Finding, frozen=True):
    """A finding with the exit code that it alone would cause: 0 is advice, 3 a warning, more is an error."""

    exit: int = WARNING

    @property
    def severity(self) -> str:
        """The exit code as a word."""
        return {ADVICE: "advice", WARNING: "warning"}.get(self.exit, "error")


class RuleCheck(Struct, frozen=True):
    """One of the five of the 3-2-1-1-0 rule: whether it holds, what shows it, and the next step where it does not."""

    name: str
    ok: bool
    evidence: str
    repair: str


class DoctorReport(Struct, frozen=True):
    """`ok` where there is nothing but advice; `checks` says what was looked at, also where nothing was found.

    `abilities` is what a store can that was examined by itself; `rule` has the five of the 3-2-1-1-0 rule.
    """

    ok: bool
    checks: tuple[str, ...]
    findings: tuple[Diagnosis, ...]
    abilities: tuple[Ability, ...] = ()
    rule: tuple[RuleCheck, ...] = ()

    @property
    def exit(self) -> int:
        """The exit code: that of the worst finding."""
        return max((finding.exit for finding in self.findings), default=0)


class Targets(Struct, frozen=True):
    """How old the newest backup, its proof and the last drill may be."""

    rpo: timedelta = timedelta(hours=24)
    verified: timedelta = timedelta(days=7)
    drilled: timedelta = timedelta(days=30)


class Surroundings(Struct, frozen=True):
    """What doctor is to know of the machine: its name, and the files that nobody else may read, or write.

    `secrets` open what others must not read wherever they lie: keys, passwords, credentials.
    """

    host: str
    secrets: tuple[bytes, ...] = ()
    private: tuple[bytes, ...] = ()
    trusted: tuple[bytes, ...] = ()


def report(checks: Iterable[str], findings: Iterable[Diagnosis]) -> DoctorReport:
    """Sum up; each finding is told once, the worst first."""
    ordered = tuple(sorted(dict.fromkeys(findings), key=lambda finding: -finding.exit))
    return DoctorReport(all(finding.exit == ADVICE for finding in ordered), tuple(checks), ordered)


def as_diagnosis(finding: Finding, exit_code: int) -> Diagnosis:
    """Return what was found elsewhere with its exit code."""
    return Diagnosis(finding.code, finding.object, finding.message, finding.repair, exit_code)


def word(raw: bytes) -> str:
    """Return a path as a word for the shell."""
    return shlex.quote(show_path(raw))


def age(span: timedelta) -> str:
    """Return a time span in the largest unit that fits: `3 days`, `5 hours`, `20 minutes`."""
    seconds = int(span.total_seconds())
    for unit, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= unit:
            return f"{seconds // unit} {name}{'' if seconds // unit == 1 else 's'}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"
