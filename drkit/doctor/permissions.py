"""Who else may read secrets, and who else may change what drkit believes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from drkit.doctor.report import Diagnosis, Surroundings, word
from drkit.model import show_path


def check_permissions(around: Surroundings) -> Iterator[Diagnosis]:
    """Files that are private may be read by their owner only; others that are trusted may be written by nobody else.

    What is not there is no finding: whoever needs it will say so. Nor is what lies in a directory of the owner's own.
    """
    for path, mask, code, who in (
        *((path, 0o077, "readable-by-others", "read") for path in around.private),
        *((path, 0o022, "writable-by-others", "change") for path in around.trusted),
    ):
        try:
            mode = stat.S_IMODE(os.stat(path).st_mode)
            reachable = os.stat(os.path.dirname(os.path.abspath(path))).st_mode & 0o011
        except OSError:
            continue
        if mode & mask and reachable:
            shown = show_path(path)
            right = "go-rwx" if mask == 0o077 else "go-w"
            yield Diagnosis(code, shown, f"others may {who} it (mode {mode:04o})", f"chmod {right} {word(path)}")
