"""What commands on a source share: what the guard works with, and putting back first what was interrupted there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from drkit.cli import copies
from drkit.cli.output import path_text
from drkit.cli.session import Session
from drkit.config import state_dir
from drkit.model import Finding, show_path

if TYPE_CHECKING:
    from drkit.guard import Elsewhere, Recovered, Site
    from drkit.repo import Repository


def make_site(session: Session, source: bytes, repository: Repository, *, lock_timeout_s: float = 60.0) -> Site:
    """Return what the guard works with: a source, with the excludes, plugins, stores and rule of the configuration."""
    from drkit.backup import BackupOptions
    from drkit.backup.live import InUse
    from drkit.guard import Policy, Site
    from drkit.source.walk import PluginRules

    config = session.config
    inventory = session.inventory()
    return Site(
        source=os.path.realpath(source),
        repo=repository,
        store_url=repository.store.url,
        inventory=inventory,
        options=BackupOptions(
            excludes=config.backup.exclude, rules=PluginRules(config.plugins.markers, config.plugins.globs)
        ),
        cache_dir=session.cache_dir,
        in_use=(InUse(session.inventory_path, inventory.copy_to),),
        others=_others(session, repository) if config.guard.copies > 1 or config.guard.stores else (),
        policy=Policy(copies=config.guard.copies, stores=tuple(map(session.address, config.guard.stores))),
        lock_timeout_s=lock_timeout_s,
    )


def _others(session: Session, repository: Repository) -> tuple[Elsewhere, ...]:
    from drkit.guard import Elsewhere

    stores = copies.of(session, repository.store)
    return tuple(Elsewhere(name, url, partial(session.store, name)) for name, url in stores.items())


def recover_first(
    session: Session, source: bytes, repository: Repository | None = None, *, lock_timeout_s: float = 60.0
) -> list[Recovered]:
    """Put back what an interrupted edit or command left of a source, and tell it. Every command on one begins so.

    Without a `repository` the one that is named is opened, or else the one that the command had, if it takes one.
    Nothing to do costs a look into one directory.
    """
    if not any_journal():
        return []
    from drkit.guard import recover
    from drkit.guard.journal import Command, Journal
    from drkit.guard.lock import Waiting

    source = os.path.realpath(source)
    records = []
    for journal in Journal.left(source):
        records.append(journal.read())
        journal.close()
    if not records:
        return []
    if repository is None:
        urls = [record.store_url for record in records if isinstance(record, Command)]
        if not (session.repo or session.config.repo) and urls:
            session.repo = urls[0]
        if session.repo or session.config.repo:
            repository = session.open()
    site = make_site(session, source, repository, lock_timeout_s=lock_timeout_s) if repository else None
    found = recover(source, site=site, waiting=Waiting(lock_timeout_s))
    tell(session, source, found)
    return found


def tell(session: Session, source: bytes, found: Sequence[Recovered]) -> None:
    """Warn of what was put back, and of what was left alone."""
    for one in found:
        plugins = ", ".join(show_path(plugin) or "." for plugin in one.plugins)
        done = "put back" if one.done == "put back" else "already done; what it had left was removed"
        message = f"an interrupted {one.kind} of {plugins} in {show_path(source)} was {done}"
        repair = f"see what was there with 'drkit ls {one.rejected[:12]}'" if one.rejected else "nothing is to be done"
        if one.paths:
            message += f", but not {', '.join(map(show_path, one.paths))}, which somebody changed since"
            repair = f"compare with 'drkit ls {one.snapshot[:12]}', which was taken before"
        session.console.finding(Finding("interrupted", path_text(source), message, repair))


def any_journal() -> bool:
    """Whether anything at all was interrupted on this machine, or is under way."""
    try:
        names = os.listdir(state_dir())
    except OSError:
        return False  # nobody has guarded anything yet; whoever does finds out what is wrong with the directory
    return any(name.endswith(b".journal") for name in names)
