"""The doctor verb: look at everything that a recovery will need, and say what mends what is wrong."""

from drkit.doctor.doctor import examine, examine_store
from drkit.doctor.report import Diagnosis, DoctorReport, RuleCheck, Surroundings, Targets
from drkit.doctor.rule import Place

__all__ = [
    "Diagnosis",
    "DoctorReport",
    "Place",
    "RuleCheck",
    "Surroundings",
    "Targets",
    "examine",
    "examine_store",
]
