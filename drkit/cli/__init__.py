"""The command line: the only part of drkit that prints, sleeps or exits.

What other packages may use for commands of their own is in `__all__`; `recording` and `guarding` are modules.
"""

from drkit.cli.output import Console, count, duration, path_text
from drkit.cli.session import Session

__all__ = ["Console", "Session", "count", "duration", "guarding", "path_text", "recording"]
