"""A source with plugins, a repository, an inventory and the guard's state directory, to guard with."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from drkit.backup import BackupOptions
from drkit.clock import utc_now
from drkit.guard import EditPermit, Site
from drkit.guard.permit import SEAL, told
from drkit.guard.protect import write
from drkit.guard.staging import Staging
from drkit.guard.tree import open_dir, read_file, read_tree
from drkit.inventory import Inventory
from drkit.repo import Repository
from drkit.source.globs import Globs
from drkit.store import LocalStore
from tests.support.trees import snapshot_tree

NOW_NS = 1_700_000_000_123_456_789
P = b"plugins/one"
"""The plugin that most tests edit."""


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
        for directory, below, names in os.walk(self.source, topdown=False):
            for name in (*below, *names):
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


class Edited:
    """A plugin in which much changes at once, without a repository: what a permit does when its block has ended."""

    PLUGIN = b"plugins/one"

    def __init__(self, root: Path, change: Callable[[Staging], None] | None = None) -> None:
        self.guarded = Guarded(root)
        self.source = self.guarded.source
        self.change = change or much
        self.make()
        self.before = self.guarded.describe()

    def make(self) -> Path:
        """Make the source anew."""
        shutil.rmtree(self.source, ignore_errors=True)
        self.guarded.plugin(
            "plugins/one",
            {
                "README.md": b"readme",
                "gone.md": b"gone",
                "skills/a/SKILL.md": b"skill a",
                "skills/a/deep/ref.md": b"reference",
                "skills/a/deep/er/more.md": b"more",
                "old/only.md": b"only",
                "one": b"1",
                "two": b"2",
            },
        )
        self.guarded.plugin("plugins/two", {"README.md": b"neighbour"})
        os.symlink(b"README.md", self.source / "plugins/one/link")
        (self.source / "plugins/one/README.md").chmod(0o640)
        (self.source / "plugins/one/skills/a/deep").chmod(0o750)
        self.guarded.age()
        return self.source

    def run(self, source: Path) -> None:
        """Stage the changes and write them."""
        excludes = Globs(())
        root_fd = open_dir(bytes(source), self.PLUGIN)
        try:
            tree = read_tree(root_fd, self.PLUGIN, excludes)
            staging = Staging(tree, self.PLUGIN, excludes, functools.partial(read_file, root_fd))
            self.change(staging)
            permit = EditPermit(self.PLUGIN, "0" * 64, tree.sha256, staging, SEAL)
            changes = staging.changes()
            write(permit, cast("Site", _Site(bytes(source))), changes, told(self.PLUGIN, changes), root_fd)
        finally:
            os.close(root_fd)

    def now(self) -> dict[bytes, Any]:
        """Describe the source, times and all."""
        return self.guarded.describe()

    def leftovers(self) -> list[str]:
        """Return what of the guard is left in the source, and of its journals."""
        names = [name for _, names, files in os.walk(self.source) for name in (*names, *files)]
        state = os.listdir(os.environ["DRKIT_STATE_DIR"]) if os.path.isdir(os.environ["DRKIT_STATE_DIR"]) else []
        return [name for name in names if name.startswith(".drkit-")] + [
            name for name in state if name.endswith(".journal")
        ]


def much(staging: Staging) -> None:
    """Change a bit of everything: new, replaced and removed files, moved and swapped ones, directories, a link."""
    staging.write(b"README.md", b"new readme", None)
    staging.write(b"new/dir/SKILL.md", b"new skill", None)
    staging.delete(b"gone.md")
    staging.move(b"skills/a", b"skills/b")
    staging.write(b"skills/b/deep/ref.md", b"changed and moved", None)
    staging.move(b"one", b"spare")
    staging.move(b"two", b"one")
    staging.move(b"spare", b"two")
    staging.delete(b"old")
    staging.write(b"old", b"a file now", 0o600)
    staging.move(b"link", b"new/link")


def content(tree: dict[bytes, Any]) -> dict[bytes, tuple[Any, ...]]:
    """What a description says without times, owners and hard links."""
    return {path: (one["type"], one["mode"], one.get("sha256"), one.get("target")) for path, one in tree.items()}


class _Site:
    """As much of a site as writing needs."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.random = os.urandom
        self.repo = SimpleNamespace(config=SimpleNamespace(repository_id="r"))
        self.inventory = SimpleNamespace(record=lambda *_args, **_more: None)


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a state directory of its own."""
    monkeypatch.setenv("DRKIT_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    """Make a source of three plugins, one of them in another."""
    made = Guarded(tmp_path)
    made.plugin("plugins/one", {"README.md": b"one", "skills/a/SKILL.md": b"a", "skills/a/ref.md": b"ref"})
    made.plugin("plugins/one/inner", {"README.md": b"inner"})
    made.plugin("plugins/two", {"README.md": b"two"})
    made.age()
    yield made
    made.close()
