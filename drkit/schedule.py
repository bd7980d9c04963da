"""Jobs that back up and drill again and again, as text for systemd, cron and GitHub Actions.

Each job stops at the first command that fails, and fails with it: a backup with warnings counts, a drill over its
target counts.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from drkit.errors import UsageError

Every = Literal["hourly", "daily", "weekly", "monthly"]
"""How often; at 17 minutes past the hour, where fewer jobs of others begin."""

_CRON = {"hourly": "17 * * * *", "daily": "17 3 * * *", "weekly": "17 3 * * 0", "monthly": "17 3 1 * *"}
_CALENDAR = {
    "hourly": "*-*-* *:17:00",
    "daily": "*-*-* 03:17:00",
    "weekly": "Sun *-*-* 03:17:00",
    "monthly": "*-*-01 03:17:00",
}
_RPO = {"hourly": "3h", "daily": "2d", "weekly": "15d", "monthly": "63d"}


class Job(Struct, frozen=True):
    """What a job does: back up `source` to `repo`, then drill `sample` plugins.

    `program` is how drkit is called. `inventory` and `config` are the files that those options name, empty
    for the usual ones.
    """

    program: tuple[str, ...]
    repo: str
    source: str
    every: Every
    sample: int
    inventory: str = ""
    config: str = ""

    def commands(self) -> list[list[str]]:
        """Return the commands, in order; each must end well before the next begins."""
        start = [*self.program, "--repo", self.repo]
        for option, file in (("--inventory", self.inventory), ("--config", self.config)):
            start += [option, file] if file else []
        return [
            [*start, "--quiet", "backup", self.source, "--verify", "content"],
            [*start, "--quiet", "drill", "--sample", str(self.sample), "--rpo", _RPO[self.every]],
        ]


class File(Struct, frozen=True):
    """A file that a scheduler reads, under the name that it should have."""

    name: str
    content: str


def systemd(job: Job) -> list[File]:
    """Return a service and its timer. A failed run leaves the service failed: `systemctl --failed` lists it."""
    _check(job)
    lines = "\n".join("ExecStart=" + " ".join(map(_systemd_word, command)) for command in job.commands())
    service = f"""\
[Unit]
Description=Back up with drkit and drill a sample of restores
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
{lines}
Nice=10
IOSchedulingClass=idle
"""
    timer = f"""\
[Unit]
Description=Run drkit {job.every}

[Timer]
OnCalendar={_CALENDAR[job.every]}
RandomizedDelaySec=5min
Persistent=true

[Install]
WantedBy=timers.target
"""
    return [File("drkit.service", service), File("drkit.timer", timer)]


def cron(job: Job) -> list[File]:
    """Return a line for `crontab -e`. It prints nothing when all is well, and cron mails what it prints."""
    _check(job)
    # An unescaped % ends a crontab's command.
    command = " && ".join(map(shlex.join, job.commands())).replace("%", "\\%")
    return [File("crontab", f"{_CRON[job.every]} {command}\n")]


def github(job: Job) -> list[File]:
    """Return a workflow. Without a `repo` it is the one that the variable DRKIT_REPO of the project names."""
    _check(job)
    if job.source.startswith("/"):
        raise UsageError(f"{job.source} is no directory of the project", hint="name one relative to its top")
    repo = _yaml(job.repo) if job.repo else "${{ vars.DRKIT_REPO || 'drkit-repository' }}"
    content = f"""\
name: Backup and restore drill
on:
  schedule:
    - cron: {_yaml(_CRON[job.every])}
  workflow_dispatch:
permissions:
  contents: read
concurrency:
  group: drkit
jobs:
  drill:
    runs-on: ubuntu-latest
    timeout-minutes: 120
    env:
      DRKIT_REPO: {repo}
      SOURCE: {_yaml(job.source)}
    steps:
      - uses: actions/checkout@v4
        with:
          path: source
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: pip install drkit
      - name: Keep a repository that is a directory from run to run
        uses: actions/cache@v4
        with:
          path: ${{{{ env.DRKIT_REPO }}}}
          key: drkit-${{{{ github.run_id }}}}
          restore-keys: drkit-
      - name: Make the repository, the first time
        run: drkit snapshots --quiet || test $? -ne 10 || drkit init
      - name: Back up
        run: drkit backup "source/$SOURCE" --verify content
      - name: Drill a sample
        run: drkit drill --sample {job.sample} --rpo {_RPO[job.every]} --junit drill.xml
      - name: Keep the result
        if: always()
        uses: actions/upload-artifact@v4
        with:
          name: drill
          path: drill.xml
"""
    return [File(".github/workflows/drkit.yml", content)]


def _check(job: Job) -> None:
    words: Sequence[str] = (*job.program, job.repo, job.source, job.inventory, job.config)
    for word in words:
        if not word.isprintable():
            raise UsageError(f"{word!r} cannot stand in a schedule", hint="use paths of printable UTF-8 characters")


def _systemd_word(word: str) -> str:
    r"""Quote a word for ExecStart=, where % and $ are doubled, and \ and " are escaped."""
    doubled = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return doubled if doubled and not set(doubled) & set(" ';\"\\") else f'"{doubled}"'


def _yaml(text: str) -> str:
    """Quote a string: one of JSON is one of YAML."""
    return json.dumps(text, ensure_ascii=False)
