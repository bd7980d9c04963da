"""The parser: which commands there are, and the global options.

A command is one module of `drkit.cli.commands` and one word in `PANELS`. The module has a function `command`, whose
docstring is the help and whose return value is the exit code (None: 0), the text `EXAMPLES`, and `KEYS`: for
each key of its JSON result what it holds, where `{a, b}` stands for a list of objects.

A group of commands, as `guard`, is a module with `COMMANDS`: word → name of the module of a command. Its docstring is
the help. The groups in `EXTENSIONS` are in another package, which says so with an entry point in `GROUP`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from drkit.errors import UsageError

PANELS = {
    "Back up and restore": ("init", "backup", "restore", "restore-plugin"),
    "Look inside": ("snapshots", "plugins", "ls", "cat", "diff", "find", "manifest"),
    "Keep copies": ("copy", "repair"),
    "Encrypt": ("key",),
    "Prove": ("verify", "drill", "doctor", "status", "inventory"),
    "Give back space": ("forget", "prune", "unlock"),
    "Edit safely": ("guard", "enhance"),
    "Automate": ("schedule",),
}
NAMES = tuple(name for names in PANELS.values() for name in names)
EXTENSIONS = frozenset({"enhance"})
GROUP = "drkit.commands"

EPILOG = """\b
Environment:
  DRKIT_REPO      the repository, as --repo
  DRKIT_INVENTORY the inventory, as --inventory
  DRKIT_CONFIG    the configuration file, as --config
  DRKIT_KEY_FILE, DRKIT_PASSWORD, DRKIT_PASSWORD_FILE, DRKIT_PASSWORD_COMMAND
                  what opens an encrypted repository
  XDG_DATA_HOME   where the inventory is, in drkit/inventory.db (default: ~/.local/share)
  XDG_CACHE_HOME  where disposable caches go (default: ~/.cache)
  TURSO_DATABASE_URL, TURSO_AUTH_TOKEN
                  the Turso database that the inventory is kept in step with

\b
Exit codes:
  0 ok, 1 unexpected, 2 usage, 3 warnings or partial, 10 no repository, 11 locked, 12 wrong key, 13 store,
  20 integrity, 21 restore mismatch, 22 drill failed, 30 guard refused, 31 proposal rejected,
  32 budget or quota used up, 130/143 interrupted;
  all of them: docs/exit-codes.md

\b
Examples:
  drkit init --repo ~/backups
  drkit backup ~/plugins --repo ~/backups --verify restore
  drkit restore latest --repo ~/backups --target /tmp/back
"""


def build(only: str | None = None, inner: str = "") -> typer.Typer:
    """Return the parser: with every command, or for speed with the one that is going to run and no completion.

    Of a group that is going to run it may be that only its command `inner` is needed.
    """
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
            if name == only or (only is None and installed(name)):
                module = load(name)
                if hasattr(module, "COMMANDS"):
                    app.add_typer(_group(module, inner), name=name, rich_help_panel=panel)
                else:
                    _add(app, name, module, panel)
    return app


def _group(module: ModuleType, inner: str) -> typer.Typer:
    group = typer.Typer(cls=PlainGroup, help=inspect.cleandoc(module.__doc__ or ""), rich_markup_mode=None)
    for word, path in module.COMMANDS.items():
        if inner not in module.COMMANDS or inner == word:
            _add(group, word, import_module(path), None)
    return group


def _add(app: typer.Typer, name: str, module: ModuleType, panel: str | None) -> None:
    epilog = "\b\nExamples:\n  " + module.EXAMPLES.strip().replace("\n", "\n  ")
    app.command(name, epilog=epilog, rich_help_panel=panel)(module.command)


def commands() -> Iterator[tuple[str, ModuleType]]:
    """Yield every command, those of groups as `guard exec`, with its module."""
    for name in NAMES:
        module = load(name)
        if hasattr(module, "COMMANDS"):
            yield from ((f"{name} {word}", import_module(path)) for word, path in module.COMMANDS.items())
        else:
            yield name, module


def load(name: str) -> ModuleType:
    """Import the module of the command or group `name`. UsageError if it is in a package that is not installed."""
    if name not in EXTENSIONS:
        return import_module(f"drkit.cli.commands.{name.replace('-', '_')}")
    from importlib.metadata import entry_points

    for found in entry_points(group=GROUP, name=name):
        module: ModuleType = found.load()
        return module
    hint = "install drkit: 'pip install drkit', or 'pip install -e .' in a checkout"
    raise UsageError(f"the command '{name}' is not installed: no package declares it in {GROUP!r}", hint=hint)


def installed(name: str) -> bool:
    """Whether a command is there. drkit's own are; to look for another takes some milliseconds."""
    if name not in EXTENSIONS:
        return True
    from importlib.metadata import entry_points

    return bool(entry_points(group=GROUP, name=name))


class PanelGroup(TyperGroup):
    """Lists the commands in the order of `PANELS`, in help under its headings."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # typer's signature
        """Return the names of the commands that are there."""
        return [name for name in NAMES if name in self.commands]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # typer's signature
        """Write one section for each heading."""
        for panel, names in PANELS.items():
            with formatter.section(panel):
                rows = [(name, self.commands[name].get_short_help_str(80)) for name in names if name in self.commands]
                formatter.write_dl(rows)


class PlainGroup(TyperGroup):
    """Lists the commands of a group with whole summaries."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # typer's signature
        """Write the one section."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(80)) for name, command in self.commands.items()])


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
