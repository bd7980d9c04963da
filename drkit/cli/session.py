"""What every command starts from: the console, the configuration, and the repository that was named."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING

from drkit.cli.output import Console
from drkit.errors import UsageError
from drkit.progress import NullProgress, Progress

if TYPE_CHECKING:
    from drkit.config import Config
    from drkit.repo import Repository
    from drkit.store.base import Store


class Session:
    """One run of the command line. Nothing is read or opened before a command asks for it."""

    def __init__(self, console: Console, *, repo: str = "", config: str = "") -> None:
        self.console = console
        self.repo = repo
        self.config_path = config

    @cached_property
    def config(self) -> Config:
        """The configuration file's content; UsageError if it is wrong."""
        from drkit.config import load_config

        return load_config(self.config_path)

    def store(self) -> Store:
        """Open the store that --repo, DRKIT_REPO or the configuration names, whether or not a repository is there."""
        from drkit.store import open_store

        config = self.config  # read even if it is not needed: what is wrong in it should not wait for the day it is
        url = self.repo or config.repo
        if not url:
            raise UsageError("no repository named", hint="give --repo URL, or set DRKIT_REPO")
        return open_store(url)

    def open(self) -> Repository:
        """Open the repository, and warn of what is damaged in its settings."""
        from drkit.repo import Repository

        repository = Repository.open(self.store())
        for finding in repository.findings:
            self.console.warn(f"{finding.object}: {finding.message}; {finding.repair}")
        return repository

    def progress(self) -> AbstractContextManager[Progress]:
        """Return what shows a service's progress as long as the block runs; nothing with --quiet or --json."""
        if self.console.quiet or self.console.json:
            return nullcontext(NullProgress())
        from drkit.cli.progress import ConsoleProgress

        return ConsoleProgress(self.console)

    @property
    def cache_dir(self) -> bytes:
        """Where disposable caches live: $XDG_CACHE_HOME/drkit, or ~/.cache/drkit."""
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        return os.fsencode(os.path.join(home, "drkit"))
