"""`drkit init`: make a repository."""

from __future__ import annotations

import typer

from drkit.cli.session import Session
from drkit.clock import utc_now

EXAMPLES = """
drkit init --repo ~/backups
"""
KEYS = {"repository": "its id", "url": "where it is"}


def command(ctx: typer.Context) -> None:
    """Make an empty repository.

    The place that --repo names must hold no repository and no other files yet; a missing directory is made.
    """
    from drkit.repo import Repository

    session: Session = ctx.obj
    store = session.store()
    repository = Repository.create(store, now=utc_now())
    session.console.result({"repository": repository.config.repository_id, "url": store.url})
    session.console.note(f"made repository {repository.config.repository_id} at {store.url}")
