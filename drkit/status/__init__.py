"""The status verb: what is protected, how well it is proved, and how that compares with the targets."""

from drkit.status.metrics import openmetrics
from drkit.status.report import Group, LastDrill, SourceStatus, StatusReport, StoreStatus, Verified
from drkit.status.status import status

__all__ = ["Group", "LastDrill", "SourceStatus", "StatusReport", "StoreStatus", "Verified", "openmetrics", "status"]
