"""The layers, held by the imports themselves: an arrow that points up, or a vendor out of its place, fails here."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASE = {"errors", "model", "config", "clock", "progress", "osutil", "recovery", "timespan", "hrana", "libsql"}
LAYERS: tuple[set[str], ...] = (
    BASE,
    {"format"},
    {"store"},
    {"seal"},
    {"repo", "source"},
    {"inventory"},
    {"backup", "restore", "verify", "query", "copy", "retention"},
    {"drill", "guard", "doctor", "repair", "status", "schedule"},
    {"cli"},
)
"""From the bottom up. A module imports its own part and lower layers; `recovery` is the text of a program, no verb."""
SIDEWAYS = {("verify", "restore")}
"""Parts of one layer that may import each other: to verify at the highest level is to restore."""
VENDORS = {
    "msgspec": ("drkit", "enhance"),
    "typer": ("drkit.cli", "enhance.commands"),
    "rich": ("drkit.cli",),
    "zstandard": (
        "drkit.format.frames",
        "drkit.backup.cached",
        "drkit.backup.statcache",
        "drkit.repo.packer",
        "drkit.inventory.objects",
        "drkit.inventory.merge",
        "drkit.drill.restorer",  # lends the package to a clean interpreter
        "drkit.recovery.recover",
    ),
    "libsql_experimental": ("drkit.libsql",),
    "libsql": ("drkit.libsql",),
    "obstore": ("drkit.store.cloud", "drkit.store.object", "drkit.store.vendor"),
    "cryptography": ("drkit.seal",),
    "segno": ("drkit.seal.sheet",),
    "pyfastcdc": ("drkit.format.chunker",),
    "zfec": ("drkit.format.parity",),
    "yaml": ("enhance.frontmatter",),
    "markdown_it": ("enhance.generators.offline.markdown",),
    "google": ("enhance.generators.google", "enhance.generators.google_calls"),
}
"""Packages that are not Python's own, and the modules that may know of them."""
LONGEST_FILE = 400
LONGEST_FUNCTION = 80
PROGRAM = "drkit.recovery.recover"
"""One file without imports by design: it must run where drkit is not."""


def modules(package: str) -> dict[str, str]:
    """The source of each module of a package, by its dotted name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


MODULES = {**modules("drkit"), **modules("enhance")}


def imports(source: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each module that is imported anywhere in a source, with the names that are taken from it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where an arrow points"
            yield node.module or "", tuple(alias.name for alias in node.names)


def parts_imported(source: str) -> set[str]:
    """The parts of drkit that a source imports: `format`, `errors`, and so on."""
    found = set()
    for module, names in imports(source):
        if module == "drkit":
            found |= {name for name in names if name != "__version__"}
        elif module.startswith("drkit."):
            found.add(module.split(".")[1])
    return found


def layer(part: str) -> int:
    (number,) = [number for number, parts in enumerate(LAYERS) if part in parts]
    return number


def upward(name: str, source: str) -> list[str]:
    """The imports of a module of drkit that point up, or sideways where they must not."""
    own = name.split(".")[1] if "." in name else ""
    if own in {"", "__main__"}:
        return sorted(parts_imported(source) - ({"cli"} if own else set()))
    return sorted(
        part
        for part in parts_imported(source) - {own}
        if layer(part) > layer(own)
        or (layer(part) == layer(own) and (own, part) not in SIDEWAYS and not {own, part} <= BASE)
    )


def strangers(name: str, source: str) -> list[str]:
    """The packages that a module imports although it must not know of them."""
    found = []
    for module, _ in imports(source):
        top = module.split(".")[0]
        if top in sys.stdlib_module_names or top in {"drkit", "enhance"}:
            continue
        if not any(name == place or name.startswith(place + ".") for place in VENDORS.get(top, ())):
            found.append(module)
    return found


def misdeeds(source: str) -> list[str]:
    """What only the command line may do, and what nobody may."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in {"print", "input", "exit", "quit", "sys.exit", "os._exit", "time.sleep"}:
                found.append(called)
        elif isinstance(node, ast.ExceptHandler):
            if node.type is None:
                found.append("except:")
            if all(isinstance(line, ast.Pass | ast.Constant) or _is_dots(line) for line in node.body):
                found.append("except: pass")
        elif isinstance(node, ast.Global):
            found.append("global")
        elif isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            found.append("import *")
    return found


def _is_dots(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def long_functions(source: str) -> list[str]:
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION
    ]


DRKIT = [name for name in MODULES if name.split(".")[0] == "drkit"]


def test_every_part_has_a_layer() -> None:
    assert len(DRKIT) > 60
    named = set().union(*LAYERS)
    assert {name.split(".")[1] for name in DRKIT if "." in name} == {*named, "__main__"}
    assert sum(map(len, LAYERS)) == len(named)


@pytest.mark.parametrize("name", DRKIT)
def test_arrows_point_down(name: str) -> None:
    assert upward(name, MODULES[name]) == []


def test_no_part_depends_on_itself_through_others() -> None:
    """What points down or is allowed sideways cannot come back."""
    assert not any((there, here) in SIDEWAYS for here, there in SIDEWAYS)


def test_drkit_does_not_know_enhance_and_enhance_knows_only_the_public_drkit() -> None:
    for name in DRKIT:
        assert not [module for module, _ in imports(MODULES[name]) if module.split(".")[0] == "enhance"], name
    for name, source in MODULES.items():
        if name.split(".")[0] == "enhance":
            assert private(source) == [], name


def private(source: str) -> list[str]:
    """The imports from drkit that are not of its public face: base modules, and what packages name in __all__."""
    found = []
    for module, names in imports(source):
        if module.split(".")[0] != "drkit":
            continue
        parts = module.split(".")
        if module == "drkit" and set(names) == {"__version__"}:
            continue
        if len(parts) == 2 and parts[1] in BASE - {"recovery", "osutil", "hrana", "libsql"}:
            continue
        if len(parts) == 2 and names and set(names) <= public_names(module):
            continue
        found.append(module)
    return found


def public_names(package: str) -> set[str]:
    for node in ast.parse(MODULES.get(package, "")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("name", list(MODULES))
def test_vendors_stay_in_their_place(name: str) -> None:
    assert strangers(name, MODULES[name]) == []


@pytest.mark.parametrize("name", list(MODULES))
def test_only_the_command_line_prints_sleeps_and_exits(name: str) -> None:
    allowed = {"print", "os._exit", "sys.exit", "time.sleep"} if name.startswith("drkit.cli") else set()
    allowed |= {"time.sleep"} if name.startswith("enhance.commands") else set()
    allowed |= {"print", "sys.exit"} if name == PROGRAM else set()
    allowed |= {"sys.exit"} if name == "drkit.__main__" else set()
    assert set(misdeeds(MODULES[name])) - allowed == set()


@pytest.mark.parametrize("name", [name for name in MODULES if name != PROGRAM])
def test_files_and_functions_are_short(name: str) -> None:
    assert len(MODULES[name].splitlines()) <= LONGEST_FILE
    assert long_functions(MODULES[name]) == []


def test_the_program_in_the_repository_imports_nothing_of_ours() -> None:
    tops = {module.split(".")[0] for module, _ in imports(MODULES[PROGRAM])}
    assert tops <= set(sys.stdlib_module_names)


# The checks themselves


@pytest.mark.parametrize(
    ("name", "source", "bad"),
    [
        ("drkit.format.x", "from drkit.store.base import Store", ["store"]),
        ("drkit.format.x", "def f():\n    import drkit.repo.index", ["repo"]),
        ("drkit.errors", "from drkit import format", ["format"]),
        ("drkit.store.x", "from drkit.repo import Repository", ["repo"]),
        ("drkit.source.x", "from drkit.repo import Repository", ["repo"]),
        ("drkit.repo.x", "from drkit.source.walk import Walker", ["source"]),
        ("drkit.restore.x", "from drkit.verify import verify", ["verify"]),
        ("drkit.verify.x", "from drkit.restore import restore_tree", []),
        ("drkit.backup.x", "from drkit.cli.app import app", ["cli"]),
        ("drkit.cli.x", "from drkit import __version__, backup", []),
        ("drkit", "from drkit.errors import DrkitError", ["errors"]),
        ("drkit.__main__", "from drkit.cli.main import main", []),
    ],
)
def test_arrows_that_point_up_are_found(name: str, source: str, bad: list[str]) -> None:
    assert upward(name, source) == bad


def test_other_wrongs_are_found() -> None:
    assert strangers("drkit.store.x", "import obstore.store") == ["obstore.store"]
    assert strangers("drkit.store.x", "import typer, msgspec, os") == ["typer"]
    assert strangers("drkit.cli.x", "import typer") == []
    assert misdeeds("print(1)\ntime.sleep(1)\nsys.exit()") == ["print", "time.sleep", "sys.exit"]
    assert misdeeds("try:\n    f()\nexcept:\n    g()") == ["except:"]
    assert misdeeds("try:\n    f()\nexcept OSError:\n    pass") == ["except: pass"]
    assert misdeeds("try:\n    f()\nexcept OSError:\n    ...") == ["except: pass"]
    assert misdeeds("try:\n    f()\nexcept OSError:\n    return") == []
    assert misdeeds("from os import *") == ["import *"]
    assert long_functions("def f():\n" + "    x = 1\n" * 80) == ["f"]
    assert long_functions("def f():\n" + "    x = 1\n" * 79) == []
    assert private("from drkit.repo import Repository\nfrom drkit.errors import DrkitError") == []
    assert private("from drkit.repo.index import Index") == ["drkit.repo.index"]
    assert private("from drkit.repo import _secret") == ["drkit.repo"]
    with pytest.raises(AssertionError):
        list(imports("from . import x"))
