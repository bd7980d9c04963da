"""Every error that drkit raises on purpose, its exit code, and the hint that it carries.

DrkitError (1)
├── UsageError (2)            the command line, the configuration or an argument is wrong
├── PartialError (3)          done, with warnings or losses
├── RepositoryNotFound (10)   there is no repository where one was named
├── LockedError (11)          somebody else is working there
├── WrongKey (12)             the repository is encrypted and the key does not open it
├── StoreError (13)           the store failed or refused
│   ├── ObjectNotFound
│   ├── ObjectExists
│   ├── StoreCorrupt          the store gave other bytes than it was asked for
│   │   └── EndsBefore         fewer than it was asked for, and nothing comes after them
│   ├── StoreUnavailable      the store gave no answer, or asked to come back later
│   └── NoSpace
├── IntegrityError (20)       stored data is damaged
│   └── FormatError           bytes that are not what the format document allows
├── RestoreMismatch (21)      what was restored is not what was backed up
├── DrillFailed (22)
├── GuardRefused (30)
├── ProposalRejected (31)
└── BudgetExhausted (32)

Exit codes 130 and 143 stand for SIGINT and SIGTERM. A subclass that sets no code inherits its parent's.
"""

from __future__ import annotations

from typing import ClassVar


class DrkitError(Exception):
    """Something went wrong that drkit can explain: `str(error)` says what, `hint` the next step."""

    code: ClassVar[int] = 1
    default_hint: ClassVar[str] = "run again with -v for the traceback, and report it if it persists"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint or self.default_hint


class UsageError(DrkitError):
    """The command line, the configuration or an argument is wrong; nothing was touched."""

    code = 2
    default_hint = "see 'drkit COMMAND --help'"


class PartialError(DrkitError):
    """The work was done, but with warnings, or not all of it could be done."""

    code = 3
    default_hint = "read the warnings above; run 'drkit verify --level content' to see what is damaged"


class RepositoryNotFound(DrkitError):
    """There is no drkit repository where one was named."""

    code = 10
    default_hint = "check --repo or DRKIT_REPO, or make one with 'drkit init --repo URL'"


class LockedError(DrkitError):
    """Another process holds the lock that this command needs."""

    code = 11
    default_hint = "wait until the other command has ended, then run this one again"


class WrongKey(DrkitError):
    """The repository is encrypted and no slot opens with the key that was given."""

    code = 12
    default_hint = "check DRKIT_PASSWORD, DRKIT_PASSWORD_FILE, DRKIT_PASSWORD_COMMAND or DRKIT_KEY_FILE"


class StoreError(DrkitError):
    """The store failed, refused, or answered what it must not."""

    code = 13
    default_hint = "check that the store is reachable and writable, then run the command again"


class ObjectNotFound(StoreError):
    """The store has no object of this name."""

    default_hint = "run 'drkit verify' to see what is missing"


class ObjectExists(StoreError):
    """An object of this name is already there and must not be overwritten."""


class StoreCorrupt(StoreError):
    """The store returned other bytes than those that were asked for, for instance too few."""

    default_hint = "run 'drkit verify --level packs' to see what is damaged"


class EndsBefore(StoreCorrupt):
    """The object ends within the range that was asked for, or before it; `data` is what it has of the range."""

    def __init__(self, message: str, *, hint: str | None = None, data: bytes = b"") -> None:
        super().__init__(message, hint=hint)
        self.data = data


class StoreUnavailable(StoreError):
    """The store gave no answer, or asked to come back later: what it was asked for may have been done, or not."""

    default_hint = "check the network and the store's address, then run the command again; what was stored is reused"


class NoSpace(StoreError):
    """The device or the quota is full."""

    default_hint = "free some space and run the command again; what was stored so far is reused"


class IntegrityError(DrkitError):
    """Stored data is damaged."""

    code = 20
    default_hint = "run 'drkit verify --level content' for the list of what is damaged"


class FormatError(IntegrityError):
    """Bytes that the format document does not allow: damaged, hostile, or of a newer version."""


class RestoreMismatch(DrkitError):
    """What was restored is not what was backed up; the live data was left as it was."""

    code = 21
    default_hint = "run 'drkit verify --level content', and check the target's disk"


class DrillFailed(DrkitError):
    """A drill missed its target or did not restore."""

    code = 22
    default_hint = "run 'drkit verify --level restore' for what is damaged"


class GuardRefused(DrkitError):
    """No edit permit: the proof that the rule asks for is not there, or somebody else edits."""

    code = 30
    default_hint = "run 'drkit verify --level restore', then try again"


class ProposalRejected(DrkitError):
    """A proposal did not pass the validators."""

    code = 31
    default_hint = "mend what the findings name, then try again"


class BudgetExhausted(DrkitError):
    """A quota or a budget is used up."""

    code = 32
    default_hint = "wait until the quota opens again, or raise it in drkit.toml"
