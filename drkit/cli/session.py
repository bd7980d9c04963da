"""What every command starts from: the console, the configuration, and the repository that was named."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING

from drkit.cli.output import Console
from drkit.errors import DrkitError, PartialError, UsageError
from drkit.progress import NullProgress, Progress

if TYPE_CHECKING:
    from drkit.config import Config
    from drkit.inventory import Inventory
    from drkit.model import Finding
    from drkit.repo import Repository
    from drkit.seal import KeySource
    from drkit.store.base import Store


class Session:
    """One run of the command line. Nothing is read or opened before a command asks for it."""

    def __init__(self, console: Console, *, repo: str = "", config: str = "") -> None:
        self.console = console
        self.repo = repo
        self.inventory_url = ""
        self.config_path = config
        self.tail: list[str] = []
        """What the command line has after `--`."""
        self.told: set[Finding] = set()
        """Findings that the command itself has printed."""
        self._stores: list[Store] = []
        self._repositories: list[Repository] = []
        self._inventory: Inventory | None = None

    @cached_property
    def config(self) -> Config:
        """The configuration file's content; UsageError if it is wrong."""
        from drkit.config import load_config

        return load_config(self.config_path)

    @cached_property
    def keys(self) -> KeySource:
        """Where the secret of an encrypted repository comes from: the environment, or whoever sits at the terminal."""
        from drkit.cli.asking import at_terminal, passphrase
        from drkit.seal import KeySource

        return KeySource(prompt=passphrase if at_terminal() else None)

    def store(self, other: str = "") -> Store:
        """Open the store that --repo, DRKIT_REPO or the configuration names, whether or not a repository is there.

        `other` names another one. Each may be the name of one of the configured stores, or a URL.
        """
        from drkit.store import open_store

        config = self.config  # read even if it is not needed: what is wrong in it should not wait for the day it is
        named = other or self.repo or config.repo
        if not named:
            raise UsageError("no repository named", hint="give --repo URL, or set DRKIT_REPO")
        store = open_store(config.resolve(named))
        if named in config.stores and config.stores[named].append_only:
            from drkit.store.wrap import AppendOnly

            store = AppendOnly(store)
        self._stores.append(store)
        return store

    def address(self, named: str) -> str:
        """Return what the store that is named calls itself, as the inventory knows it; nothing is asked of it."""
        from drkit.store import open_store

        url = self.config.resolve(named)
        try:
            store = open_store(url)
        except DrkitError:  # whoever uses it is told what is missing
            return url
        store.close()
        return store.url

    def open(self, *, cached: bool = False) -> Repository:
        """Open the repository. What turns out to be wrong with it is told when the session is closed.

        With `cached`, what never changes in a remote store comes from a local cache: for commands that bring something
        back or show it, not for those that prove that it is there.
        """
        from drkit.repo import Repository

        store = self.store()
        remote = store.directory is None
        if cached and remote:
            from drkit.store.cache import CachedStore

            store = CachedStore(store, os.path.join(self.cache_dir, b"objects"))
        repository = Repository.open(store, both=not (cached and remote), keys=self.keys)
        self._repositories.append(repository)
        return repository

    def inventory(self) -> Inventory:
        """Open the inventory's local file, once; it is made if it is not there."""
        if self._inventory is None:
            from drkit.clock import utc_now
            from drkit.inventory import Inventory

            self._inventory = Inventory.open(self.inventory_path, now=utc_now)
        return self._inventory

    def close(self) -> int:
        """Close the inventory and the stores; tell what was found wrong, and return the exit code that says so."""
        if self._inventory is not None:
            self._inventory.close()
        for store in self._stores:
            store.close()
        found = dict.fromkeys(finding for repository in self._repositories for finding in repository.findings)
        findings = [finding for finding in found if finding not in self.told]
        for finding in findings:
            self.console.finding(finding)
        return PartialError.code if findings else 0

    def progress(self) -> AbstractContextManager[Progress]:
        """Return what shows a service's progress as long as the block runs; nothing with --quiet or --json."""
        if self.console.quiet or self.console.json:
            return nullcontext(NullProgress())
        from drkit.cli.progress import ConsoleProgress

        return ConsoleProgress(self.console)

    @property
    def inventory_path(self) -> bytes:
        """The inventory's local file: what --inventory names, or drkit/inventory.db in $XDG_DATA_HOME."""
        if self.inventory_url and not is_remote(self.inventory_url):
            return os.fsencode(os.path.expanduser(self.inventory_url.removeprefix("file://")))
        home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
        return os.fsencode(os.path.join(home, "drkit", "inventory.db"))

    @property
    def turso(self) -> tuple[str, str]:
        """URL and token of the Turso database, both empty if none is named."""
        url = self.inventory_url if is_remote(self.inventory_url) else os.environ.get("TURSO_DATABASE_URL", "")
        return url, os.environ.get("TURSO_AUTH_TOKEN", "") if url else ""

    @property
    def cache_dir(self) -> bytes:
        """Where disposable caches live: $XDG_CACHE_HOME/drkit, or ~/.cache/drkit."""
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        return os.fsencode(os.path.join(home, "drkit"))


def is_remote(url: str) -> bool:
    """Whether this names a Turso database, not a file."""
    return url.startswith(("libsql://", "https://", "http://", "wss://", "ws://"))
