"""A source with plugins, a repository, an inventory and the guard's state directory, to guard with."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from drkit.backup import BackupOptions
from drkit.clock import utc_now
from drkit.guard import Site
from drkit.inventory import Inventory
from drkit.repo import Repository
from drkit.store import LocalStore
from tests.support.trees import snapshot_tree

NOW_NS = 1_700_000_000_123_456_789


class Guarded:
    """A source with some plugins. `make` makes all of it anew; `site` opens what the guard works with."""

    def __init__(self, root: Path, *, excludes: tuple[str, ...] = ()) -> None:
        self.root = root
        self.source = Path(os.path.realpath(root)) / "source"
        self.excludes = excludes
        self.inventory_path = root / "inventory.db"
        self.opened: list[Inventory] = []

    def plugin(self, path: str, files: dict[str, bytes] | None = None) -> Path:
        """Make a plugin with a manifest and some files, all of them old."""
        top = self.source / path
        for name, data in {".claude-plugin/plugin.json": json.dumps({"name": path}).encode(), **(files or {})}.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(data)
        return top

    def age(self) -> None:
        """Give everything the same old time."""
        for directory, _, names in os.walk(self.source, topdown=False):
            for name in names:
                os.utime(os.path.join(directory, name), ns=(NOW_NS, NOW_NS), follow_symlinks=False)
            os.utime(directory, ns=(NOW_NS, NOW_NS))

    def site(self, **more: Any) -> Site:
        """Open the repository, made at the first time, and the inventory."""
        where = self.root / "repo"
        store = LocalStore(str(where))
        repo = Repository.open(store) if (where / "drkit.json").exists() else Repository.create(store, now=utc_now())
        inventory = Inventory.open(bytes(self.inventory_path), now=utc_now)
        self.opened.append(inventory)
        more.setdefault("options", BackupOptions(excludes=self.excludes))
        more.setdefault("cache_dir", bytes(self.root / "cache"))
        return Site(os.fsencode(self.source), repo, store.url, inventory, **more)

    def describe(self, path: str = ".") -> dict[bytes, Any]:
        """Describe a directory of the source completely, with itself."""
        return snapshot_tree(self.source / path, root=True)

    def close(self) -> None:
        """Close the inventories that were opened."""
        for inventory in self.opened:
            inventory.close()
        self.opened.clear()

    def copy_from(self, other: Path) -> None:
        """Replace the source by a copy of another, times and links kept."""
        shutil.rmtree(self.source, ignore_errors=True)
        shutil.copytree(other, self.source, symlinks=True)
