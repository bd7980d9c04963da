"""Restoring for a drill, with the clock running: by drkit, or by the repository's recover.py."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from typing import IO, Protocol

from msgspec import Struct

from drkit.drill.disk import first_file_at
from drkit.errors import DrillFailed, UsageError
from drkit.model import PluginRow
from drkit.progress import Progress
from drkit.repo.repository import Repository
from drkit.seal import SealedStore
from drkit.store.base import Store

PATIENCE_S = 60.0
_PATIENCE = 4
"""How many times its target, and how long at least, a recovery may take before it is stopped: how late it is, is worth
knowing."""


class Restored(Struct, frozen=True):
    """What came back, and when. `lost` are paths, as people see them; the hash is of what was read back.

    `gaps` are stretches of the manifest that are lost: from which path to before which, or to the end if it is empty.
    `lost` names each by its first path.
    """

    snapshot: str
    files: int
    bytes: int
    tree_sha256: str
    lost: tuple[str, ...]
    first_byte_s: float
    restore_s: float
    verify_s: float
    total_s: float
    gaps: tuple[tuple[str, str], ...] = ()


class Restorer(Protocol):
    """Restores a snapshot (`latest` or the beginning of an id), or a plugin of it, into a directory that is not there.

    DrkitError if nothing came back, or if what came back is not what was backed up.
    """

    def __call__(
        self, store: Store, spec: str, plugin: PluginRow | None, target: bytes, *, rto_s: float, progress: Progress
    ) -> Restored:
        """Restore, read back, and say how long it took."""
        ...


def by_drkit(
    store: Store, spec: str, plugin: PluginRow | None, target: bytes, *, rto_s: float, progress: Progress
) -> Restored:
    """Restore as `drkit restore` and `drkit restore-plugin` do, from the opening of the repository on."""
    from drkit.restore import restore_plugin, restore_tree

    del rto_s  # a late restore still shows how late it is
    watch = _Watch(progress)
    repo = Repository.open(store)
    ref = repo.resolve(spec)
    if plugin is None:
        report = restore_tree(repo, ref, target, progress=watch)
    else:
        report = restore_plugin(repo, ref, plugin, target=target, progress=watch)
    return watch.restored(
        target,
        snapshot=ref.id,
        files=report.files,
        bytes_=report.bytes,
        tree_sha256=report.tree_sha256,
        lost=tuple(lost.path for lost in report.lost),
        gaps=tuple((lost.path, lost.until) for lost in report.lost if lost.until is not None),
    )


def by_recover_py(
    store: Store, spec: str, plugin: PluginRow | None, target: bytes, *, rto_s: float, progress: Progress
) -> Restored:
    """Restore with the recover.py that lies in the repository, in a Python that has no drkit.

    The program's own reading back gives the hash; the key of an encrypted repository comes from the environment.
    UsageError if the repository is in no directory; DrillFailed if the program fails, or takes far longer than `rto_s`.
    """
    directory = store.directory
    if directory is None:
        raise UsageError(f"recover.py cannot read {store.url}", hint="name a repository in a directory with --store")
    wanted = [] if plugin is None else [b"--plugin=" + (plugin.raw_path or b".")]
    command: list[str | bytes] = [os.path.join(directory, b"recover.py"), "--target", target, *wanted, spec]
    watch = _Watch(progress)
    watch.start(None, None, "restoring")
    work = os.path.dirname(target)
    python = _bare_python(work, encrypted=isinstance(store, SealedStore))
    code, out, err = _run_python(python, command, work, max(PATIENCE_S, _PATIENCE * rto_s), watch)
    found = re.search(r"^tree hash equal: ([0-9a-f]{64})", out, re.MULTILINE)
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (files|bytes)\b", out)}
    gaps = tuple(re.findall(r"^LOST everything from (.*?) to (?:the end|before (.*?)): ", out, re.MULTILINE))
    named = re.findall(r"^LOST (?!everything from .*? to (?:the end|before .*?): )(.*?): ", out, re.MULTILINE)
    lost = (*(first for first, _ in gaps), *named)
    if code not in (0, 3) or not (found or lost) or "files" not in counts:
        said = (err.strip() or out.strip() or "it said nothing").splitlines()[-1]
        raise DrillFailed(f"recover.py ended with exit code {code}: {said.removeprefix('error: ')}")
    used = re.search(r"^snapshot ([0-9a-f]+) of ", err, re.MULTILINE)
    return watch.restored(
        target,
        snapshot=used[1] if used else "",
        files=counts["files"],
        bytes_=counts.get("bytes", 0),
        tree_sha256=found[1] if found else "",
        lost=lost,
        gaps=gaps,
    )


class _Watch:
    """Takes the times of a restore from its progress; also hands the progress on."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._began, self._began_at = time.monotonic(), time.time()
        self._written: float | None = None

    def start(self, total_files: int | None, total_bytes: int | None, what: str) -> None:
        self._progress.start(total_files, total_bytes, what)
        if what == "reading back" and self._written is None:
            self._written = time.monotonic()

    def advance(self, files: int, bytes: int) -> None:  # noqa: A002  # the protocol's word
        self._progress.advance(files, bytes)

    def restored(
        self,
        target: bytes,
        *,
        snapshot: str,
        files: int,
        bytes_: int,
        tree_sha256: str,
        lost: tuple[str, ...],
        gaps: tuple[tuple[str, str], ...],
    ) -> Restored:
        ended = time.monotonic()
        written = ended if self._written is None else self._written
        first = first_file_at(target)
        restore_s = written - self._began
        # The file system's clock moves in ticks of some milliseconds: no file comes before the beginning.
        first_s = restore_s if first is None else min(max(first - self._began_at, 0.0), restore_s)
        return Restored(
            snapshot=snapshot,
            files=files,
            bytes=bytes_,
            tree_sha256=tree_sha256,
            lost=lost,
            first_byte_s=round(first_s, 4),
            restore_s=round(restore_s, 4),
            verify_s=round(ended - written, 4),
            total_s=round(ended - self._began, 4),
            gaps=gaps,
        )


def _run_python(
    python: tuple[list[str], dict[str, str]], arguments: list[str | bytes], work: bytes, limit_s: float, watch: _Watch
) -> tuple[int, str, str]:
    """Run a program in a Python of this command and environment; return exit code, stdout and stderr.

    DrillFailed if it runs longer than `limit_s`. It never outlives the call.
    """
    command, variables = python
    with open(os.path.join(work, b"recover.out"), "w+b") as out:
        process = subprocess.Popen(
            [*command, *arguments],
            stdout=out,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            cwd=work,
            env=variables,
        )
        stopped = threading.Event()

        def stop() -> None:
            stopped.set()
            process.kill()

        late = threading.Timer(limit_s, stop)
        late.start()
        try:
            assert process.stderr is not None
            with process.stderr:
                err = _listen(process.stderr, watch)
            code = process.wait()
        finally:
            late.cancel()
            if process.poll() is None:
                process.kill()
                process.wait()
        if stopped.is_set():
            raise DrillFailed(f"recover.py was stopped after {limit_s:.0f} s")
        out.seek(0)
        return code, out.read().decode(errors="replace"), err


def _listen(stream: IO[bytes], watch: _Watch) -> str:
    lines = []
    for line in stream:
        lines.append(line.decode(errors="replace"))
        if line.startswith(b"reading back"):
            watch.start(None, None, "reading back")
    return "".join(lines)


def _bare_python(work: bytes, *, encrypted: bool) -> tuple[list[str], dict[str, str]]:
    """Return the Python below this environment, without site-packages, and its environment variables.

    Where nothing on the machine decodes zstd without them, the package zstandard is lent, for an encrypted repository
    cryptography and what gives the key, and nothing else.
    """
    base: str = getattr(sys, "_base_executable", "") or sys.executable
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DRKIT_", "TURSO_"))
    }
    lent = [] if sys.version_info >= (3, 14) or shutil.which("zstd") else ["zstandard"]
    if encrypted:
        lent += ["cryptography", "_cffi_backend"]
        variables |= {name: os.environ[name] for name in _SECRETS if name in os.environ}
        # The program runs in another directory.
        variables |= {
            name: os.path.abspath(os.path.expanduser(variables[name])) for name in _SECRET_FILES if variables.get(name)
        }
    if not lent:
        return [base, "-I", "-S"], variables
    place = os.path.join(work, b"lent")
    os.mkdir(place)
    for name in lent:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            origin = os.path.dirname(found.origin) if found.submodule_search_locations else found.origin
            os.symlink(os.path.abspath(os.fsencode(origin)), os.path.join(place, os.fsencode(os.path.basename(origin))))
    return [base, "-P", "-s", "-S"], {**variables, "PYTHONPATH": os.fsdecode(place)}


_SECRET_FILES = ("DRKIT_KEY_FILE", "DRKIT_PASSWORD_FILE")
_SECRETS = (*_SECRET_FILES, "DRKIT_PASSWORD", "DRKIT_PASSWORD_COMMAND")
"""What gives recover.py the key. It has no terminal to ask at."""

RESTORERS: dict[str, Restorer] = {"drkit": by_drkit, "recover.py": by_recover_py}
"""Who can restore, by the name that stands in the report."""
