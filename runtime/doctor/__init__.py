"""What this machine has, what it lacks, and the command that gets it. Needs numpy and msgspec only."""

from fewstep.runtime.doctor.diagnosis import Diagnosis, DoctorOptions, Finding, diagnose

__all__ = ["Diagnosis", "DoctorOptions", "Finding", "diagnose"]
