"""Verify: prove, to a stated level, that snapshots can be restored. Nothing is changed."""

from drkit.verify.verify import VerifyReport, Witness, verify

__all__ = ["VerifyReport", "Witness", "verify"]
