"""The inventory: what was backed up, verified, restored, drilled and enhanced, in SQL. All SQL of drkit lives here.

Importing this package imports neither the engine's vendor module nor `drkit.repo`.
"""

from drkit.inventory.enhancements import Enhancements
from drkit.inventory.inventory import Inventory
from drkit.inventory.ledger import Call, Caps, Claim, Denied, Key, Ledger, Moment, Used
from drkit.inventory.records import DrillRecord, EnhancementRecord, ResponseRecord, RunRecord

__all__ = [
    "Call",
    "Caps",
    "Claim",
    "Denied",
    "DrillRecord",
    "EnhancementRecord",
    "Enhancements",
    "Inventory",
    "Key",
    "Ledger",
    "Moment",
    "ResponseRecord",
    "RunRecord",
    "Used",
]
