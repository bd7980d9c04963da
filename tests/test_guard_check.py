"""`drkit guard check`: whether an edit would be permitted, and that asking changes nothing."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest

from drkit.cli.guarding import make_site
from drkit.cli.output import Console
from drkit.cli.session import Session
from drkit.errors import GuardRefused
from drkit.guard import protect
from drkit.guard.check import check
from tests.support.executing import BUSY, SOON, Scene, scene

__all__ = ["scene"]


def test_an_edit_that_would_be_permitted(scene: Scene) -> None:
    for name in ("one", "plugins/one"):
        scene.cli.ok("backup", "source")
        before = {path: path.stat().st_mtime_ns for path in (scene.home / "repo").rglob("*")}
        rows = scene.cli.ok("inventory", "--json").json["rows"]
        run = scene.cli.ok("guard", "check", name, "--source", "source", "--json")
        assert run.json == {"permitted": True, "reasons": []}
        assert {path: path.stat().st_mtime_ns for path in (scene.home / "repo").rglob("*")} == before
        assert scene.cli.ok("inventory", "--json").json["rows"] == rows
    scene.is_back()


def test_an_edit_of_a_source_never_backed_up_is_permitted_by_path(scene: Scene) -> None:
    assert scene.cli.ok("guard", "check", "plugins/one", "--source", "source", "--json").json["permitted"]
    assert scene.cli.ok("snapshots", "--json").json["snapshots"] == []


@pytest.mark.parametrize("plugin", ["plugins", "plugins/three", "nobody"])
def test_what_is_no_plugin_is_refused(scene: Scene, plugin: str) -> None:
    scene.cli.ok("backup", "source")
    run = scene.cli("guard", "check", plugin, "--source", "source", "--json")
    assert run.code == 30
    assert run.json["permitted"] is False
    assert "there is no plugin" in run.json["reasons"][0]


def test_what_was_interrupted_is_a_reason(scene: Scene) -> None:
    scene.cli.ok("backup", "source")
    process = scene.guarding(BUSY)
    process.kill()
    process.wait(SOON)
    run = scene.cli("guard", "check", "one", "--source", "source", "--json")
    assert run.code == 30
    assert any("interrupted" in reason for reason in run.json["reasons"])
    assert len(scene.journals()) == 1, "it writes nothing"
    scene.cli.ok("guard", "recover", "--source", "source")
    scene.cli.ok("guard", "check", "one", "--source", "source")


def test_a_database_in_use_is_a_reason(scene: Scene) -> None:
    path = scene.source / "plugins/one/data.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        opened.execute("PRAGMA journal_mode=wal")
        opened.execute("CREATE TABLE t (value)")
        run = scene.cli("guard", "check", "plugins/one", "--source", "source", "--json")
    assert run.code == 30
    assert "data.db is a database that is in use" in run.json["reasons"][0]


def test_what_a_permit_would_refuse_is_refused(scene: Scene) -> None:
    """Held against the permit itself."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("DRKIT_")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**outside, **scene.cli.environ}.items():
            patch.setenv(name, value)
        session = Session(Console(), repo=str(scene.home / "repo"))
        site = make_site(session, bytes(scene.source), session.open())
        for plugin in ("plugins/one", "plugins/three", "plugins/one/link"):
            try:
                with protect(os.fsencode(plugin), site):
                    permitted = True
            except GuardRefused:
                permitted = False
            assert check(site, plugin).permitted == permitted, plugin
        session.close()
