"""A source that a command changed, looked at before and after, and put back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from drkit.guard import Site, take_snapshot
from drkit.guard.journal import Command
from drkit.guard.look import look
from drkit.guard.snapshot import find_snapshot
from drkit.guard.undo import Left, put_back
from drkit.model import Snapshot
from tests.support.guarding import Guarded, content
from tests.support.trees import snapshot_tree


class Scene:
    """A source that was looked at, so that it can be changed and put back."""

    def __init__(self, root: Path, site: Site) -> None:
        self.source = Path(os.fsdecode(site.source))
        self.root = root
        self.site = site
        self.before: Snapshot = site.repo.load(find_snapshot(site, take_snapshot(site).snapshot))
        self.was = snapshot_tree(self.source)
        self.record = Command(
            "run", site.source, (b"plugins/one",), (b"true",), "", "", site.store_url, ignore=(".git/**", "**/cache/**")
        )

    def undo(self, *, failed: bool = True) -> tuple[Left, ...]:
        """Store what is there, and put back what differs."""
        seen = look(self.site, self.record, self.before, failed=failed)
        self.rejected = seen.snapshot
        self.changed, self.outside = seen.changed, list(seen.outside)
        return put_back(self.site, self.before, seen.changes)

    def is_back(self, *, times: bool = True) -> None:
        """Everything is as it was, and nothing of the guard is left."""
        now = snapshot_tree(self.source)
        if times:
            assert now == self.was
        else:
            assert content(now) == content(self.was)
        assert not [name for name in os.listdir(self.source.parent) if name.startswith(".drkit-")]

    def kept(self, path: str) -> bytes:
        """Return the content of a file in the rejected snapshot."""
        from drkit.query.cat import cat

        snapshot = self.site.repo.load(find_snapshot(self.site, self.rejected))
        assert snapshot.tags == ("rejected",)
        return b"".join(cat(self.site.repo, snapshot, os.fsencode(path)))


def make(root: Path) -> Guarded:
    """Make a source with two plugins and a file of its own."""
    guarded = Guarded(root)
    for name in ("one", "two"):
        top = guarded.plugin(f"plugins/{name}", {"README.md": b"read me", "skills/a/SKILL.md": b"a skill"})
        (top / "link").symlink_to("README.md")
        (top / "empty").mkdir(mode=0o750)
        os.link(top / "README.md", top / "README.too")
    (guarded.source / "marketplace.json").write_bytes(b"{}")
    guarded.age()
    return guarded


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    guarded = make(tmp_path / "home")
    yield Scene(guarded.root, guarded.site())
    guarded.close()
