"""Scratch directories go away: with their block, or, after a kill, before the next one is made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drkit.restore.scratch import scratch

HOLD = """
import sys
from drkit.restore.scratch import scratch
with scratch(sys.argv[1].encode()) as path:
    open(path + b"/file", "w").close()
    print("made", flush=True)
    sys.stdin.read()
"""


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path))


def aged(path: Path) -> None:
    for each in path.iterdir():
        os.utime(each, (1, 1))


def test_it_is_private_and_goes_away_whatever_is_in_it(tmp_path: Path) -> None:
    def fail() -> None:
        with scratch(bytes(tmp_path)) as path:
            assert os.stat(path).st_mode & 0o777 == 0o700
            os.mkdir(path + b"/sealed", 0)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"made\n"
        (held,) = names(tmp_path)
        aged(tmp_path)
        with scratch(bytes(tmp_path)) as path:  # it is at work, however old
            assert names(tmp_path) == sorted([held, os.fsdecode(os.path.basename(path))])
        holder.send_signal(signal.SIGKILL)
    aged(tmp_path)
    with scratch(bytes(tmp_path)):
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == []


def test_what_is_young_or_somebody_elses_stays(tmp_path: Path) -> None:
    for name, mode in (("drkit-scratch-young", 0o700), ("drkit-scratch-open", 0o755), ("drkit-other", 0o700)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
        if not name.endswith("young"):
            os.utime(tmp_path / name, (1, 1))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "drkit-scratch-link").symlink_to("elsewhere")
    (tmp_path / "drkit-scratch-file").write_bytes(b"")
    before = names(tmp_path)
    with scratch(bytes(tmp_path)):
        pass
    assert names(tmp_path) == before
