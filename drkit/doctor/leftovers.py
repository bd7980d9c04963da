"""What killed commands have left behind: in the store, and around the sources."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import Struct

from drkit.doctor.report import ADVICE, WARNING, Diagnosis, age, word
from drkit.errors import ObjectNotFound
from drkit.model import show_path
from drkit.repo import Repository
from drkit.restore.journal import is_journal
from drkit.seal import beneath
from drkit.store.checks import TEMPORARY

STALE = timedelta(minutes=30)
"""A lock that was not rewritten for this long belongs to nobody (docs/format.md, section 9)."""


class _Lock(Struct):
    host: str = ""
    pid: int = 0


def check_leftovers(repo: Repository, sources: Iterable[bytes], *, host: str, now: datetime) -> Iterator[Diagnosis]:
    """Find stale locks, packs that no index names, temporary files, and at the sources stages of restores that died."""
    yield from _locks(repo, host, now)
    unindexed = len(repo.load_index().unindexed)
    if unindexed:
        message = f"{unindexed} packs are in no index object: a backup was interrupted, or the index was lost"
        repair = "nothing is lost, drkit reads the packs themselves; the next backup that stores something indexes them"
        yield Diagnosis("packs-unindexed", repo.store.url, message, repair, ADVICE)
    yield from _temporary(repo, now)
    for source in sources:
        yield from _stages(source)


def _locks(repo: Repository, host: str, now: datetime) -> Iterator[Diagnosis]:
    for info in repo.store.list("locks/"):
        try:
            lock = msgspec.json.decode(repo.store.get(info.name), type=_Lock)
        except ObjectNotFound:
            continue
        except (msgspec.MsgspecError, UnicodeDecodeError):
            lock = _Lock()
        old = now - datetime.fromtimestamp(info.modified, UTC)
        dead = lock.host == host and lock.pid > 0 and not _lives(lock.pid)
        if dead or old > STALE:
            who = f"process {lock.pid} on {lock.host}" if lock.pid else "a process that left no name"
            message = f"{who} took this lock {age(old)} ago and {'has died' if dead else 'has not renewed it'}"
            directory = repo.location()
            where = (
                word(os.path.join(directory, os.fsencode(beneath(repo.store, info.name)[1])))
                if directory
                else info.name
            )
            yield Diagnosis("lock-stale", info.name, message, f"if that process has ended: rm {where}", WARNING)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _temporary(repo: Repository, now: datetime) -> Iterator[Diagnosis]:
    """Count temporary files that no writer can be using any more."""
    directory = repo.location()
    if directory is None:
        return
    count = size = 0
    limit = (now - STALE).timestamp()
    for folder, _, names in os.walk(directory):
        for name in names:
            if name.startswith(TEMPORARY.encode()):
                with suppress(FileNotFoundError):  # published or removed since
                    status = os.lstat(os.path.join(folder, name))
                    if status.st_mtime < limit:
                        count += 1
                        size += status.st_size
    if count:
        message = f"{count} temporary files of writers that were killed, {size:,} bytes"
        yield Diagnosis("temporary-files", repo.store.url, message, "the next 'drkit backup' removes them", ADVICE)


def _stages(source: bytes) -> Iterator[Diagnosis]:
    shown = show_path(source)
    for directory in (os.path.dirname(source), source):
        try:
            names = [name for name in os.listdir(directory) if is_journal(name)]
        except OSError:
            continue
        for name in names:
            where = show_path(os.path.join(directory, name))
            message = f"{where} is what a restore beside or in {shown} left, unless one is running now"
            repair = "the next 'drkit restore' or 'drkit restore-plugin --in-place' to there finishes or undoes it"
            yield Diagnosis("restore-interrupted", where, message, repair, WARNING)
