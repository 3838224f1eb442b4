"""Doctor lists a machine's hardware and packages, and the command for each missing one."""

from fewstep.runtime.doctor.diagnosis import Diagnosis, DoctorOptions, Finding, diagnose

__all__ = ["Diagnosis", "DoctorOptions", "Finding", "diagnose"]
