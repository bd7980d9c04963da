"""Repair: heal a repository from good copies, set aside what is bad, and name exactly what is lost."""

from drkit.repair.repair import repair
from drkit.repair.report import Healed, RepairReport

__all__ = ["Healed", "RepairReport", "repair"]
