"""`drkit schedule print`: a job for systemd, cron or GitHub Actions."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Literal

import typer

from drkit.cli.session import Session, is_remote
from drkit.errors import UsageError
from drkit.schedule import Every

EXAMPLES = """
drkit schedule print --systemd --every daily --repo /srv/backups --source ~/plugins
drkit schedule print --cron --every weekly --repo /srv/backups --source ~/plugins
drkit schedule print --github --every weekly > .github/workflows/drkit.yml
"""
KEYS = {"target": "'systemd', 'cron' or 'github'", "every": "how often", "files": "{name, content}"}


def command(
    ctx: typer.Context,
    what: Annotated[Literal["print"], typer.Argument(metavar="print", help="Print the job.")],  # noqa: ARG001
    *,
    systemd: Annotated[bool, typer.Option("--systemd", help="A service and a timer.")] = False,
    cron: Annotated[bool, typer.Option("--cron", help="A line for 'crontab -e'.")] = False,
    github: Annotated[bool, typer.Option("--github", help="A workflow of GitHub Actions.")] = False,
    every: Annotated[Every, typer.Option("--every", help="How often.")] = "weekly",
    source: Annotated[
        str,
        typer.Option(
            "--source",
            metavar="DIR",
            help="What to back up; for --github a directory of the project [default: this directory].",
        ),
    ] = ".",
    sample: Annotated[int, typer.Option("--sample", metavar="N", min=1, help="How many plugins to drill.")] = 3,
) -> None:
    """Print a job that backs up, drills a sample of restores, and fails loudly.

    Nothing is installed. Of several files each begins with a comment that says its name.
    """
    from drkit import schedule
    from drkit.config import DEFAULT_NAME

    chosen = [name for name, given in (("systemd", systemd), ("cron", cron), ("github", github)) if given]
    if len(chosen) != 1:
        raise UsageError("give one of --systemd, --cron and --github")
    session: Session = ctx.obj
    repo = session.config.resolve(session.repo or session.config.repo)
    if github:
        job = schedule.Job(("drkit",), repo, source, every, sample)
    else:
        if not repo:
            raise UsageError("no repository named", hint="give --repo URL, or set DRKIT_REPO")
        repo = repo if _is_url(repo) else os.path.abspath(os.path.expanduser(repo))
        where = os.path.abspath(os.path.expanduser(source))
        named = session.inventory_url and not is_remote(session.inventory_url)
        inventory = os.path.abspath(os.fsdecode(session.inventory_path)) if named else ""
        config = session.config_path or (DEFAULT_NAME if os.path.exists(DEFAULT_NAME) else "")
        config = os.path.abspath(config) if config else ""
        job = schedule.Job(_program(), repo, where, every, sample, inventory, config)
    files = {"systemd": schedule.systemd, "cron": schedule.cron, "github": schedule.github}[chosen[0]](job)
    session.console.result({"target": chosen[0], "every": every, "files": files})
    for number, file in enumerate(files):
        if len(files) > 1:
            session.console.line(("\n" if number else "") + f"# {file.name}")
        session.console.line(file.content.rstrip("\n"))


def _is_url(repo: str) -> bool:
    scheme, colon, _ = repo.partition(":")
    return bool(colon) and "/" not in scheme and len(scheme) > 1


def _program() -> tuple[str, ...]:
    """Return how this drkit is called from anywhere: schedulers have a short PATH."""
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) == "drkit" and os.access(script, os.X_OK) and os.path.isfile(script):
        return (script,)
    return (sys.executable, "-m", "drkit")
