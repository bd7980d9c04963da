"""Copy: bring a second store up to date, object by object, each read back there and hashed."""

from drkit.copy.copy import copy
from drkit.copy.record import record_copy
from drkit.copy.report import CopyReport

__all__ = ["CopyReport", "copy", "record_copy"]
