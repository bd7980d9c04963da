"""The scripts: they parse, their judges find what is wrong, and the small ones do what they say."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import bench
import demo
import treediff
from bench_measure import Command, CommandError, Run, environment, measure
from bench_report import Result, floor_rows, floors_markdown, markdown
from bench_tools import Drkit, Tar, Tool
from bench_trees import Scale, Trees
from marketplace import generate

ROOT = Path(__file__).parents[1]
SHELL_SCRIPTS = ["scripts/test", "scripts/demo", "scripts/bench", ".ci/run"]


@pytest.fixture
def drkit(tmp_path: Path) -> str:
    """A drkit command that runs this checkout, wherever its environment is."""
    return _command(tmp_path / "drkit", f"exec {shlex.quote(sys.executable)} -m drkit")


def _command(path: Path, run: str) -> str:
    path.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))}\nexport PYTHONPATH\n{run} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("script", [*SHELL_SCRIPTS, "scripts/lib.sh"])
def test_shell_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / script], check=True, timeout=30)
    assert os.access(ROOT / script, os.X_OK) == (script in SHELL_SCRIPTS)


@pytest.mark.parametrize("script", ["scripts/test", "scripts/demo", "scripts/bench", "scripts/marketplace.py"])
def test_help_says_how_to_call_it_and_makes_nothing(script: str, tmp_path: Path) -> None:
    python = [sys.executable] if script.endswith(".py") else []
    before = set(os.listdir(ROOT))
    done = subprocess.run(
        [*python, ROOT / script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("usage: ")
    assert set(os.listdir(ROOT)) - before <= {".pytest_cache", ".hypothesis", ".benchmarks"}


def shell(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run lines of bash after lib.sh was sourced."""
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail; source {shlex.quote(str(ROOT / 'scripts/lib.sh'))}; {script}"],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_no_python_that_is_new_enough_is_a_clear_error(tmp_path: Path) -> None:
    _command(tmp_path / "python3", "exit 1 #")
    done = shell(f"PATH={shlex.quote(str(tmp_path))}; find_python")
    assert done.returncode == 2
    assert "no Python 3.11 or newer" in done.stderr


def test_settings_that_would_install_elsewhere_are_dropped() -> None:
    done = shell(
        "clean_environment; env",
        PIP_TARGET="/x",
        PIP_USER="1",
        PIP_DRY_RUN="1",
        PYTHONPATH="/x",
        PIP_INDEX_URL="http://127.0.0.1/simple",
        PIP_CERT="/c",
    )
    kept = dict(line.split("=", 1) for line in done.stdout.splitlines() if line.startswith(("PIP_", "PYTHON")))
    assert kept == {
        "PIP_INDEX_URL": "http://127.0.0.1/simple",
        "PIP_CERT": "/c",
        "PIP_USER": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
    }


def test_the_requirements_are_those_of_the_dependency_group(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    done = shell(f"VENV={shlex.quote(str(tmp_path))}; dev_requirements")
    expected = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    assert done.stdout.splitlines() == expected


def test_an_environment_is_reused_unless_it_is_unfinished_or_for_other_requirements(tmp_path: Path) -> None:
    # A Python that makes an environment at once: the real one takes seconds.
    fake = (
        f'if [ "$1" = -m ]; then mkdir -p "$4/bin"; ln -s {shlex.quote(sys.executable)} "$4/bin/python"; exit; fi\n'
        f"exec {shlex.quote(sys.executable)}"
    )
    python = _command(tmp_path / "fake-python", fake)
    checkout = tmp_path / "a checkout"
    checkout.mkdir()

    def ensure(install: str = "true") -> tuple[int, bool]:
        script = f"ROOT={shlex.quote(str(checkout))}; VENV=$ROOT/.venv; install() {{ {install}; }}; ensure_venv install"
        done = shell(script, PYTHON=python)
        return done.returncode, "making .venv" in done.stderr

    (checkout / "pyproject.toml").write_text("one")
    assert ensure("false") == (1, True)
    assert ensure('touch "$VENV/mark"') == (0, True)
    assert ensure("false") == (0, False)
    (checkout / ".venv/.finished").unlink()
    assert ensure() == (0, True)
    assert not (checkout / ".venv/mark").exists()
    (checkout / "pyproject.toml").write_text("two")
    assert ensure() == (0, True)
    (checkout / ".venv/bin/python").unlink()
    assert ensure() == (0, True)
    assert ensure() == (0, False)


CHANGES: dict[str, Callable[[Path], object]] = {
    "mode": lambda root: (root / "README.md").chmod(0o600),
    "mtime_ns": lambda root: os.utime(root / "README.md", ns=(0, (root / "README.md").stat().st_mtime_ns + 1)),
    "sha256": lambda root: _keeping_time(root / "README.md", lambda path: path.write_text(path.read_text().upper())),
    "too many": lambda root: _keeping_time(root / "plugins", lambda path: (path / "new").touch()),
    "missing": lambda root: _keeping_time(root, lambda path: (path / "README.md").unlink()),
    "type": lambda root: os.replace(root / "a link", root / "README.md"),
}


def _keeping_time(path: Path, change: Callable[[Path], object]) -> None:
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("what", CHANGES)
def test_the_judge_of_restores_finds(what: str, tmp_path: Path) -> None:
    generate(str(tmp_path / "tree"), plugins=12, large=0)
    (tmp_path / "tree/a link").symlink_to("x")
    before = treediff.describe(str(tmp_path / "tree"))
    CHANGES[what](tmp_path / "tree")
    differences = treediff.compare(before, treediff.describe(str(tmp_path / "tree")))
    assert differences
    assert all(what in line for line in differences if what != "type")
    assert any(what in line for line in differences)


def test_the_judge_of_restores_finds_what_the_traps_hold(tmp_path: Path) -> None:
    made = generate(str(tmp_path / "tree"), plugins=12, large=0)
    root = os.fsencode(tmp_path / "tree")
    before = treediff.describe(root)
    link, twin = (os.path.join(root, made.traps[what]) for what in ("dangling", "hard-link"))
    os.unlink(link)
    os.symlink(b"../no/other/file", link)
    content = Path(os.fsdecode(twin)).read_bytes()
    os.unlink(twin)
    Path(os.fsdecode(twin)).write_bytes(content)
    expected = {"target", "group"}
    if "xattr" in made.traps:
        os.setxattr(os.path.join(root, made.traps["xattr"]), "user.origin", b"other")
        expected.add("xattrs")
    differences = treediff.compare(before, treediff.describe(root))
    assert expected <= {line.rsplit(": ", 1)[1].split(" ")[0] for line in differences}


def test_the_judge_of_restores_as_a_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        generate(str(tmp_path / name), plugins=12, large=0)
    pair = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert treediff.main(pair) == 0
    (tmp_path / "b/README.md").write_text("other")
    assert treediff.main(pair) == 1
    assert "README.md" in capsys.readouterr().out


def test_a_measured_command_runs_as_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESTIC_REPOSITORY", "/mine")
    script = """
import os
open("out", "w").write(os.environ["A"] + os.environ.get("RESTIC_REPOSITORY", ""))
bytearray(60 << 20)
"""
    run = measure(Command([sys.executable, "-c", script], cwd=str(tmp_path), env={"A": "given"}))
    assert (tmp_path / "out").read_text() == "given"
    assert run.seconds > 0
    assert run.peak_process > 60 << 20
    assert "RESTIC_REPOSITORY" not in environment({})


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(CommandError, match=r"exit code 3: it broke"):
        measure(Command(["sh", "-c", "echo it broke >&2; exit 3"]))


def _result(scenario: str, tool: str, seconds: float, size: int = 0, added: int | None = None) -> Result:
    runs = [Run(seconds * factor, 50_000_000, 80_000_000) for factor in (0.5, 1.0, 9.0)]
    return Result(scenario, tool, runs, size, size, [] if added is None else [added])


def test_floors_are_met_or_missed() -> None:
    rows = floor_rows(
        [
            _result("corpus", "drkit", 1.0, size=43),
            _result("corpus", "restic", 4.5, size=100),
            _result("unchanged", "drkit", 1.0, added=100_001),
        ]
    )
    verdicts = {(row["scenario"], row["what"]): (row["measured"], row["met"]) for row in rows}
    assert verdicts == {
        ("corpus", "first backup, speed"): (4.5, True),
        ("corpus", "repository"): (0.43, False),
        ("unchanged", "added"): (100.001, False),
        ("unchanged", "peak memory"): (80.0, True),
    }
    assert floors_markdown(rows).count("**missed**") == 2


def test_the_table_has_a_column_for_each_tool_and_a_row_for_each_measure() -> None:
    results = [_result("corpus", "drkit", 1.0, size=1_500_000), _result("large", "restic", 2.0)]
    table = markdown(results, bench.SCENARIOS)
    lines = table.splitlines()
    assert lines[0] == "|  | drkit | restic |"
    assert "| … repository | 1.50 MB |  |" in lines
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 4 + 2


def test_large_files_share_what_is_shifted(tmp_path: Path) -> None:
    root = Path(Trees(str(tmp_path), Scale(large=40_000, settle=0.0)).path("large"))
    names = ("first", "shifted", "noise")
    first, shifted, noise = ((root / f"{name}.bin").read_bytes() for name in names)
    assert shifted.endswith(first)
    assert len(first) == len(noise) == 40_000
    assert 0 < len(shifted) - len(first) < 100


def test_bench_smoke(drkit: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "work").mkdir()
    arguments = ["--smoke", "--tools", "tar", "--work", str(tmp_path / "work"), "--drkit", drkit, "--encrypted"]
    assert bench.main([*arguments, "--json", str(tmp_path / "out.json")]) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    ours = {result["scenario"]: result for result in written["results"] if result["tool"] == "drkit"}
    assert ours.keys() >= {"corpus", "many", "unchanged", "verify", "restore", "plugin", "large"}
    assert all(len(result["runs"]) == 1 for result in ours.values())
    assert {result["scenario"] for result in written["results"] if result["tool"] == "drkit encrypted"} == set(ours)
    assert ours["large"]["size"] < 8_000_000
    assert "| … added by it |" in capfd.readouterr().out
    assert os.listdir(tmp_path / "work") == []


def test_bench_stops_at_a_wrong_restore(tmp_path: Path) -> None:
    class Careless(Drkit):
        def init(self) -> list[list[str]]:
            return []

        def backup(self, source: str) -> Command:
            return Command(["cp", "-a", source, self.repository])

        def restore(self, target: str) -> Command:
            return Command(["cp", "-r", f"{self.repository}/.", target])

    generate(str(tmp_path / "tree-many"), plugins=12, large=0)
    tools: list[Tool] = [Careless(str(tmp_path / "home"), "cp"), Tar(str(tmp_path / "tar"))]
    trees = Trees(str(tmp_path), Scale(), shapes={"many": "made"})
    careless = bench.Bench(str(tmp_path), "cp", tools, trees, 1)
    with pytest.raises(bench.BenchError, match="did not restore what it backed up"):
        bench.restore(careless, "restore", str(tmp_path))


def test_bench_refuses_a_drkit_that_is_not_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "drkit").mkdir()
    (tmp_path / "drkit/__init__.py").touch()
    python = f"PYTHONDONTWRITEBYTECODE=1 {shlex.quote(sys.executable)}"  # or importing it would compile it
    _command(tmp_path / "python", f"shift; cd {shlex.quote(str(tmp_path))}; exec env {python}")
    assert bench.main(["--work", str(tmp_path), "--drkit", str(tmp_path / "drkit-command")]) == 1
    assert "1 modules are not compiled" in capsys.readouterr().err


def test_the_demo_passes(drkit: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--plugins", "12", "--drkit", drkit]) == 0
    said = capfd.readouterr().out
    assert "everything came back as it was" in said
    assert "drkit is importable: False" in said
    assert not os.path.exists(said.partition("--repo ")[2].split()[0])


def test_the_demo_with_copies_elsewhere_passes(drkit: str, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("moto", "flask", "obstore", "cryptography"):
        pytest.importorskip(name)
    assert demo.main(["--offsite", "--plugins", "12", "--drkit", drkit]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[-1].endswith("everything came back as it was")
    assert sum("paths equal" in line for line in lines) == 4, "two restores, each told twice"


def test_the_demo_reads_a_tree_of_the_user_and_leaves_it_alone(drkit: str, tmp_path: Path) -> None:
    generate(str(tmp_path / "mine"), plugins=12, large=0)
    before = treediff.describe(str(tmp_path / "mine"))
    assert demo.main(["--source", str(tmp_path / "mine"), "--drkit", drkit]) == 0
    assert treediff.compare(before, treediff.describe(str(tmp_path / "mine"))) == []


def test_the_demo_fails_when_a_restore_is_wrong(drkit: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    careless = _command(
        tmp_path / "careless",
        f'case "$*" in *restore\\ --target*) trap \'chmod 600 "$6/README.md"\' EXIT;; esac\n{drkit}',
    )
    assert demo.main(["--plugins", "12", "--drkit", careless]) == 1
    said = capfd.readouterr().out
    assert "b'README.md': mode was 420, is 384" in said
    assert "NOT everything" in said
