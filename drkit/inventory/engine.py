"""The inventory's file: what `drkit.libsql` opens, and what a user is told where that fails."""

from __future__ import annotations

from drkit.libsql import File, Value, bound, clean

__all__ = ["Engine", "Value", "bound", "clean"]


class Engine(File):
    """A connection for one thread of one process. Errors are DrkitErrors that name the file."""

    what = "inventory"
    if_damaged = "move it away and run 'drkit inventory rebuild', or 'drkit inventory pull'"
    if_closed = "check its directory and permissions, or name another with --inventory"
    if_unnamed = "give another with --inventory"
