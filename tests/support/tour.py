"""Play docs/offsite.md: run its commands against real servers, and hold what they print against the page.

`python -m tests.support.tour` writes what they print into the page.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.hrana import TOKEN, serving
from tests.support.servers import ENVIRONMENT, Servers

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "offsite.md"
SETTINGS = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```console\n(.*?)^```$(?:\n\nThe exit code is (\d+)\.$)?", re.MULTILINE | re.DOTALL)
CLOUD, DATABASE, PLACE = "s3://plugins/backups", "turso://plugins-team.turso.io", "/srv"
DAMAGE = "## Lose the machine"
WIDTH = 118
LONGEST = 180  # seconds that one command may take


class Tour:
    """A machine with two servers: what the page's commands see of the world."""

    def __init__(self, home: Path, cloud: str, turso: str, path: str) -> None:
        self.home = home
        self.cloud = cloud
        program = home / "bin" / "drkit"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} -m drkit "$@"\n')
        program.chmod(0o755)
        (home / "secret").write_text("a tour's secret\n")
        (home / "secret").chmod(0o600)
        foreign = ("DRKIT_", "TURSO_", "XDG_", "AWS_")
        outside = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self._names = {cloud: CLOUD, turso.replace("http://", "turso+http://"): DATABASE, str(home): PLACE}
        self._environ = {
            **outside,
            **ENVIRONMENT,
            "HOME": str(home),
            "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
            "TURSO_DATABASE_URL": turso,
            "TURSO_AUTH_TOKEN": TOKEN,
            "DRKIT_PASSWORD_FILE": str(home / "secret"),
        }

    def settings(self, text: str) -> None:
        """Write drkit.toml as the page has it, with the bucket that is there."""
        (self.home / "drkit.toml").write_text(text.replace(CLOUD, self.cloud))

    def run(self, command: str) -> tuple[int, list[str]]:
        """Return the exit code of a command, and the lines that it prints, as the page would show them."""
        command = command.replace("scripts/marketplace.py", str(ROOT / "scripts" / "marketplace.py"))
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.home,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LONGEST,
            check=False,
        )
        text = done.stdout.decode()
        for here, shown in self._names.items():
            text = text.replace(f"'{here}'", shown).replace(here, shown)
        return done.returncode, [shortened(line.rstrip()) for line in text.splitlines()]

    def damage(self) -> None:
        """Flip a bit in the middle of the largest pack in the bucket, with the cloud's own tool."""
        import boto3  # type: ignore[import-untyped]

        place, _, endpoint = self.cloud.removeprefix("s3://").partition("?endpoint=")
        bucket, _, folder = place.partition("/")
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": ENVIRONMENT["AWS_SECRET_ACCESS_KEY"]}
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
        listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{folder}/packs/")["Contents"]
        pack = max(listed, key=lambda row: row["Size"])["Key"]
        data = bytearray(client.get_object(Bucket=bucket, Key=pack)["Body"].read())
        data[len(data) // 2] ^= 0x10
        client.put_object(Bucket=bucket, Key=pack, Body=bytes(data))


@contextmanager
def machine(home: Path, path: str) -> Iterator[Tour]:
    """Start the servers for as long as the block runs."""
    with ExitStack() as stack:
        servers = Servers(home.parent)
        stack.callback(servers.close)
        turso = stack.enter_context(serving(home.parent / "turso.db"))
        yield Tour(home, servers.url("s3"), turso.url, path)


def play(tour: Tour, page: str) -> Iterator[tuple[str, list[str], int, int, list[str]]]:
    """Yield each command of the page, what the page shows of it, the exit code there, the one now, what it printed."""
    [settings] = SETTINGS.findall(page)
    tour.settings(settings)
    damaged = page.index(DAMAGE)
    for block in BLOCK.finditer(page):
        if damaged and block.start() > damaged:
            tour.damage()
            damaged = 0
        parts = [part.splitlines() for part in re.split(r"^\$ ", block[1], flags=re.MULTILINE)[1:]]
        for number, (command, *shown) in enumerate(parts):
            expected = int(block[2] or 0) if number == len(parts) - 1 else 0
            yield command, shown, expected, *tour.run(command)


def shortened(line: str) -> str:
    """Return a line as the page has it: long hashes and long lines cut."""
    if "tree hash" not in line and "made encrypted" not in line:
        line = re.sub(r"[0-9a-f]{20,}", lambda found: f"{found[0][:8]}…", line)
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def varying(line: str) -> str:
    """Return what of a line is the same each time: no ids, numbers, units, or names of plugins; cut with the page's."""
    line = re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b", "ID", line)
    line = re.sub(r"\bplugins/(?!backups)[\w/.-]+", "plugins/NAME", line)
    line = re.sub(r"/[0-9a-f]{2}/", "/XX/", line)
    line = re.sub(r"\d[\d,.]*(?: (?:s|ms|min|h|d|B|KiB|MiB|seconds?|minutes?)\b)?", "N", line)
    return re.sub(r"\s+", " ", re.sub(r"N(?: N)+", "N", line)).strip()


def written(tour: Tour, page: str) -> str:
    """Return the page with what its commands print now."""
    texts = []
    for command, _, expected, code, lines in play(tour, page):
        if code != expected:
            raise SystemExit(f"{command} exits with {code}, not {expected}: {lines}")
        texts.append("\n".join([f"$ {command}", *lines]) + "\n")
    outputs = iter(texts)

    def filled(block: re.Match[str]) -> str:
        commands = len(re.findall(r"^\$ ", block[1], re.MULTILINE))
        return block[0].replace(block[1], "".join(next(outputs) for _ in range(commands)), 1)

    return BLOCK.sub(filled, page)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "home").mkdir()
        with machine(Path(scratch) / "home", str(ROOT)) as one:
            PAGE.write_text(written(one, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
