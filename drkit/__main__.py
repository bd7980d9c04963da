"""`python -m drkit` is `drkit`."""

from __future__ import annotations

from drkit.cli.main import run

run()
