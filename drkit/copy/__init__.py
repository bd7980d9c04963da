"""Copy: bring a second store up to date, object by object, each read back there and hashed."""

from drkit.copy.copy import CopyReport, copy

__all__ = ["CopyReport", "copy"]
