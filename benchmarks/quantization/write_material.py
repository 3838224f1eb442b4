"""Material of a bundle that is not calibrated yet: BUNDLE PLAN TRAJECTORIES FOLDER."""

import sys
from pathlib import Path

from benchmarks.quantization.material import write_material
from fewstep.calibration.opening import open_task
from fewstep.calibration.options import CalibrateOptions


def main(bundle: Path, plan: str, trajectories: int, folder: Path) -> None:
    task = open_task(CalibrateOptions(bundle, plan, ("cpu-x86",), trajectories))
    write_material(task.sampler, task.plan, task.seeds, folder, {"onnxruntime": task.operations})


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
