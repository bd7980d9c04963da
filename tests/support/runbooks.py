"""A backed-up marketplace before a disaster, and the pages of runbooks/ followed to the letter after it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

from marketplace import generate
from treediff import Node, compare, describe

ROOT = Path(__file__).parent.parent.parent
PAGES = {page.stem: page for page in (ROOT / "runbooks").glob("*.md") if page.stem != "README"}
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SETTING = re.compile(r"^export ([A-Z_]+)=(\S+)$", re.MULTILINE)
EXITS = re.compile(r"# exits (\d+)$", re.MULTILINE)
LONGEST = 120  # seconds that one block may take


@dataclass
class Scene:
    """A backed-up marketplace before a disaster: where everything lies, and how it was."""

    home: Path
    before: dict[bytes, Node]
    plugin: str
    given: dict[str, str] = field(default_factory=dict)
    """Variables that every command gets."""

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
            env={**environ, **homes, **path, **self.given, **variables},
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
    from tests.conftest import METADATA

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
    pack = max((scene.repository / "packs").glob("*/*.zst*"), key=lambda path: path.stat().st_size)
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[1000] ^= 0xFF
    pack.write_bytes(data)


def bare_python(home: Path, *, cryptography: bool = False) -> None:
    """Put a python3 without site-packages on the path, and take drkit away; what recovery needs is lent."""
    (home / "bin" / "drkit").unlink()
    base: str = getattr(sys, "_base_executable", sys.executable)
    lent = home / "lent"
    if not shutil.which("zstd") and sys.version_info < (3, 14):
        import zstandard

        shutil.copytree(os.path.dirname(zstandard.__file__), lent / "zstandard")
    if cryptography:
        for module in ("cryptography", "cffi", "_cffi_backend"):
            spec = find_spec(module)
            assert spec is not None, module
            origin = Path(spec.origin or "")
            if origin.name == "__init__.py":
                shutil.copytree(origin.parent, lent / module)
            else:
                shutil.copy(origin, lent)
    python = home / "bin" / "python3"
    python.write_text(f'#!/bin/sh\nunset PYTHONHOME\nPYTHONPATH={lent} exec {base} -S "$@"\n')
    python.chmod(0o755)
    found = 'from importlib.util import find_spec; print(find_spec("drkit"), find_spec("msgspec"))'
    done = subprocess.run([python, "-c", found], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout == "None None\n", "this Python has drkit: the recovery would prove nothing"
