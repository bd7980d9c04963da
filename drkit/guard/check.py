"""`guard check`: whether an edit of a plugin would be permitted now. Nothing is written, not even to the repository."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

from msgspec import Struct, structs

from drkit.backup.live import Databases
from drkit.errors import DrkitError, UsageError
from drkit.guard.elsewhere import check_stores, chosen, look
from drkit.guard.journal import Journal
from drkit.guard.lock import TreeLock
from drkit.guard.proof import bring_back
from drkit.guard.site import Policy, Site
from drkit.guard.snapshot import back_up
from drkit.guard.tree import open_dir, read_tree
from drkit.model import PluginRow, Snapshot, show_path
from drkit.repo import SnapshotRef
from drkit.source.globs import Globs
from drkit.source.walk import Walker

_LOOK_BACK = 200


class CheckReport(Struct, frozen=True):
    """Whether the edit would be permitted, and everything that speaks against it."""

    permitted: bool
    reasons: tuple[str, ...]


def check(site: Site, name: str, policy: Policy | None = None) -> CheckReport:
    """Look at all that `protect` would ask for, without waiting for anybody.

    `name` is a plugin's path, or its name in the newest snapshot of the source. A plugin that was backed up is
    restored to scratch: its edit would rely on what the repository has. UsageError for a source that cannot be one.
    """
    back_up(site, dry_run=True)
    checker = _Checker(site, policy or site.policy, name)
    return CheckReport(not checker.reasons, tuple(checker.reasons))


class _Checker:
    """Collects what speaks against an edit."""

    def __init__(self, site: Site, policy: Policy, name: str) -> None:
        self.reasons: list[str] = []
        self._site = site
        with self._told():
            check_stores(site, policy)
        self._elsewhere(policy)
        with self._told():
            self._writable()
        self._interrupted()
        newest = self._newest()
        with self._told():
            plugin = self._find(newest[1] if newest else None, name)
            with self._told():
                self._readable(plugin)
            with self._told(), TreeLock.plugin(site.source, plugin, structs.replace(site.waiting, timeout_s=0)):
                pass  # somebody else has it, or not
            if newest is not None:
                with self._told():
                    self._provable(newest[0], newest[1], plugin)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except DrkitError as error:
            self.reasons.append(str(error))

    def _writable(self) -> None:
        self._site.repo.check_writable()
        directory = self._site.repo.store.directory
        if directory is not None and not os.access(directory, os.W_OK | os.X_OK):
            self.reasons.append(f"the repository at {show_path(directory)} may not be written")

    def _elsewhere(self, policy: Policy) -> None:
        """Open the other stores that an edit would be proved in; those that are named must all be there."""
        named = chosen(self._site, policy)
        reached, reasons = 0, list[str]()
        for other in self._site.others if policy.copies > 1 + len(named) else named:
            try:
                with closing(other.open()) as store:
                    look(self._site, store)
                    reached += 1
            except DrkitError as error:
                reasons.append(f"{other.name}: {error}")
        if reached < max(policy.copies - 1, len(named)):
            self.reasons += reasons

    def _interrupted(self) -> None:
        for journal in Journal.left(self._site.source):
            journal.close()
            self.reasons.append("an interrupted edit or command is to be put back first: run 'drkit guard recover'")

    def _newest(self) -> tuple[SnapshotRef, Snapshot] | None:
        """Return the newest snapshot of this source that is not rejected."""
        for ref in self._site.repo.snapshots()[: -_LOOK_BACK - 1 : -1]:
            with self._told():
                snapshot = self._site.repo.load(ref)
                if snapshot.raw_source == self._site.source and "rejected" not in snapshot.tags:
                    return ref, snapshot
        return None

    def _find(self, newest: Snapshot | None, name: str) -> bytes:
        """Return the path of the plugin, which is there now. UsageError if it is not."""
        options, source = self._site.options, self._site.source
        walker = Walker(
            source, excludes=Globs(options.excludes), rules=options.rules, problem=lambda _path, _error: None
        )
        plugins = {seen.path for seen in walker.walk() if seen.plugin}
        if walker.root_is_plugin():
            plugins.add(b"")
        path = os.fsencode(name).strip(b"/")
        path = b"" if path == b"." else path
        if path not in plugins and newest is not None:
            path = self._site.repo.plugin(newest, name).raw_path
        if path not in plugins:
            raise UsageError(f"there is no plugin {name!r} in {show_path(source)}")
        return path

    def _readable(self, plugin: bytes) -> None:
        source = self._site.source
        root_fd = open_dir(source, plugin)
        try:
            tree = read_tree(root_fd, plugin, Globs(self._site.options.excludes))
        except OSError as error:
            self.reasons.append(f"{show_path(plugin)} cannot be read whole: {error.strerror}")
            return
        finally:
            os.close(root_fd)
        databases = Databases(source, self._site.in_use)
        for path, item in tree.items.items():
            beside = (path + suffix in tree.items for suffix in (b"-wal", b"-journal"))
            if item.state.type == "f" and any(beside) and databases.is_live(os.path.join(source, plugin, path)):
                self.reasons.append(f"{show_path(os.path.join(plugin, path))} is a database that is in use")

    def _provable(self, ref: SnapshotRef, snapshot: Snapshot, plugin: bytes) -> None:
        rows: dict[bytes, PluginRow] = {row.raw_path: row for row in self._site.repo.plugins(snapshot)}
        if plugin in rows:
            bring_back(self._site, ref, rows[plugin])
