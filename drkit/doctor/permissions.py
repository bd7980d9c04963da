"""Who else may read secrets, and who else may change what drkit believes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from drkit.doctor.report import Diagnosis, Surroundings, word
from drkit.model import show_path


def check_permissions(around: Surroundings) -> Iterator[Diagnosis]:
    """Files that are private may be read by their owner only; others that are trusted may be written by nobody else.

    What is not there is no finding: whoever needs it will say so. Nor is what lies in a directory of the owner's own,
    unless it is a secret: that may be copied, or its directory opened. A secret that somebody else owns is not one.
    """
    for path, mask, code, who in (
        *((path, 0o077, "secret-readable", "read") for path in around.secrets),
        *((path, 0o077, "readable-by-others", "read") for path in around.private),
        *((path, 0o022, "writable-by-others", "change") for path in around.trusted),
    ):
        try:
            found = os.stat(path)
            reachable = os.stat(os.path.dirname(os.path.abspath(path))).st_mode & 0o011 or path in around.secrets
        except OSError:
            continue
        mode = stat.S_IMODE(found.st_mode)
        shown = show_path(path)
        if mode & mask and reachable and stat.S_ISREG(found.st_mode):
            right = "go-rwx" if mask == 0o077 else "go-w"
            yield Diagnosis(code, shown, f"others may {who} it (mode {mode:04o})", f"chmod {right} {word(path)}")
        if path in around.secrets and found.st_uid not in {os.geteuid(), 0}:
            message = f"it belongs to the user {found.st_uid}, who may read and change it"
            yield Diagnosis("secret-of-another", shown, message, f"make it anew as a file of your own: rm {word(path)}")
