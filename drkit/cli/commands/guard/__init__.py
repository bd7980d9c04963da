"""Let nothing change a source without the proof that it can be put back.

Each of these commands, as every drkit command that works on a source, first puts back what an interrupted one left.
docs/guard.md says what is locked, compared and put back.
"""

COMMANDS = {
    "exec": "drkit.cli.commands.guard.exec",
    "check": "drkit.cli.commands.guard.check",
    "recover": "drkit.cli.commands.guard.recover",
}
