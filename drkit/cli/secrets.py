"""The secrets that a command makes slots for: what the user chooses now, not what opens the repository."""

from __future__ import annotations

from drkit.cli.asking import at_terminal, new_passphrase
from drkit.errors import UsageError
from drkit.seal import KeySource, Secret
from drkit.seal.secret import new_key, write_key_file

NEW = "DRKIT_NEW_"
"""How the variables of a new passphrase begin: DRKIT_NEW_PASSWORD, DRKIT_NEW_PASSWORD_FILE and so on."""


def chosen(key_file: str, *, prefix: str = NEW) -> Secret:
    """Return the new key of a file that is made here, or the passphrase that `prefix` or the user gives.

    UsageError if there is neither, or if the file is there already.
    """
    if key_file:
        secret = new_key()
        write_key_file(key_file, secret)
        return secret
    for secret in KeySource(prefix=prefix).secrets():
        if secret.kind == "passphrase":
            return secret
    if at_terminal():
        return Secret("passphrase", new_passphrase().encode(errors="surrogateescape"))
    raise UsageError(
        "there is no new passphrase", hint=f"set {prefix}PASSWORD_FILE or {prefix}PASSWORD, or give --key-file FILE"
    )
