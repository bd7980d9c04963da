"""Verify: prove, to a stated level, that snapshots can be restored. Nothing is changed."""

from drkit.verify.verify import VerifyReport, verify

__all__ = ["VerifyReport", "verify"]
