"""Say what opens an encrypted repository: passphrases, key files, sheets of paper.

Each has a slot of its own, which holds the repository's keys. DRKIT_PASSWORD, DRKIT_PASSWORD_FILE,
DRKIT_PASSWORD_COMMAND or DRKIT_KEY_FILE give the secret of one that is there; at a terminal it is asked for.
"""

COMMANDS = {
    "list": "drkit.cli.commands.key.list",
    "add": "drkit.cli.commands.key.add",
    "remove": "drkit.cli.commands.key.remove",
    "rotate": "drkit.cli.commands.key.rotate",
    "export": "drkit.cli.commands.key.export",
}
