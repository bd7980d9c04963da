"""The 3-2-1-1-0 rule: three copies, two kinds of store, one off-site, one that nobody can take away, no errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime

from msgspec import Struct

from drkit.doctor.report import ADVICE, DAMAGE, WARNING, Diagnosis, RuleCheck, Targets, age, as_diagnosis, word
from drkit.doctor.repository import LOST, Newest, snapshot_time
from drkit.errors import DrkitError, ObjectExists, ObjectNotFound, RepositoryNotFound, StoreError, StoreUnavailable
from drkit.inventory import Inventory
from drkit.model import Level, show_path
from drkit.repo import Repository
from drkit.store.base import Store
from drkit.store.wrap import AppendOnly, ReadOnly, Wrapped

PROBE = "quarantine/append-only-probe"
"""What is put where a store is said to keep everything, and tried to be deleted: where that is true it stays there."""
_CODES = ("rule-copies", "rule-kinds", "rule-offsite", "rule-append-only", "rule-errors")
_NAMES = ("3 copies", "2 kinds of store", "1 off-site", "1 append-only or immutable", "0 errors")
_ANOTHER = "name another store in drkit.toml as [stores.NAME], then 'drkit copy --to NAME'"
_NOWHERE = "no store holds the newest snapshot"
_REACHED = (Level.PACKS, Level.CONTENT, Level.RESTORE)


class Place(Struct, frozen=True):
    """A store that may hold a copy: what commands call it, and what is known of it that is not to be seen.

    `medium` and `away`: what kind of store it is, and whether it outlives the loss of this place.
    """

    name: str
    medium: str
    away: bool
    append_only: bool
    immutable: bool
    open: Callable[[], Repository]


class _Copy(Struct):
    """A place as it was found. `trouble` says why it does not count, `device` where in this machine it lies."""

    place: Place
    repo: Repository | None = None
    ids: frozenset[str] = frozenset()
    device: int | None = None
    keeps: bool = False
    kept: str = ""
    trouble: str = ""

    @property
    def url(self) -> str:
        return self.repo.store.url if self.repo else ""


class Rule:
    """The rule, over a repository and the stores that are to hold its copies; the first place is the repository's own.

    `look` opens each store and finds what is wrong with it; `checks` then says what holds.
    """

    def __init__(self, places: Sequence[Place], newest: Sequence[Newest], *, host: str, targets: Targets) -> None:
        self._places = places
        self._newest = newest
        self._host = host
        self._targets = targets
        self._copies: list[_Copy] = []

    def look(self, repo: Repository) -> Iterator[Diagnosis]:
        """Open every store; what cannot be opened, is another repository, or lies behind, becomes a finding."""
        for place in self._places:
            copy = _Copy(place)
            self._copies.append(copy)
            try:
                there = repo if place is self._places[0] else place.open()
                if there.config.repository_id != repo.config.repository_id:
                    copy.trouble = "holds another repository"
                    repair = f"name another place for {place.name} in drkit.toml, then 'drkit copy --to {place.name}'"
                    yield Diagnosis("copy-foreign", place.name, f"{there.store.url} {copy.trouble}", repair, WARNING)
                    continue
                copy.ids = frozenset(str(ref.id) for ref in there.snapshots())
                copy.repo, copy.device = there, _device(there.location())
                copy.keeps, copy.kept = _kept(place, there.store)
                if there is not repo:
                    for finding in (*there.findings, *there.load_index().findings):
                        yield as_diagnosis(finding, DAMAGE if finding.code in LOST else WARNING)
                    yield from self._behind(copy)
            except DrkitError as error:
                copy.repo, copy.trouble = None, str(error)
                repair = f"drkit copy --to {word(place.name.encode())}"
                if not isinstance(error, RepositoryNotFound):
                    repair = f"{error.hint}; then '{repair}'"
                yield Diagnosis("copy-unreadable", place.name, str(error), repair, WARNING)

    def _behind(self, copy: _Copy) -> Iterator[Diagnosis]:
        for one in self._newest:
            held, lag = self._held(copy, one)
            if not held:
                message = f"{copy.url} {lag} of {show_path(one.snapshot.raw_source)}"
                repair = f"drkit copy --to {word(copy.place.name.encode())}"
                yield Diagnosis("copy-behind", copy.place.name, message, repair, WARNING)

    def _held(self, copy: _Copy, one: Newest) -> tuple[bool, str]:
        """Whether a copy has a snapshot of a source that is new enough, and what is to be said of it."""
        if copy.trouble:
            return False, copy.trouble
        if one.ref.id in copy.ids:
            return True, ""
        for ref in one.history:
            if ref.id in copy.ids:
                lag = snapshot_time(one.ref) - snapshot_time(ref)
                return lag <= self._targets.rpo, f"is {age(lag)} behind the newest snapshot"
        return False, "has no recent snapshot"

    # What holds

    def checks(self, inventory: Inventory | None, *, now: datetime) -> tuple[RuleCheck, ...]:
        """Return the five, each for the source of which it is least true."""
        found: list[RuleCheck] = []
        several = len(self._newest) > 1
        for one in self._newest:
            prefix = f"{show_path(one.snapshot.raw_source)}: " if several else ""
            held = [copy for copy in self._copies if self._held(copy, one)[0]]
            five = (
                self._number(one),
                _kinds(held),
                _offsite(held),
                _unchangeable(held),
                self._errors(held, inventory, now),
            )
            checks = [RuleCheck(name, *what) for name, what in zip(_NAMES, five, strict=True)]
            checks = [RuleCheck(check.name, check.ok, prefix + check.evidence, check.repair) for check in checks]
            found = [
                new if not found or (old.ok and not new.ok) else old
                for old, new in zip(found or checks, checks, strict=True)
            ]
        nothing = [RuleCheck(name, False, "there is no snapshot", "drkit backup SOURCE") for name in _NAMES]
        return tuple(found or nothing)

    def findings(self, checks: Sequence[RuleCheck]) -> Iterator[Diagnosis]:
        """Yield what does not hold: advice where no second store is named at all, damage where a verify failed."""
        exit_code = WARNING if len(self._places) > 1 else ADVICE
        for code, check in zip(_CODES, checks, strict=True):
            if not check.ok:
                failed = code == "rule-errors" and "failed" in check.evidence
                message = f"3-2-1-1-0: not {check.name}: {check.evidence}"
                yield Diagnosis(code, self._places[0].name, message, check.repair, DAMAGE if failed else exit_code)

    def _number(self, one: Newest) -> tuple[bool, str, str]:
        """Count the source and the stores; two on one device of this machine are one."""
        source = show_path(one.snapshot.raw_source)
        number, said, devices = 1, [f"the source {source}"], set[int]()
        if one.snapshot.host == self._host:
            device = _device(one.snapshot.raw_source)
            if device is None:
                number, said = 0, [f"the source {source} is not there"]
            else:
                devices.add(device)
        for copy in self._copies:
            held, lag = self._held(copy, one)
            if not held:
                said.append(f"not {copy.place.name}, which {lag}" if copy.repo else f"not {copy.place.name}: {lag}")
            elif copy.device in devices:
                said.append(f"not {copy.place.name}, on the same device")
            else:
                number += 1
                said.append(copy.place.name)
                devices |= {copy.device} if copy.device is not None else set()
        return number >= 3, f"{number} of 3: {', '.join(said)}", _ANOTHER

    def _errors(self, held: Sequence[_Copy], inventory: Inventory | None, now: datetime) -> tuple[bool, str, str]:
        if inventory is None:
            return False, "the inventory cannot be read", "mend the inventory first"
        bad: list[str] = []
        good: list[str] = []
        repairs: list[str] = []
        for copy in held:
            ok, what = self._last_proof(copy, inventory, now)
            (good if ok else bad).append(f"{copy.place.name} {what}")
            if not ok:
                other = "" if copy is self._copies[0] else f" --repo {word(copy.place.name.encode())}"
                repairs.append(f"drkit{other} verify --level content")
        said = "; ".join(bad or good) or _NOWHERE
        return bool(held) and not bad, said, "; ".join(repairs) or _ANOTHER

    def _last_proof(self, copy: _Copy, inventory: Inventory, now: datetime) -> tuple[bool, str]:
        """Return what the newest verification of a store says: it must be good, recent, and have read the packs."""
        assert copy.repo is not None
        repo_id, levels = copy.repo.config.repository_id, {level.name.lower() for level in _REACHED}
        whole = inventory.last_proof(repo_id, copy.url, None)  # a drill of everything has read all of it, too
        proved, how = (whole.at, "brought back whole") if whole is not None else ("", "")
        for row in inventory.verifications_of(repo_id, copy.url):
            if proved >= row.at:
                break
            if not row.ok:
                old = now - datetime.fromisoformat(row.at)
                return False, f"failed its verification {age(old)} ago, with {row.findings} findings"
            if row.level in levels:
                proved, how = row.at, f"verified at level {row.level}"
                break
        if not proved:
            return False, "was never verified at level packs or above"
        old = now - datetime.fromisoformat(proved)
        return old <= self._targets.verified, f"was {how} {age(old)} ago"


def _kinds(held: Sequence[_Copy]) -> tuple[bool, str, str]:
    kinds: dict[str, list[str]] = {}
    for copy in held:
        kinds.setdefault(copy.place.medium, []).append(copy.place.name)
    said = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items())
    return len(kinds) >= 2, said or _NOWHERE, _ANOTHER + ", of another kind"


def _offsite(held: Sequence[_Copy]) -> tuple[bool, str, str]:
    away = [copy.place.name for copy in held if copy.place.away]
    repair = f"{_ANOTHER}; a disk that is carried away has 'offsite = true' there"
    return bool(away), ", ".join(away) or "every copy is at this place", repair


def _unchangeable(held: Sequence[_Copy]) -> tuple[bool, str, str]:
    kept = [f"{copy.place.name} {copy.kept}" for copy in held if copy.keeps]
    doubted = [f"{copy.place.name} {copy.kept}" for copy in held if copy.kept and not copy.keeps]
    repair = (
        "take the right to delete away from these credentials ('append_only = true' in drkit.toml), or lock the "
        "store's objects ('immutable = true'): see docs/stores.md"
    )
    return bool(kept), "; ".join(kept or doubted) or "whoever may write to the stores may delete everything", repair


def _kept(place: Place, store: Store) -> tuple[bool, str]:
    """Return whether a store keeps what was written, and how that is known.

    That it is append-only is tried out, below what drkit itself refuses; a lock of objects cannot be seen from here.
    """
    if place.immutable:
        return True, "is immutable, as drkit.toml says"
    bare, asked, closed = store, place.append_only, False
    below = store
    while isinstance(below, Wrapped):
        asked |= isinstance(below, AppendOnly)
        closed |= isinstance(below, ReadOnly)
        bare = below.inner if isinstance(below, AppendOnly) else bare
        below = below.inner
    if not asked:
        return False, ""
    if closed:
        return False, "is opened read-only: whether it is append-only cannot be tried"
    with suppress(ObjectExists):
        bare.put(PROBE, b"Whoever may delete this can delete a backup.\n")
    try:
        bare.delete(PROBE)
    except (ObjectNotFound, StoreUnavailable):
        raise
    except StoreError:
        return True, "refused to delete"
    return False, "is append-only by drkit's word only: these credentials may delete there"


def _device(path: bytes | None) -> int | None:
    if path is None:
        return None
    try:
        return os.stat(path).st_dev
    except OSError:
        return None
