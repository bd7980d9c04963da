"""What guarded commands work on: the source, the repository that was named, and the inventory, opened together."""

from __future__ import annotations

import os

from drkit.cli import recording
from drkit.cli.session import Session
from drkit.guard import Site


def site(session: Session, source: bytes, *, excludes: tuple[str, ...] = (), lock_timeout_s: float = 60.0) -> Site:
    """Open the repository and the inventory for a source. Excludes add to those of the configuration.

    Unlike a backup, nothing that is guarded goes without the inventory: its errors are the command's.
    """
    from drkit.backup import BackupOptions
    from drkit.source import PluginRules

    config = session.config
    repository = session.open()
    return Site(
        source=os.path.realpath(source),
        repo=repository,
        store_url=repository.store.url,
        inventory=session.inventory(),
        options=BackupOptions(
            excludes=(*config.backup.exclude, *excludes),
            rules=PluginRules(config.plugins.markers, config.plugins.globs),
        ),
        cache_dir=session.cache_dir,
        in_use=recording.in_use(session),
        lock_timeout_s=lock_timeout_s,
    )
