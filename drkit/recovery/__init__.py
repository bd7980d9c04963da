"""The standalone recovery program and its page, which `drkit init` puts into every repository."""

from __future__ import annotations


def files() -> dict[str, bytes]:
    """Return the objects that make a repository readable without drkit: their names at its root, their bytes."""
    from importlib import resources

    here = resources.files(__name__)
    return {name: here.joinpath(name).read_bytes() for name in ("RECOVER.md", "recover.py")}
