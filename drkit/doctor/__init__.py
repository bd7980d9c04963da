"""The doctor verb: look at everything that a recovery will need, and say what mends what is wrong."""

from drkit.doctor.doctor import examine, examine_store
from drkit.doctor.report import Diagnosis, DoctorReport, Surroundings, Targets

__all__ = ["Diagnosis", "DoctorReport", "Surroundings", "Targets", "examine", "examine_store"]
