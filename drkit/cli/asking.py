"""Asking whoever sits at the terminal for a passphrase: it is not shown, and never comes from a pipe."""

from __future__ import annotations

import sys

from drkit.errors import UsageError


def at_terminal() -> bool:
    """Whether somebody can be asked."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def passphrase() -> str:
    """Ask for the passphrase of a repository."""
    from getpass import getpass

    try:
        return getpass("passphrase: ")
    except EOFError:
        return ""


def new_passphrase() -> str:
    """Ask for a new passphrase, twice. UsageError if it is empty, or not the same both times."""
    from getpass import getpass

    try:
        first = getpass("new passphrase: ")
        again = getpass("again: ")
    except EOFError:
        first = again = ""
    if not first or first != again:
        raise UsageError("the passphrase is empty, or was not typed twice alike", hint="run the command again")
    return first
