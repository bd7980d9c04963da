"""Real processes that share a quota, killed at any moment: what the server has seen is what it was to see at most."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from drkit.clock import utc_now
from drkit.inventory import Inventory
from enhance.pace import Ledger, Limit, Pace, Pacer, boot_time

WORKER = """
import os, random, sys, time
from drkit.clock import utc_now
from drkit.errors import BudgetExhausted
from drkit.inventory import Inventory
from enhance.model import Reply, Usage
from enhance.pace import Ledger, Limit, Pace, Pacer, boot_time

path, server, done, per_minute, per_day, name = sys.argv[1:]

def append(path, text):
    with open(path, "ab", 0) as file:
        file.write(text.encode() + b"\\n")

def send():
    append(server, str(boot_time()))
    time.sleep(random.random() * 0.02)
    return Reply("text", "stop", Usage(5, 5))

limit = Limit(model="m", headroom=1.0, requests_per_minute=int(per_minute) or None,
              requests_per_day=int(per_day) or None, zone="UTC" if 6 <= utc_now().hour < 18 else "Etc/GMT+12")
pace = Pace(delay_s=(0, 0), start_s=(0, 0), rest_every=0, patience_s=1)
inventory = Inventory.open(os.fsencode(path), now=utc_now)
pacer = Pacer(Ledger(inventory), limit, pace, run="r", now=utc_now, monotonic=boot_time, sleep=time.sleep,
              random=random.random)
try:
    while True:
        pacer.ask(send, tokens=10, timeout_s=30)
        append(done, name)
except BudgetExhausted as error:
    print(error)
"""
"""Calls until the quota is used up. The day of the zone is hours from its ends, whenever this runs."""


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def start(tmp_path: Path, name: str, *, per_minute: int = 0, per_day: int = 0) -> subprocess.Popen[bytes]:
    files = [str(tmp_path / one) for one in ("inventory.db", "server", "done")]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *files, str(per_minute), str(per_day), name], stdout=subprocess.DEVNULL
    )


def run_killing(tmp_path: Path, *, seed: int, kills: int, **quota: int) -> int:
    """Run three workers at a time, kill some at random moments; return how many were killed at work."""
    chance = random.Random(seed)
    Inventory.open(bytes(tmp_path / "inventory.db"), now=utc_now).close()
    workers = [start(tmp_path, f"w{n}", **quota) for n in range(3)]
    killed = 0
    try:
        for n in range(kills):
            seen = len(lines(tmp_path / "server"))
            for _ in range(400):
                if len(lines(tmp_path / "server")) > seen:
                    break
                time.sleep(0.005)
            time.sleep(chance.random() * 0.03)
            victim = workers[n % 3]
            if victim.poll() is None:
                os.kill(victim.pid, signal.SIGKILL)
                killed += 1
            victim.wait(timeout=30)
            workers[n % 3] = start(tmp_path, f"again{n}", **quota)
        for worker in workers:
            assert worker.wait(timeout=60) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(timeout=30)
    return killed


def test_processes_killed_at_any_call_never_exceed_the_day_and_lose_only_what_was_under_way(tmp_path: Path) -> None:
    killed = run_killing(tmp_path, seed=5, kills=6, per_day=150)
    seen, done = len(lines(tmp_path / "server")), len(lines(tmp_path / "done"))
    assert killed >= 3
    assert seen <= 150
    assert seen >= 150 - killed  # a reservation whose process died before its call is the only loss
    assert done >= seen - killed


def test_processes_killed_at_any_call_never_exceed_the_minute(tmp_path: Path) -> None:
    killed = run_killing(tmp_path, seed=6, kills=3, per_minute=60)
    times = sorted(map(float, lines(tmp_path / "server")))
    assert len(times) >= 60 - killed
    assert all(later - earlier > 60 for earlier, later in zip(times, times[60:], strict=False))


def test_what_died_counts_until_its_time_limit(tmp_path: Path) -> None:
    quota = {"per_minute": 1}
    Inventory.open(bytes(tmp_path / "inventory.db"), now=utc_now).close()
    stopped = start(tmp_path, "w", per_minute=1000)
    try:
        for _ in range(2000):
            if lines(tmp_path / "server"):
                break
            time.sleep(0.005)
        os.kill(stopped.pid, signal.SIGKILL)
    finally:
        stopped.kill()
        stopped.wait(timeout=30)
    seen = len(lines(tmp_path / "server"))
    assert seen >= 1
    assert start(tmp_path, "next", **quota).wait(timeout=60) == 0
    assert len(lines(tmp_path / "server")) == seen
    with Inventory.open(bytes(tmp_path / "inventory.db"), now=utc_now) as inventory:
        pacer = Pacer(
            Ledger(inventory),
            Limit(model="m", headroom=1.0, requests_per_minute=1),
            Pace(),
            run="r",
            now=utc_now,
            monotonic=boot_time,
            sleep=lambda _: None,
            random=lambda: 0.5,
        )
        assert pacer.state().minute_left == 0
        assert pacer.state().calls >= seen
