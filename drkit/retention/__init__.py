"""Which snapshots are kept, and giving back the space of what no snapshot needs: plan first, then execute."""

from drkit.retention.forget import ForgetReport, forget
from drkit.retention.plan import Limits
from drkit.retention.policy import DEFAULT, Policy
from drkit.retention.prune import PruneOptions, PruneReport, prune

__all__ = ["DEFAULT", "ForgetReport", "Limits", "Policy", "PruneOptions", "PruneReport", "forget", "prune"]
