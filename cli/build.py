"""`fewstep build`: say what was built and what was there."""

from fewstep.calibration.build import BuildOptions, build
from fewstep.runtime.progress import Progress


def verb(options: BuildOptions, progress: Progress) -> None:
    made = build(options, progress)
    files = {engine.device: engine.file for engine in made.manifest.engines if engine.backend == options.backend}
    for device in (*made.built, *made.kept):
        print(f"{options.bundle / files[device]}: {device}{' (up to date)' if device in made.kept else ''}")
