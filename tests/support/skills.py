"""Plugins made of a few texts, in memory and on the disk, and what the rules say of them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from enhance.model import Finding, Plugin
from enhance.validators import check_plugin

DESCRIPTION = "Formats SQL files in place with one style. Use when a query is hard to read."
BODY = (
    "\n# Formatting SQL\n\nRun the formatter over one file at a time, look at the difference, and keep it only if the\n"
    "query plan stays the same. Files that are generated are left as they are, for they would be written anew.\n"
)


def skill(name: str = "sql-format", description: str = DESCRIPTION, more: str = "", body: str = BODY) -> bytes:
    """Return a SKILL.md that breaks no rule of the profile `portable`, unless it is told otherwise."""
    return f"---\nname: {name}\ndescription: {description}\n{more}---\n{body}".encode()


MANIFEST = b'{"name": "sql", "version": "1.0.0", "description": "SQL tools", "author": {"name": "A"}}'
GOOD: dict[bytes, bytes] = {
    b".claude-plugin/plugin.json": MANIFEST,
    b"README.md": b"# SQL\n\nTools for SQL.\n",
    b"commands/format.md": b"---\ndescription: Format a file\n---\nFormat $1.\n",
    b"skills/sql-format/SKILL.md": skill(),
}


def plugin_of(files: Collection[bytes], path: bytes = b"plugins/sql", name: str = "sql") -> Plugin:
    return Plugin(path, name, "plugins", {}, tuple(sorted(files)))


def check(
    changes: Mapping[bytes, bytes | None], profile: str = "portable", proposed: Collection[bytes] = ()
) -> list[Finding]:
    """Return the findings of the good plugin with some files changed; None takes a file away."""
    files = {path: data for path, data in {**GOOD, **changes}.items() if data is not None}
    return check_plugin(files, plugin_of(files), profile, proposed=frozenset(proposed))


def rules(found: Collection[Finding]) -> list[str]:
    return sorted({one.rule for one in found})


def check_skill(data: bytes, profile: str = "portable", **changes: bytes) -> list[Finding]:
    return check(
        {b"skills/sql-format/SKILL.md": data, **{key.encode(): value for key, value in changes.items()}}, profile
    )


def write_tree(top: Path, files: Mapping[bytes, bytes]) -> bytes:
    """Write files below a directory, which is made; return its path."""
    root = os.fsencode(top)
    os.makedirs(root, exist_ok=True)
    for path, data in files.items():
        full = root + b"/" + path
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as file:
            file.write(data)
    return root


def read_tree(root: bytes) -> dict[bytes, bytes]:
    """Return all files below a directory by their relative paths."""
    found = {}
    for where, _, names in os.walk(root):
        for name in names:
            full = os.path.join(where, name)
            with open(full, "rb") as file:
                found[full[len(root) + 1 :]] = file.read()
    return found
