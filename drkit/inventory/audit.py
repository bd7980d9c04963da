"""The audit's hash chain: one for each inventory, each link made inside the transaction that it tells of."""

from __future__ import annotations

import hashlib
import json

from drkit.inventory.engine import Engine, clean
from drkit.inventory.records import AuditRecord
from drkit.model import Finding

FIRST = "0" * 64
"""What the first link of a chain has as the hash before it."""


def link_hash(inventory: str, row_id: int, at: str, event: str, detail: str, previous: str) -> str:
    """Return the hash of a link: SHA-256 over the JSON list of its other fields."""
    text = json.dumps([inventory, row_id, at, event, detail, previous], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def next_link(engine: Engine, inventory: str, row_id: int, at: str, event: str, detail: str) -> AuditRecord:
    """Return the link that continues an inventory's chain. The caller holds the write lock and inserts it."""
    last = engine.execute("SELECT hash FROM audit WHERE inventory = ? ORDER BY id DESC LIMIT 1", (inventory,))
    previous = last[0][0] if last else FIRST
    event, detail = clean(event), clean(detail)
    return AuditRecord(
        inventory, row_id, at, event, detail, previous, link_hash(inventory, row_id, at, event, detail, previous)
    )


def check_chains(engine: Engine) -> list[Finding]:
    """Return what is wrong with the chains: links that were changed, and gaps where links are missing.

    A chain that lacks its end shows only beside another copy of it: `drkit inventory push` compares with Turso.
    """
    findings = []
    inventory, previous = "", ""
    rows = engine.execute("SELECT inventory, id, at, event, detail, previous, hash FROM audit ORDER BY inventory, id")
    for row in rows:
        link = AuditRecord(*row)
        if link.inventory != inventory:
            inventory, previous = link.inventory, FIRST
        where = f"audit {link.inventory} {link.id}"
        told = link_hash(link.inventory, link.id, link.at, link.event, link.detail, link.previous)
        if told != link.hash:
            findings.append(Finding("audit-changed", where, f"{where}: the row was changed after it was written", MEND))
        elif link.previous != previous:
            findings.append(Finding("audit-gap", where, f"{where}: rows before it are missing or changed", MEND))
        previous = link.hash
    return findings


MEND = "find out who wrote to the inventory; 'drkit inventory rebuild' brings back what the repository holds"
