"""The documents that are made from the code: `python -m drkit.cli.reference` writes them into docs/.

`docs/exit-codes.md` comes from `drkit.errors`. `docs/cli.md` is written by hand up to the line `MARK`; what follows
it comes from the parser.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import typer

from drkit.cli import app
from drkit.cli.app import PANELS
from drkit.errors import DrkitError

MARK = "<!-- Below this line: python -m drkit.cli.reference -->\n"

_EXIT_CODES = """\
# Exit codes

Scripts may depend on these. With `--json` the code is also in the error object on stderr:
`{{"type": "error", "code": …, "message": …, "hint": …}}`. Without it, stderr has a line `error: …` and a line
`hint: …` that names the next step.

| code | error | when | hint, unless the error has a better one |
|---|---|---|---|
{rows}

Other errors are kinds of these and have their codes: {kinds}.
"""

_WHEN = {
    0: "Done, and everything is as it should be.",
    1: "Unexpected: an error of the system, or a bug.",
    130: "Interrupted (SIGINT); what was stored so far is used when the command runs again.",
    143: "Terminated (SIGTERM); likewise.",
}


def exit_codes() -> str:
    """Return the text of docs/exit-codes.md."""
    rows = [(code, "", _WHEN[code], "") for code in (0, 130, 143)]
    kinds = []
    for error in error_classes():
        if "code" in vars(error):
            when = _WHEN.get(error.code) or inspect.cleandoc(error.__doc__ or "")
            rows.append((error.code, error.__name__, when, error.default_hint))
        else:
            kinds.append(f"{error.__name__} ({error.code})")
    lines = [f"| {code} | {name} | {when} | {hint} |" for code, name, when, hint in sorted(rows)]
    return _EXIT_CODES.format(rows="\n".join(lines), kinds=", ".join(kinds))


def error_classes(top: type[DrkitError] = DrkitError) -> Iterator[type[DrkitError]]:
    """Yield every class of `drkit.errors`, parents first."""
    yield top
    for child in top.__subclasses__():
        if child.__module__ == top.__module__:
            yield from error_classes(child)


def commands() -> str:
    """Return the part of docs/cli.md that comes from the parser. UsageError if a command is not installed."""
    modules = dict(app.commands())
    group: Any = typer.main.get_command(app.build())
    options = [parameter for parameter in group.params if "completion" not in parameter.name]
    parts = ["## Global options\n\n" + _table(options)]
    for panel, names in PANELS.items():
        parts.append(f"## {panel}\n")
        for name in names:
            own = getattr(group.commands[name], "commands", None)
            if own is None:
                parts.append(_command(name, modules[name], group.commands[name]))
                continue
            parts += [f"### {name}\n", group.commands[name].help + "\n"]
            parts += [_command(f"{name} {word}", modules[f"{name} {word}"], own[word]) for word in own]
    return "\n".join(parts)


def _command(name: str, module: ModuleType, command: Any) -> str:
    words = [_usage(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
    parts = [
        f"### {name}\n",
        f"`{' '.join(['drkit', name, *words])}`\n",
        inspect.cleandoc(module.command.__doc__ or "") + "\n",
    ]
    if command.params:
        parts.append(_table(command.params))
    if module.KEYS:
        rows = "".join(f"| `{key}` | {text} |\n" for key, text in module.KEYS.items())
        parts.append(f"| JSON key | |\n|---|---|\n{rows}")
    parts.append(f"```\n{module.EXAMPLES.strip()}\n```\n")
    return "\n".join(parts)


def _usage(parameter: Any) -> str:
    word: str = parameter.metavar + ("..." if parameter.nargs == -1 else "")
    return word if parameter.required else f"[{word}]"


def _table(parameters: list[Any]) -> str:
    lines = ["| | |", "|---|---|"]
    for parameter in parameters:
        names = ", ".join(f"`{name}`" for name in parameter.opts)
        if parameter.param_type_name == "argument":
            names = f"`{parameter.metavar}`"
        elif not parameter.is_flag:
            value = parameter.metavar or "|".join(getattr(parameter.type, "choices", ()))
            names += f" `{value}`".replace("|", "\\|")
        text = parameter.help + (f" Environment: `{parameter.envvar}`." if parameter.envvar else "")
        if isinstance(parameter.default, str | int) and parameter.default:
            text += f" Default: `{parameter.default}`."
        lines.append(f"| {names} | {text} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write both documents into ./docs."""
    with open("docs/exit-codes.md", "w", encoding="utf-8") as file:
        file.write(exit_codes())
    with open("docs/cli.md", "r+", encoding="utf-8") as file:
        head = file.read().partition(MARK)[0]
        file.seek(0)
        file.write(head + MARK + "\n" + commands())
        file.truncate()


if __name__ == "__main__":
    main()
