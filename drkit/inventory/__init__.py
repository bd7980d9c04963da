"""The inventory: what was backed up, verified, restored and drilled, in SQL. All SQL of drkit lives here.

Importing this package imports neither the engine's vendor module nor `drkit.repo`.
"""

from drkit.inventory.inventory import Inventory
from drkit.inventory.records import DrillRecord

__all__ = ["DrillRecord", "Inventory"]
