"""Whether an inventory and its copy in Turso tell the same story: the ends of the audit's chain are compared."""

from __future__ import annotations

from drkit.inventory.audit import MEND
from drkit.inventory.inventory import Inventory
from drkit.inventory.turso import Turso
from drkit.model import Finding

_PRESENT = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'audit'"
_END = "SELECT id, hash FROM audit WHERE inventory = ? ORDER BY id DESC LIMIT 1"
_LINK = "SELECT hash FROM audit WHERE inventory = ? AND id = ?"


def compare_chains(inventory: Inventory, turso: Turso) -> list[Finding]:
    """Ask Turso for the last link that it has of this inventory's chain, and look for it here.

    A chain that was cut off here, or written anew, shows only so. StoreError if Turso cannot be reached or refuses.
    """
    findings = []
    if turso.transaction([(_PRESENT, ())])[0][0][0]:
        for row_id, told in turso.transaction([(_END, (inventory.id,))])[0]:
            here = inventory.engine.execute(_LINK, (inventory.id, row_id))
            if not here:
                message = f"Turso has links of the audit up to {row_id} that are missing here"
                findings.append(Finding("audit-cut", turso.name, message, "drkit inventory pull"))
            elif here[0][0] != told:
                message = f"the audit's link {row_id} is another one in Turso than here"
                findings.append(Finding("audit-changed", turso.name, message, MEND))
    waiting = len(inventory.outbox_pending("pushed"))
    if waiting:
        message = f"{waiting} transactions have not been sent to Turso"
        findings.append(Finding("turso-behind", turso.name, message, "drkit inventory push"))
    return findings
