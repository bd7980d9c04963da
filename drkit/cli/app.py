"""The parser: which commands there are, and the global options.

A command is one module of `drkit.cli.commands` and one word in `PANELS`. The module has a function `command`, whose
docstring is the help and whose return value is the exit code (None: 0), the text `EXAMPLES`, and `KEYS`: for
each key of its JSON result what it holds, where `{a, b}` stands for a list of objects.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

PANELS = {
    "Back up and restore": ("init", "backup", "restore", "restore-plugin"),
    "Look inside": ("snapshots", "plugins", "ls", "cat", "diff", "find", "manifest"),
    "Prove": ("verify", "drill", "doctor", "status", "inventory"),
    "Automate": ("schedule",),
}
NAMES = tuple(name for names in PANELS.values() for name in names)

EPILOG = """\b
Environment:
  DRKIT_REPO      the repository, as --repo
  DRKIT_INVENTORY the inventory, as --inventory
  DRKIT_CONFIG    the configuration file, as --config
  XDG_DATA_HOME   where the inventory is, in drkit/inventory.db (default: ~/.local/share)
  XDG_CACHE_HOME  where disposable caches go (default: ~/.cache)
  TURSO_DATABASE_URL, TURSO_AUTH_TOKEN
                  the Turso database that the inventory is kept in step with

\b
Exit codes:
  0 ok, 1 unexpected, 2 usage, 3 warnings or partial, 10 no repository, 11 locked, 13 store,
  20 integrity, 21 restore mismatch, 22 drill failed, 130/143 interrupted;
  all of them: docs/exit-codes.md

\b
Examples:
  drkit init --repo ~/backups
  drkit backup ~/plugins --repo ~/backups --verify restore
  drkit restore latest --repo ~/backups --target /tmp/back
"""


def build(only: str | None = None) -> typer.Typer:
    """Return the parser: with every command, or for speed with the one that is going to run and no completion."""
    app = typer.Typer(
        cls=PanelGroup,
        name="drkit",
        epilog=EPILOG,
        add_completion=only is None,
        rich_markup_mode=None,  # plain help reads the same in a terminal, a pipe and a document
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(root)
    for panel, names in PANELS.items():
        for name in names:
            if only in {None, name}:
                module = load(name)
                epilog = "\b\nExamples:\n  " + module.EXAMPLES.strip().replace("\n", "\n  ")
                app.command(name, epilog=epilog, rich_help_panel=panel)(module.command)
    return app


def load(name: str) -> ModuleType:
    """Import the module of the command `name`."""
    return import_module(f"drkit.cli.commands.{name.replace('-', '_')}")


class PanelGroup(TyperGroup):
    """Lists the commands in help under the headings of `PANELS`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # typer's signature
        """Write one section for each heading."""
        for panel, names in PANELS.items():
            with formatter.section(panel):
                rows = [(name, self.commands[name].get_short_help_str(limit=80)) for name in names]
                formatter.write_dl(rows)


def root(
    ctx: typer.Context,
    *,
    repo: Annotated[str, typer.Option("--repo", "-r", metavar="URL", envvar="DRKIT_REPO", help="The repository.")] = "",
    inventory: Annotated[
        str,
        typer.Option(
            "--inventory",
            metavar="URL",
            envvar="DRKIT_INVENTORY",
            help="The inventory: a file, or the URL of a Turso database to keep the file in step with.",
        ),
    ] = "",
    config: Annotated[
        str,
        typer.Option(
            "--config", metavar="FILE", envvar="DRKIT_CONFIG", help="The configuration [default: ./drkit.toml]."
        ),
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,  # noqa: ARG001
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only what was asked for.")] = False,  # noqa: ARG001
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print tracebacks of errors.")] = False,  # noqa: ARG001
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,  # noqa: ARG001
) -> None:
    """Keep snapshots of a directory tree, prove that they can be restored, and restore them.

    Global options may stand anywhere before the first `--`. A plain path as URL is a local directory.
    """
    # The flags were read before anything was parsed, so that errors of the parser obey them (see `main`).
    ctx.obj.repo = repo
    ctx.obj.inventory_url = inventory
    ctx.obj.config_path = config
