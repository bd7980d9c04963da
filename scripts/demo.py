"""The main job of drkit from end to end, with its real command line, judged by code that is not drkit's.

Run it through `scripts/demo`, which makes the environment. Each step is one function: it runs commands through
`Demo.run`, raises DemoError if something is not as it must be, and returns the line for the closing table.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from treediff import Node, compare, describe

SCRIPTS = os.path.dirname(os.path.abspath(__file__))
LONGEST = 3_600  # seconds that one command may take
ENHANCED = 20  # plugins at most


class DemoError(Exception):
    """A step did not do what it must."""


@dataclass
class Demo:
    """Where everything lies, and what the steps have found out so far."""

    drkit: str
    work: str
    given_source: str | None
    plugins: int
    before: dict[bytes, Node] = field(default_factory=dict)
    plugin: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    """What every command finds in its environment."""

    @property
    def source(self) -> str:
        """The tree that is backed up: made up, or a copy of the one that was given."""
        return os.path.join(self.work, "source")

    @property
    def repository(self) -> str:
        """The repository's directory."""
        return os.path.join(self.work, "repository")

    def run(
        self,
        *command: str,
        cwd: str | None = None,
        variables: Mapping[str, str] = MappingProxyType({}),
        accept: Sequence[int] = (0,),
    ) -> str:
        """Print the command, run it, and return its standard output. DemoError unless its exit code is accepted."""
        shown = [f"{name}={shlex.quote(value)}" for name, value in variables.items()] + [shlex.join(command)]
        print(dim(f"   $ {' '.join(shown)}"), flush=True)
        foreign = ("DRKIT_", "TURSO_", "PYTHONPATH")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        environment |= {f"XDG_{name}_HOME": os.path.join(self.work, name.lower()) for name in ("CACHE", "DATA")}
        environment["DRKIT_STATE_DIR"] = os.path.join(self.work, "state")
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**environment, **self.variables, **variables},
            capture_output=True,
            timeout=LONGEST,
            check=False,
        )
        if done.returncode not in accept:
            said = _message((done.stderr or done.stdout).decode(errors="replace").strip())
            raise DemoError(f"exit code {done.returncode}: {said or 'it said nothing'}")
        return done.stdout.decode(errors="replace")

    @property
    def where(self) -> tuple[str, str]:
        """The option that names the repository."""
        return "--repo", self.repository

    def run_drkit(self, *arguments: str, accept: Sequence[int] = (0,)) -> dict[str, Any]:
        """Run a drkit command on the repository and return its JSON."""
        answer = self.run(self.drkit, *self.where, "--json", *arguments, accept=accept)
        result: dict[str, Any] = json.loads(answer or "{}")
        return result

    def judge(self, directory: str, *, any_time: Collection[bytes] = ()) -> str:
        """Compare a directory with the source as it was when it was backed up. DemoError if it differs."""
        differences = compare(self.before, describe(directory), any_time=any_time)
        if differences:
            more = [f"and {len(differences) - 20} more"] if len(differences) > 20 else []
            raise DemoError("\n".join([f"{len(differences)} differences:", *differences[:20], *more]))
        return f"{len(self.before)} paths equal"


def _message(said: str) -> str:
    """Return what a command said on its way out; of drkit's JSON the message and the hint."""
    try:
        error = json.loads(said.splitlines()[-1])
        return f"{error['message']}\n{error['hint']}"
    except (ValueError, LookupError, TypeError):
        return said


def make_source(demo: Demo) -> str:
    """Make a marketplace, or copy the tree that was given: the demo deletes from it."""
    if demo.given_source:
        os.mkdir(demo.source)
        demo.run("cp", "-a", "--", os.path.join(demo.given_source, "."), demo.source)
    else:
        script = os.path.join(SCRIPTS, "marketplace.py")
        demo.run(sys.executable, script, demo.source, "--plugins", str(demo.plugins))
    demo.before = describe(demo.source)
    files = [node for node in demo.before.values() if node.type == "file"]
    return f"{len(files)} files, {sum(node.size for node in files) / 1e6:.1f} MB"


def make_repository(demo: Demo) -> str:
    """Make a repository."""
    demo.run_drkit("init")
    return "made"


def back_up(demo: Demo) -> str:
    """Back the source up."""
    made = demo.run_drkit("backup", demo.source, accept=(0, 3))
    warnings = f", {len(made['warnings'])} warnings" if made["warnings"] else ""
    return f"{made['files']} files, {made['plugins']} plugins, {made['bytes_added'] / 1e6:.1f} MB stored{warnings}"


def verify(demo: Demo) -> str:
    """Read everything back and hash it."""
    found = demo.run_drkit("verify", "--level", "content")
    if not found["ok"] or found["findings"]:
        raise DemoError(f"findings: {found['findings']}")
    return f"{found['packs_read']} packs read, no findings"


def lose_a_plugin(demo: Demo) -> str:
    """Delete the plugin with the most files from the source."""
    plugins = demo.run_drkit("plugins")["plugins"]
    inside = {row["path"] for row in plugins if row["path"]}
    if not inside:
        raise DemoError("there is no plugin in this source: a directory with .claude-plugin/plugin.json makes one")
    demo.plugin = max((row for row in plugins if row["path"] in inside), key=lambda row: row["files"])["path"]
    lost = os.path.join(demo.source, demo.plugin)
    demo.run("rm", "-rf", "--", lost)
    if os.path.lexists(lost):
        raise DemoError(f"{lost} is still there")
    return f"{demo.plugin} is gone"


def restore_the_plugin(demo: Demo) -> str:
    """Put the plugin back where it was. The time of its parent directory is the deletion's doing."""
    demo.run_drkit("restore-plugin", demo.plugin, "--in-place", "--source", demo.source)
    return demo.judge(demo.source, any_time={os.path.dirname(os.fsencode(demo.plugin))})


def restore_everything(demo: Demo) -> str:
    """Restore the whole snapshot into a new directory."""
    target = os.path.join(demo.work, "restored")
    demo.run_drkit("restore", "--target", target)
    return demo.judge(target)


def recover_without_drkit(demo: Demo) -> str:
    """Restore with the recover.py that lies in the repository, by a Python that has no drkit."""
    python, variables = _bare_python(demo)
    found = 'from importlib.util import find_spec; print("drkit is importable:", find_spec("drkit") is not None)'
    answer = demo.run(*python, "-c", found, cwd=demo.work, variables=variables).strip()
    print(f"     {answer}")
    if answer != "drkit is importable: False":
        raise DemoError("this Python has drkit: the recovery would prove nothing")
    target = os.path.join(demo.work, "recovered")
    demo.run(*python, "recover.py", "--target", target, cwd=demo.repository, variables=variables)
    return demo.judge(target)


def drill(demo: Demo) -> str:
    """Restore a few plugins to scratch, against the clock, and record how long it took."""
    drills = demo.run_drkit("drill", "--sample", "3", "--rto", "5m")["drills"]
    if not drills or not all(one["passed"] for one in drills):
        raise DemoError(f"drills: {drills}")
    return f"{len(drills)} plugins, the slowest in {max(one['total_s'] for one in drills):.2f} s"


def enhance(demo: Demo) -> str:
    """Let the offline generator write what plugins lack, look at what it says that it did, and take it back."""
    before, hash_before = describe(demo.source), tree_hash(demo)
    told = demo.run_drkit(
        "enhance", "run", demo.source, "--generator", "offline", "--limit", str(ENHANCED), accept=(0, 3)
    )
    after = describe(demo.source)
    changed = sorted(os.fsdecode(path) for path in {*before, *after} if differs(before.get(path), after.get(path)))
    for path in changed:
        print(f"     {'M' if os.fsencode(path) in before else '+'} {path}")
    if not changed or told["statuses"].get("failed") or told["files_changed"] != changed:
        raise DemoError(f"{len(changed)} files are changed, and the report says {told}")
    demo.run_drkit("enhance", "rollback", told["run"])
    if tree_hash(demo) != hash_before:
        raise DemoError("the rollback did not bring the tree back")
    demo.judge(demo.source, any_time=before)  # what was written and taken back is as old as its last writing
    return f"{told['plugins']} plugins, {len(changed)} files written, each after a proof; rolled back: tree hash equal"


def differs(one: Node | None, other: Node | None) -> bool:
    """Whether a path is another file or link than before; directories and times do not count."""
    if "directory" in {node and node.type for node in (one, other)} and None in {one, other}:
        return False
    return one is None or other is None or one._replace(mtime_ns=0) != other._replace(mtime_ns=0)


def tree_hash(demo: Demo) -> str:
    """Return the tree hash of the source as it is now, without storing it."""
    found: str = demo.run_drkit("backup", demo.source, "--dry-run", accept=(0, 3))["tree_sha256"]
    return found


def show_status(demo: Demo) -> str:
    """Print the status screen: all of the above as the inventory tells it."""
    print(demo.run(demo.drkit, "status").rstrip())
    told = demo.run_drkit("status")
    if not told["ok"]:
        raise DemoError("the status says that a target is missed")
    [source] = told["sources"]
    return f"verified at level {source['verified']['level']}, RPO and RTO are met"


def _bare_python(demo: Demo) -> tuple[list[str], dict[str, str]]:
    """Return a command for the Python below the environment, without site-packages; zstandard is lent if need be."""
    base: str = getattr(sys, "_base_executable", sys.executable)
    if shutil.which("zstd") or sys.version_info >= (3, 14):
        return [base, "-I", "-S"], {}
    import zstandard

    lent = os.path.join(demo.work, "lent")
    shutil.copytree(os.path.dirname(zstandard.__file__), os.path.join(lent, "zstandard"))
    return [base, "-S"], {"PYTHONPATH": lent}


class Step(NamedTuple):
    """One step; without an `essential` one the rest makes no sense."""

    title: str
    run: Callable[[Any], str]
    essential: bool = False


STEPS = (
    Step("Make the source", make_source, essential=True),
    Step("Make a repository", make_repository, essential=True),
    Step("Back up", back_up, essential=True),
    Step("Verify every byte", verify),
    Step("Lose a plugin", lose_a_plugin),
    Step("Restore it in place", restore_the_plugin),
    Step("Restore everything", restore_everything),
    Step("Recover without drkit", recover_without_drkit),
    Step("Drill", drill),
    Step("Enhance, guarded, and take it back", enhance),
    Step("Status", show_status),
)


def play(demo: Demo, steps: Sequence[Step] = STEPS) -> bool:
    """Run the steps, print the closing table, and return whether all went well."""
    rows: list[tuple[str, bool, str, float]] = []
    for number, step in enumerate(steps, 1):
        print(f"{number}  {step.title}", flush=True)
        started = time.monotonic()
        try:
            passed, result = True, step.run(demo)
        except (DemoError, OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
            passed, result = False, str(error) or repr(error)
        seconds = time.monotonic() - started
        rows.append((step.title, passed, result.splitlines()[0][:70], seconds))
        print(f"   {mark(passed)} {result.replace(chr(10), chr(10) + '     ')}  ({seconds:.1f} s)\n", flush=True)
        if not passed and step.essential:
            break
    width = max(len(title) for title, *_ in rows)
    result_width = max(len(result) for _, _, result, _ in rows)
    for title, passed, result, seconds in rows:
        print(f"{title:<{width}}  {mark(passed)}  {result:<{result_width}}  {seconds:6.1f} s")
    complete = len(rows) == len(steps) and all(passed for _, passed, _, _ in rows)
    total = sum(seconds for *_, seconds in rows)
    verdict = "everything came back as it was" if complete else "NOT everything is as it must be"
    print(f"{len(rows)} of {len(steps)} steps in {total:.1f} s: {verdict}")
    return complete


def mark(passed: bool) -> str:
    """Return what stands beside a result."""
    return paint("32", "ok    ") if passed else paint("31", "FAILED")


def dim(text: str) -> str:
    """Return text that stands back."""
    return paint("2", text)


def paint(code: str, text: str) -> str:
    """Colour a text, on a terminal only."""
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def _stop(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Back up, lose, restore, recover; all compared.")
    parser.add_argument("--source", metavar="DIR", help="a tree of yours: a copy is used, the tree is only read")
    parser.add_argument("--plugins", type=int, default=235, help="size of the made-up source (default: 235)")
    parser.add_argument(
        "--offsite", action="store_true", help="keep copies in a bucket and a database, and lose the rest"
    )
    parser.add_argument("--keep", action="store_true", help="keep the working directory and print where it is")
    parser.add_argument(
        "--drkit", default=os.path.join(os.path.dirname(sys.executable), "drkit"), help="the drkit command to run"
    )
    given = parser.parse_args(arguments)
    if given.source and not os.path.isdir(given.source):
        parser.error(f"--source {given.source}: there is no such directory")
    work = tempfile.mkdtemp(prefix="drkit-demo-")
    try:
        played: Callable[[Demo], bool] = play
        if given.offsite:
            from demo_offsite import play_offsite as played  # brings servers, which the rest does without
        passed = played(Demo(given.drkit, work, given.source and os.path.abspath(given.source), given.plugins))
    finally:
        if given.keep:
            print(f"kept: {work}")
        else:
            subprocess.run(["chmod", "-R", "u+rwX", work], check=False)
            shutil.rmtree(work)
    return 0 if passed else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
