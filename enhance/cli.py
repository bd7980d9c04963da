"""Improve plugins with a generator, each edit proved restorable before it is made.

A run chooses plugins, has a generator plan and write, validates, applies through the guard, and reports what really
changed. Every run can be rolled back.
"""

COMMANDS = {
    "run": "enhance.commands.run",
    "plan": "enhance.commands.plan",
    "validate": "enhance.commands.validate",
    "rollback": "enhance.commands.rollback",
    "status": "enhance.commands.status",
    "watch": "enhance.commands.watch",
    "report": "enhance.commands.report",
    "quota": "enhance.commands.quota",
}
"""The words after `drkit enhance`, as drkit.cli.app has them."""
