"""The guard: no edit without proof that what it changes can be brought back. See docs/guard.md."""

from drkit.guard.compare import Difference, differences, in_use_paths
from drkit.guard.lock import TreeLock, Waiting
from drkit.guard.permit import Change, EditPermit, StagedPlugin, Validator
from drkit.guard.protect import protect
from drkit.guard.recover import Recovered, recover
from drkit.guard.site import Elsewhere, Policy, Site
from drkit.guard.snapshot import find_snapshot, take_snapshot

__all__ = [
    "Change",
    "Difference",
    "EditPermit",
    "Elsewhere",
    "Policy",
    "Recovered",
    "Site",
    "StagedPlugin",
    "TreeLock",
    "Validator",
    "Waiting",
    "differences",
    "find_snapshot",
    "in_use_paths",
    "protect",
    "recover",
    "take_snapshot",
]
