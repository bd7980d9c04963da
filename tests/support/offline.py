"""Materials made of a few texts, and what the offline generator answers to them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from enhance.generators.offline import Offline
from enhance.model import Finding, Material, Plan, Plugin, Proposal
from enhance.validators import check_plugin

COMMAND = """---
description: Find slow queries and propose indexes
shortcut: sq
argument-hint: "[file] --limit N"
---

# Slow Query Finder

You are a database expert. Reads the log of slow queries and proposes indexes for the worst of them.

## When to Use

Use this command when:
- A page takes longer than a second to load
- The log of slow queries is growing
- An index is suspected to be missing

## Process

1. Read `slow.log` and group its queries by shape
2. Run EXPLAIN on the worst ten
3. Propose one index for each full scan

```sql
CREATE INDEX orders_customer ON orders (customer_id);
```

## Output Format

| Query | Time | Index |
|-------|------|-------|
| SELECT … FROM orders | 2.1 s | orders_customer |

## Error Handling

- **No log**: ask where the database writes it
- **No EXPLAIN privilege**: report the shapes without plans
"""
README = """# Slow Queries Plugin

[![build](https://img.shields.io/badge/build-passing-green)](https://example.com)

Finds slow queries in a PostgreSQL log.

## Installation

```bash
/plugin install slow-queries@some-marketplace
```

## Requirements

- PostgreSQL 14 or later with `log_min_duration_statement` set

## License

MIT
"""
TEXTS = {"commands/slow-queries.md": COMMAND, "README.md": README}


def material(
    texts: Mapping[str, str], *, name: str = "slow-queries", profile: str = "marketplace", **manifest: Any
) -> Material:
    """Return the material of a plugin with these texts; `manifest` holds further keys of its manifest."""
    files = {path.encode("utf-8", "surrogateescape"): text for path, text in texts.items()}
    sizes = {path: len(text.encode("utf-8", "replace")) for path, text in files.items()}
    digest = hashlib.sha256(repr(sorted(files.items())).encode("utf-8", "replace")).hexdigest()
    plugin = Plugin(b"plugins/x", name, "databases", {"name": name, **manifest}, tuple(sorted(files)))
    return Material(plugin, profile, files, sizes, digest, thin=False)


def plan(found: Material) -> Plan:
    generator = Offline()
    return generator.read_plan(generator.send(generator.plan_request(found), found, timeout_s=1), found)


def propose(found: Material) -> tuple[Plan, Proposal]:
    """Return what is planned, and the proposal, empty if nothing is."""
    generator = Offline()
    planned = plan(found)
    if not planned.skills:
        return planned, Proposal({})
    reply = generator.send(generator.generate_request(found, planned), found, timeout_s=1)
    return planned, generator.read_proposal(reply, found, planned)


def skill(found: Material) -> str:
    """Return the text of the one skill that the material gives."""
    planned, proposal = propose(found)
    (data,) = proposal.files.values()
    assert list(proposal.files) == [f"skills/{planned.skills[0].name}/SKILL.md".encode()]
    return data.decode()


def errors(found: Material, proposal: Proposal) -> list[Finding]:
    """Return what the rules hold against a proposal."""
    present = {path: text.encode("utf-8", "replace") for path, text in found.texts.items()}
    checked = check_plugin({**present, **proposal.files}, found.plugin, found.profile, proposed=list(proposal.files))
    names = [path.decode() for path in proposal.files]
    return [one for one in checked if one.level == "error" and one.path.endswith(tuple(names))]


def by_the_specification(proposal: Proposal, place: Path) -> list[str]:
    """Return what skills-ref says of a proposal, written below a directory."""
    oracle = pytest.importorskip("skills_ref")
    said: list[str] = []
    for path, data in proposal.files.items():
        target = place / path.decode()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        said += oracle.validate(target.parent)
    return said
