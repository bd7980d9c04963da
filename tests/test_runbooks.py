"""The runbooks do what they promise: every command of every page is run, in order, after the loss that it is about."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from drkit.cli.app import NAMES
from marketplace import generate
from tests.conftest import METADATA
from tests.test_docs import command_lines, parse
from treediff import Node, compare, describe

ROOT = Path(__file__).parent.parent
PAGES = {page.stem: page for page in (ROOT / "runbooks").glob("*.md") if page.stem != "README"}
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SETTING = re.compile(r"^export ([A-Z_]+)=(\S+)$", re.MULTILINE)
EXITS = re.compile(r"# exits (\d+)$", re.MULTILINE)
ABOUT = """# Reports

Writes weekly sales reports from the figures of the shop. Use it when a manager asks for the numbers of a week.

## Usage

Run it in the directory of the figures. It reads every CSV file there, adds up revenue and returns for each product,
compares them with the week before, and writes a report of one page in Markdown with the five largest changes.
"""
LONGEST = 120  # seconds that one block may take


@dataclass
class Scene:
    """A backed-up marketplace before a disaster: where everything lies, and how it was."""

    home: Path
    before: dict[bytes, Node]
    plugin: str

    @property
    def source(self) -> Path:
        return self.home / "source"

    @property
    def repository(self) -> Path:
        return self.home / "repository"

    def shell(self, text: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run commands as somebody would, with nothing of the caller's settings."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("DRKIT_", "TURSO_"))}
        homes = {f"XDG_{name}_HOME": str(self.home / name.lower()) for name in ("CACHE", "DATA", "CONFIG")}
        path = {"PATH": f"{self.home / 'bin'}:{os.environ['PATH']}", "HOME": str(self.home)}
        path["DRKIT_STATE_DIR"] = str(self.home / "state")
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.home,
            env={**environ, **homes, **path, **variables},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST,
            check=False,
        )

    def follow(self, page: str, **settings: str | Path) -> list[str]:
        """Run the blocks of a page with these settings for its own; return what each printed.

        The page must set exactly these names. Each block must end as it says.
        """
        first, *blocks = BLOCK.findall(PAGES[page].read_text(encoding="utf-8"))
        assert first.splitlines() == [f"export {name}={value}" for name, value in SETTING.findall(first)]
        assert {name for name, _ in SETTING.findall(first)} == set(settings)
        said = []
        for block in blocks:
            done = self.shell(block, **{name: str(value) for name, value in settings.items()})
            expected = EXITS.search(block)
            assert done.returncode == (int(expected[1]) if expected else 0), (block, done)
            said.append(done.stdout)
        return said

    def judge(self, **options: set[bytes]) -> None:
        """The source is as it was, path by path."""
        assert compare(self.before, describe(str(self.source)), any_time=options.get("any_time", ())) == []


@pytest.fixture(scope="module")
def marketplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "source"
    generate(os.fsencode(directory), plugins=12, large=300_000)
    return directory


@pytest.fixture
def scene(marketplace: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A marketplace, a repository with a snapshot of it, an inventory, caches: all of it for one disaster."""
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    program = home / "bin" / "drkit"
    path = f"{ROOT}:{request.config.stash[METADATA]}"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} -m drkit "$@"\n')
    program.chmod(0o755)
    subprocess.run(["cp", "-a", marketplace, home / "source"], check=True)
    before = describe(str(home / "source"))
    scene = Scene(home, before, plugin_of_its_own(before))
    made = scene.shell("drkit init && drkit backup source", DRKIT_REPO=str(scene.repository))
    assert made.returncode == 0, made
    yield scene
    subprocess.run(["chmod", "-R", "u+rwX", home], check=False)


def plugin_of_its_own(tree: dict[bytes, Node]) -> str:
    """The first plugin that shares no file with another one: in place it comes back with all its links."""
    for path in sorted(tree):
        if path.endswith(b"/.claude-plugin/plugin.json"):
            plugin = path.removesuffix(b"/.claude-plugin/plugin.json")
            if not any(node.group for name, node in tree.items() if name.startswith(plugin + b"/")):
                return plugin.decode()
    raise AssertionError("every plugin shares files with another one")


def flip_in_packs(scene: Scene) -> None:
    """Damage one byte of the largest pack, somewhere in its first frame."""
    pack = max((scene.repository / "packs").glob("*/*.zst"), key=lambda path: path.stat().st_size)
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[1000] ^= 0xFF
    pack.write_bytes(data)


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


CONFIGURATION = 'repo = "repository"\n[stores.usb]\nurl = "usb"\n[stores.box]\nurl = "libsql-file:box.db"\n'


@pytest.mark.parametrize("lost", ["repo", "usb", "box"])
def test_store_lost(scene: Scene, lost: str) -> None:
    config = scene.home / "drkit.toml"
    config.write_text(CONFIGURATION)
    (scene.source / "later.md").write_text("new since the first backup")
    scene.before = describe(str(scene.source))
    assert scene.shell("drkit backup source", DRKIT_CONFIG=str(config)).returncode == 0
    scene.shell({"repo": "rm -r repository", "usb": "rm -r usb", "box": "rm box.db"}[lost])
    named = str(scene.repository) if lost == "repo" else lost
    good = "box" if lost == "usb" else "usb"
    said = scene.follow("store-lost", DRKIT_CONFIG=config, LOST=named, GOOD=good, SOURCE=scene.source)
    assert said[-1].count("    up to date; verified at level") == 3
    scene.judge()
    shutil.rmtree(scene.source)
    back = scene.shell(f"drkit restore latest --repo {named} --target source", DRKIT_CONFIG=str(config))
    assert back.returncode == 0, back
    scene.judge()


def test_repository_damaged(scene: Scene) -> None:
    assert scene.shell("drkit copy --to copy", DRKIT_REPO=str(scene.repository)).returncode == 0
    flip_in_packs(scene)
    next((scene.repository / "index").iterdir()).unlink()
    next((scene.repository / "snapshots").iterdir()).unlink()
    found = scene.home / "found"
    said = scene.follow(
        "repository-damaged",
        DRKIT_REPO=scene.repository,
        COPY=scene.home / "copy",
        SOURCE=scene.source,
        FOUND=found,
    )
    assert said[1].replace("would be healed", "healed").count("healed: ") == said[2].count("healed: ") > 0
    assert "; 0 findings" in said[3]
    assert list((scene.repository / "quarantine").rglob("*.zst"))
    scene.judge()


def bare_python(home: Path) -> None:
    """Put a python3 without site-packages on the path, and take drkit away; zstandard is lent if need be."""
    (home / "bin" / "drkit").unlink()
    base: str = getattr(sys, "_base_executable", sys.executable)
    lent = home / "lent"
    if not shutil.which("zstd") and sys.version_info < (3, 14):
        import zstandard

        shutil.copytree(os.path.dirname(zstandard.__file__), lent / "zstandard")
    python = home / "bin" / "python3"
    python.write_text(f'#!/bin/sh\nunset PYTHONHOME\nPYTHONPATH={lent} exec {base} -S "$@"\n')
    python.chmod(0o755)
    found = 'from importlib.util import find_spec; print(find_spec("drkit"), find_spec("msgspec"))'
    done = subprocess.run([python, "-c", found], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout == "None None\n", "this Python has drkit: the recovery would prove nothing"


SCENES: tuple[Callable[..., None], ...] = (
    test_one_plugin_damaged,
    test_source_lost,
    test_store_lost,
    test_repository_damaged,
    test_index_and_inventory_lost,
    test_drill_failed_in_ci,
    test_no_drkit,
    test_bad_enhancement_run,
)


def test_every_page_is_followed_and_listed() -> None:
    assert {scene.__name__.removeprefix("test_").replace("_", "-") for scene in SCENES} == set(PAGES)
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
    assert re.findall(r"\bdrkit ([a-z]+)", "\n".join(BLOCK.findall(text))) or page.stem == "no-drkit"
    assert set(re.findall(r"`drkit ([a-z-]+)", text)) <= set(NAMES)
