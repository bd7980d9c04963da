"""Running recover.py as somebody would who has nothing else, and looking at what came back."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from drkit import recovery
from tests.support.mini_repo import Entry, MiniRepo

CLEAN = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
sys.modules.update(dict.fromkeys({blocked!r}))
sys.argv = [{program!r}, *{arguments!r}]
runpy.run_path({program!r}, run_name="__main__")
"""
"""Runs recover.py in an interpreter that has only the modules that it should need, and 1 GiB of memory."""


class Result:
    """How recover.py ended: exit code, what it printed, and all paths that it called lost."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.lost = re.findall(r"^LOST (.*?): ", self.out, re.MULTILINE)
        assert "Traceback" not in self.err, self.err


def run(repo: MiniRepo | Path, *arguments: str | Path, decoder: str = "zstandard") -> Result:
    """Run the program that lies in a repository; MiniRepo puts none there."""
    program = repo / "recover.py" if isinstance(repo, Path) else repo.root / "recover.py"
    if isinstance(repo, MiniRepo):
        program.write_bytes(recovery.files()["recover.py"])
    blocked = ["drkit", "msgspec", "compression.zstd"] + (["zstandard"] if decoder == "command" else [])
    code = CLEAN.format(blocked=blocked, program=str(program), arguments=[str(a) for a in arguments])
    return Result(
        subprocess.run([sys.executable, "-I", "-c", code], cwd="/", capture_output=True, text=True, check=False)
    )


def file(path: str, content: bytes = b"content", **more: Any) -> Entry:
    return {"path": path, "type": "f", "mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": 10**18, **more}, content


def directory(path: str, **more: Any) -> Entry:
    return {"path": path, "type": "d", "mode": 0o755, "uid": 0, "gid": 0, "mtime_ns": 10**18, **more}, b""


def numbered(count: int) -> list[Entry]:
    """Many small files, in a few directories."""
    entries: list[Entry] = []
    for i in range(count):
        entries += [directory(f"d{i // 100:02}")] if i % 100 == 0 else []
        entries.append(file(f"d{i // 100:02}/f{i % 100:02}", b"content %d\n" % i * (i % 50 + 1)))
    return entries


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def packs(repo: MiniRepo) -> list[Path]:
    """The packs, in the order in which they were written."""
    return [repo.root / "packs" / pack.id.hex()[:2] / f"{pack.id.hex()}.zst" for pack in repo.packs if pack.id]


def right_files(target: Path, entries: list[Entry]) -> set[str]:
    """The files in the target. Each must be one of the entries, with exactly its content."""
    expected = {record["path"]: content for record, content in entries if record["type"] == "f"}
    found = {
        str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file() and not p.is_symlink()
    }
    assert all(expected[path] == content for path, content in found.items())
    return set(found)
