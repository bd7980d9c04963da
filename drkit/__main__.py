"""`python -m drkit` is `drkit`."""

from __future__ import annotations

import sys

from drkit.cli.main import main

sys.exit(main())
