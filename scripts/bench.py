"""Measure drkit beside restic, borg and tar: whole processes on the same trees, in alternating runs, warm caches.

Run it through `scripts/bench`, which installs drkit as users have it. Every timing starts after a `sync`; a median of
several runs is reported, and with --json every single one. drkit's restores are staged, synced and read back before
they are swapped in; those of restic and borg are not synced, `tar x` is followed by `sync`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from bench_measure import Command, CommandError, Run, measure
from bench_report import MB, Result, floor_rows, floors_markdown, machine, markdown
from bench_tools import Drkit, SealedDrkit, Tool, peers, remove
from bench_trees import Scale, Trees, count

SCRIPTS = os.path.dirname(os.path.abspath(__file__))
SCENARIOS = {
    "corpus": "{corpus}, first backup",
    "many": "{many}, first backup",
    "many-level3": "",
    "unchanged": "… backed up again, nothing changed",
    "verify": "… all data verified",
    "restore": "… restored to disk",
    "restore-tmpfs": "… restored to memory (tmpfs)",
    "plugin": "… one plugin restored",
    "large": "{large}, first backup",
}
MEMORY = "/dev/shm"
KEEP_FREE = 10_000 * MB
KEEP_INODES = 1_000_000


class BenchError(Exception):
    """The bench cannot go on; the message says why."""


@dataclass
class Bench:
    """The contestants, the trees that were made so far, and the results."""

    work: str
    drkit: str
    tools: list[Tool]
    trees: Trees
    runs: int
    results: list[Result] = field(default_factory=list)

    def result(self, scenario: str, tool: Tool) -> Result:
        """Return the result of this tool in this scenario, a new one if there is none."""
        for result in self.results:
            if (result.scenario, result.tool) == (scenario, tool.name):
                return result
        self.results.append(Result(scenario, tool.name))
        return self.results[-1]

    def alternate(self, scenario: str, tools: list[Tool], once: Callable[[Tool], Run | None]) -> None:
        """Call `once` for each tool in turn, again and again; each round begins with the next tool."""
        for number in range(self.runs):
            turn = number % len(tools)
            for tool in tools[turn:] + tools[:turn]:
                run = once(tool)
                if run:
                    self.result(scenario, tool).runs.append(run)
                    memory = max(run.peak_sum, run.peak_process) / MB
                    note(f"{scenario:<14} {tool.name:<14} {run.seconds:8.2f} s  {memory:6.0f} MB")

    def holding(self, tool: Tool, source: str) -> None:
        """See to it that the tool's repository holds this tree; not measured."""
        if tool.holds != source:
            tool.fresh()
            measure(tool.backup(source))
            tool.holds = source

    def target(self, parent: str) -> str:
        """Return a new empty directory for a restore.

        Those before it stay on the disk while there is room: where what is freed is discarded, making files is several
        times slower for a good while after many were removed, and no `sync` waits for that.
        """
        room = os.statvfs(parent)
        on_disk = os.path.dirname(parent) != MEMORY
        if not on_disk or room.f_bavail * room.f_frsize < KEEP_FREE or (room.f_files and room.f_favail < KEEP_INODES):
            if on_disk:
                note("removing restored trees to make room: what is measured next may be slower for it")
            for name in os.listdir(parent):
                if name.startswith("target-"):
                    remove(os.path.join(parent, name))
        return tempfile.mkdtemp(prefix="target-", dir=parent)


def first_backup(bench: Bench, scenario: str, tools: list[Tool], *, warm: bool = False) -> None:
    """Back a tree up into an empty repository, with empty caches of the tool's own.

    `warm` has each tool do it once before, not measured: what takes less than a second is not to be measured by what
    the system has thrown out of its caches while the other tools ran.
    """
    source = bench.trees.path(scenario)

    def once(tool: Tool) -> Run:
        if warm:
            tool.fresh()
            measure(tool.backup(source))
        tool.fresh()
        run = measure(tool.backup(source))
        tool.holds = source
        result = bench.result(scenario, tool)
        result.size, result.size_with_directories = tool.size()
        return run

    bench.alternate(scenario, tools, once)


def unchanged(bench: Bench) -> None:
    """Back up the same tree again."""
    source = bench.trees.path("many")

    def once(tool: Tool) -> Run | None:
        bench.holding(tool, source)
        command, before = tool.unchanged(source), tool.size()[0]
        if command is None:
            return None
        run = measure(command)
        bench.result("unchanged", tool).added.append(tool.size()[0] - before)
        return run

    bench.alternate("unchanged", bench.tools, once)


def verify(bench: Bench) -> None:
    """Read and check all data of the repository."""
    source = bench.trees.path("many")

    def once(tool: Tool) -> Run | None:
        bench.holding(tool, source)
        command = tool.verify()
        return command and measure(command)

    bench.alternate("verify", bench.tools, once)


def restore(bench: Bench, scenario: str, parent: str) -> None:
    """Restore everything; drkit's first restore is compared with the source path by path."""
    source = bench.trees.path("many")
    proved = False

    def once(tool: Tool) -> Run:
        nonlocal proved
        bench.holding(tool, source)
        target = bench.target(parent)
        run = measure(tool.restore(target))
        if isinstance(tool, Drkit) and not proved:
            command = [sys.executable, os.path.join(SCRIPTS, "treediff.py"), source, target]
            if subprocess.run(command, stdout=sys.stderr, check=False, timeout=3_600).returncode != 0:
                raise BenchError(f"drkit did not restore what it backed up: {' '.join(command)}")
            proved = True
        return run

    bench.alternate(scenario, bench.tools, once)


def restore_tmpfs(bench: Bench) -> None:
    """Restore everything into memory, if there is room for it twice."""
    files, size = count(bench.trees.path("many"))
    room = shutil.disk_usage(MEMORY).free if os.path.isdir(MEMORY) else 0
    if room < 2 * (size + 8_192 * files):
        note(f"restore-tmpfs is left out: {room / MB:.0f} MB are free in {MEMORY}")
        return
    with tempfile.TemporaryDirectory(prefix="drkit-bench-", dir=MEMORY) as parent:
        restore(bench, "restore-tmpfs", parent)


def plugin(bench: Bench) -> None:
    """Restore the biggest plugin of a copy in the middle."""
    source = bench.trees.path("many")
    copies = sorted(os.listdir(source))
    chosen = _biggest_plugin(source, copies[len(copies) // 2])

    def once(tool: Tool) -> Run | None:
        bench.holding(tool, source)
        target = bench.target(bench.work)
        command: Command | None = tool.restore_plugin(source, chosen, target)
        run = command and measure(command)
        if run and not any(names for _, _, names in os.walk(target)):
            raise BenchError(f"{tool.name} restored nothing of {chosen}")
        return run

    bench.alternate("plugin", bench.tools, once)


def _biggest_plugin(source: str, below: str) -> str:
    found = [
        (count(directory)[0], os.path.relpath(directory, source))
        for directory, names, _ in os.walk(os.path.join(source, below))
        if ".claude-plugin" in names and os.path.exists(os.path.join(directory, ".claude-plugin/plugin.json"))
    ]
    if not found:
        raise BenchError("there is no plugin in the corpus: the scenario `plugin` needs one")
    return max(found)[1]


def run_scenarios(bench: Bench, wanted: list[str]) -> None:
    """Run what is wanted, in an order in which one scenario's repositories serve the next."""
    peers_of_drkit = bench.tools[1:]
    if "corpus" in wanted:
        first_backup(bench, "corpus", bench.tools, warm=True)
    if "many" in wanted or "many-level3" in wanted:
        ours: list[Tool] = [bench.tools[0]] if "many" in wanted else []
        if "many-level3" in wanted:
            ours.append(Drkit(os.path.join(bench.work, "drkit-3"), bench.drkit, level=3))
        first_backup(bench, "many", ours + peers_of_drkit)
    for name, scenario in (("unchanged", unchanged), ("verify", verify)):
        if name in wanted:
            scenario(bench)
    if "restore" in wanted:
        restore(bench, "restore", bench.work)
    if "restore-tmpfs" in wanted:
        restore_tmpfs(bench)
    if "plugin" in wanted:
        plugin(bench)
    if "large" in wanted:
        first_backup(bench, "large", bench.tools)


def check_compiled(drkit: str) -> None:
    """BenchError unless drkit's modules are compiled: without, each start compiles them and every figure is wrong."""
    python = os.path.join(os.path.dirname(drkit), "python")
    script = (
        "import drkit, glob, importlib.util, os, sys\n"
        "sources = glob.glob(os.path.join(os.path.dirname(drkit.__file__), '**', '*.py'), recursive=True)\n"
        "missing = [s for s in sources if not os.path.exists(importlib.util.cache_from_source(s))]\n"
        "sys.exit(f'{len(missing)} modules are not compiled, for instance {missing[0]}' if missing else 0)"
    )
    found = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=False, timeout=60)
    if found.returncode:
        raise BenchError(f"{drkit}: {found.stderr.strip()}; install it with 'pip install .' and run compileall")


def note(text: str) -> None:
    """Say what goes on, beside the results."""
    print(text, file=sys.stderr, flush=True)


def report(bench: Bench, path: str | None, *, smoke: bool) -> None:
    """Print the tables, and write every timing to a JSON file if one is named."""
    titles = {
        name: title.format_map({"corpus": "", "many": "", "large": ""} | bench.trees.shapes)
        for name, title in SCENARIOS.items()
        if title
    }
    facts = machine(bench.work) | {"versions": [tool.version() for tool in bench.tools], "runs": bench.runs}
    rows = floor_rows(bench.results)
    print(f"Medians of {bench.runs} alternating runs of whole processes; warm caches, `sync` before each run.")
    print(
        f"{facts['processors']} processors ({facts['processor']}), {facts['file_system']}, {facts['system']}, "
        f"Python {facts['python']}; {', '.join(tool.version() for tool in bench.tools)}."
    )
    print("Restores: drkit syncs and reads back what it wrote, restic and borg do not; tar is followed by `sync`.")
    print("Peak memory is that of all processes of a command together; less than 25 MB cannot be told apart.\n")
    print(markdown(bench.results, titles) + "\n")
    if smoke:
        print("A smoke run: it shows that everything works; its figures mean nothing.")
    elif rows:
        print(floors_markdown(rows))
    if path:
        results = [
            asdict(result) | {"median_s": statistics.median(run.seconds for run in result.runs)}
            for result in bench.results
        ]
        for result in results:
            result["runs"] = [dict(zip(Run._fields, run, strict=True)) for run in result["runs"]]
        with open(path, "w", encoding="utf-8") as file:
            json.dump(
                {"machine": facts, "trees": bench.trees.shapes, "results": results, "floors": rows}, file, indent=2
            )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure drkit beside restic, borg and tar.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="tiny trees, one run: does the bench itself work?")
    parser.add_argument("--tools", default="restic,borg,tar", help="peers to run, if installed (default: %(default)s)")
    parser.add_argument("--encrypted", action="store_true", help="also drkit with an encrypted repository")
    parser.add_argument("--corpus", metavar="DIR", help="a tree of plugins to use in place of the made-up one")
    parser.add_argument("--files", type=int, default=Scale.many_files, help="files of `many` (default: %(default)s)")
    parser.add_argument("--work", metavar="DIR", help="where to work, on the disk to measure (default: below /var/tmp)")
    parser.add_argument("--json", metavar="FILE", help="write every single timing there")
    parser.add_argument("--drkit", default=os.path.join(os.path.dirname(sys.executable), "drkit"))
    given = parser.parse_args(arguments)
    unknown = set(given.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"unknown scenario: {', '.join(sorted(unknown))}")
    parent = given.work or os.environ.get("TMPDIR") or "/var/tmp"
    work = tempfile.mkdtemp(prefix="drkit-bench-", dir=parent)
    scale = (
        Scale(plugins=12, many_files=250, large=3_000_000, settle=0.0) if given.smoke else Scale(many_files=given.files)
    )
    try:
        if not given.smoke:
            check_compiled(given.drkit)
        sealed = [SealedDrkit(os.path.join(work, "drkit-encrypted"), given.drkit)] if given.encrypted else []
        tools = [Drkit(os.path.join(work, "drkit"), given.drkit), *sealed, *peers(work, given.tools.split(","))]
        bench = Bench(work, given.drkit, tools, Trees(work, scale, given.corpus), 1 if given.smoke else given.runs)
        run_scenarios(bench, given.scenarios or list(SCENARIOS))
        report(bench, given.json, smoke=given.smoke)
    except (BenchError, CommandError, OSError, subprocess.SubprocessError) as error:
        note(f"bench: {error}")
        return 1
    finally:
        remove(work)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
