"""`fewstep calibrate`: say what became int8."""

from fewstep.calibration.calibrate import CalibrateOptions, calibrate
from fewstep.runtime.progress import Progress


def verb(options: CalibrateOptions, progress: Progress) -> None:
    calibration = calibrate(options, progress)
    for name, lowered in calibration.lowered.items():
        coverage = lowered.coverage
        print(
            f"{options.bundle}: {name}, {len(coverage.int8_ops)} of "
            f"{len(coverage.int8_ops) + len(coverage.float_ops)} weighted operations and "
            f"{100 * coverage.int8_macs / coverage.total_macs:.1f} % of MACs in int8, "
            f"{len(lowered.groups) + 1} groups of ranges along {calibration.plan.name}"
        )
        for note in lowered.notes:
            print(f"  {note}")
