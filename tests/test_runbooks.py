"""The runbooks do what they promise: every command of every page is run, in order, after the loss that it is about."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from drkit.cli.app import NAMES
from tests import test_runbooks_offsite as offsite
from tests.support.runbooks import BLOCK, PAGES, ROOT, Scene, bare_python, flip_in_packs
from tests.test_docs import command_lines, parse
from treediff import describe

ABOUT = """# Reports

Writes weekly sales reports from the figures of the shop. Use it when a manager asks for the numbers of a week.

## Usage

Run it in the directory of the figures. It reads every CSV file there, adds up revenue and returns for each product,
compares them with the week before, and writes a report of one page in Markdown with the five largest changes.
"""


def test_one_plugin_damaged(scene: Scene) -> None:
    plugin = scene.source / scene.plugin
    (plugin / ".claude-plugin" / "plugin.json").write_bytes(b"```json\n{}\n```\n")
    (plugin / "README.md").unlink()
    said = scene.follow(
        "one-plugin-damaged",
        DRKIT_REPO=scene.repository,
        SOURCE=scene.source,
        PLUGIN=scene.plugin,
        SNAP="latest",
        SCRATCH=scene.home / "scratch",
    )
    assert "README.md" in said[1]
    scene.judge(any_time={os.fsencode(os.path.dirname(scene.plugin))})


@pytest.mark.parametrize("left", [False, True], ids=["gone", "half-there"])
def test_source_lost(scene: Scene, left: bool) -> None:
    shutil.rmtree(scene.source / "plugins" if left else scene.source)
    scene.follow(
        "source-lost",
        DRKIT_REPO=scene.repository,
        SOURCE=scene.source,
        SNAP="latest",
        SUMS=scene.home / "sums",
    )
    scene.judge()
    files = [node for node in scene.before.values() if node.type == "file"]
    assert len((scene.home / "sums").read_bytes().splitlines()) == len(files)
    assert (scene.home / "source.damaged").exists() == left


def test_index_and_inventory_lost(scene: Scene) -> None:
    assert scene.shell("drkit drill --sample 2", DRKIT_REPO=str(scene.repository)).returncode == 0
    recorded = recorded_in(scene)
    assert [len(rows) for rows in recorded.values()] == [1, 12, 2, 0]
    for path in (scene.repository / "index").iterdir():
        path.unlink()
    for name in ("source", "data", "cache"):
        shutil.rmtree(scene.home / name)
    scene.follow("index-and-inventory-lost", DRKIT_REPO=scene.repository, SOURCE=scene.source, SNAP="latest")
    scene.judge()
    for table, rows in recorded_in(scene).items():
        assert set(rows) >= set(recorded[table]), table
    assert any((scene.repository / "index").iterdir())


def recorded_in(scene: Scene) -> dict[str, list[tuple[object, ...]]]:
    """The rows of the inventory's file, read by SQLite itself while nobody has it open."""
    with closing(sqlite3.connect(scene.home / "data" / "drkit" / "inventory.db")) as connection:
        tables = ("snapshots", "plugins", "drills", "verifications")
        return {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}


def test_drill_failed_in_ci(scene: Scene) -> None:
    flip_in_packs(scene)
    failed = scene.shell("drkit drill --full --rto 5m", DRKIT_REPO=str(scene.repository))
    assert failed.returncode == 22, failed
    scene.follow(
        "drill-failed-in-ci",
        DRKIT_REPO=scene.repository,
        SOURCE=scene.source,
        PLUGIN=scene.plugin,
        ASIDE=scene.home / "aside",
    )
    assert len(list((scene.home / "aside").iterdir())) == 1
    scene.judge()


def test_no_drkit(scene: Scene) -> None:
    bare_python(scene.home)
    shutil.rmtree(scene.source)
    target = scene.home / "one"
    said = scene.follow(
        "no-drkit",
        REPO=scene.repository,
        SOURCE=scene.source,
        SNAP="latest",
        PLUGIN=scene.plugin,
        PLUGIN_TARGET=target,
    )
    assert "tree hash equal" in said[-1].splitlines()[-1]
    scene.judge()
    below = os.fsencode(scene.plugin) + b"/"
    there = {path.removeprefix(below) for path in scene.before if path.startswith(below)}
    assert set(describe(str(target))) == there


def test_bad_enhancement_run(scene: Scene) -> None:
    plugin = scene.source / scene.plugin
    (plugin / "README.md").write_text(ABOUT, encoding="utf-8")
    backed_up = scene.shell("drkit backup source --json", DRKIT_REPO=str(scene.repository))
    good = json.loads(backed_up.stdout)["snapshot"]
    scene.before = describe(str(scene.source))
    wreck = f"rm -r '{scene.source}/plugins' && echo broken > '{scene.source}/somebody-elses'"
    guard = f"drkit guard exec '{scene.plugin}' --source source --json -- sh -c \"{wreck}\""
    undone = scene.shell(guard, DRKIT_REPO=str(scene.repository))
    assert undone.returncode == 30, undone
    rejected = json.loads(undone.stdout)["rejected_snapshot"]
    done = scene.shell("drkit enhance run source --generator offline --json", DRKIT_REPO=str(scene.repository))
    assert done.returncode in (0, 3), done
    written = json.loads(done.stdout)["files_changed"]
    assert any(path.startswith(scene.plugin + "/") for path in written), done
    assert describe(str(scene.source)) != scene.before
    said = scene.follow(
        "bad-enhancement-run",
        DRKIT_REPO=scene.repository,
        SOURCE=scene.source,
        PLUGIN=scene.plugin,
        REJECTED=rejected,
        RUN="latest",
        GOOD=good,
        SCRATCH=scene.home / "scratch",
    )
    assert "nothing was interrupted" in said[0]
    assert "somebody-elses" in said[1]
    assert said[6].splitlines()[-1] == "0 added, 0 removed, 0 modified"
    scene.judge(any_time=set(scene.before))


SCENES: tuple[Callable[..., None], ...] = (
    test_one_plugin_damaged,
    test_source_lost,
    test_index_and_inventory_lost,
    test_drill_failed_in_ci,
    test_no_drkit,
    test_bad_enhancement_run,
)


def test_every_page_is_followed_and_listed() -> None:
    assert {scene.__name__.removeprefix("test_").replace("_", "-") for scene in (*SCENES, *offsite.SCENES)} == set(
        PAGES
    )
    index = (ROOT / "runbooks/README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(([a-z-]+)\.md\)", index)) == set(PAGES)


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_every_command_parses(page: Path) -> None:
    """Also those in the running text."""
    text = page.read_text(encoding="utf-8")
    for words in command_lines(text):
        parse(words)
    for words in re.findall(r"`drkit ([^`\n]+)`", text):
        parse(words.replace('"', "").split())
    assert re.findall(r"\bdrkit ([a-z]+)", "\n".join(BLOCK.findall(text))) or page.stem in {
        "no-drkit",
        "turso-without-drkit",
    }
    assert set(re.findall(r"`drkit ([a-z-]+)", text)) <= set(NAMES)
