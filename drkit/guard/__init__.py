"""The guard: no edit without proof that what it changes can be brought back. See docs/guard.md."""

from drkit.guard.lock import TreeLock, Waiting
from drkit.guard.site import Policy, Site

__all__ = ["Policy", "Site", "TreeLock", "Waiting"]
