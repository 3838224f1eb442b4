"""Whether counting takes the time that docs/workers.md says: `python benchmarks/large/worker_cost.py BUNDLE`.

    python benchmarks/large/worker_cost.py BUNDLE [--plan ddim:2] [--trajectories 4,8] [--workers 0,1,2]

Each row counts some trajectories with some workers, 0 for the process alone. It has processor seconds of all processes,
those of the model, and what is left for each process. The model is evaluations x (network + counting), both measured
before as counting_share.py does. What is left is what a process does once: it imports, opens the bundle, allocates.
Seconds of the processor depend little on what else the machine does. Linux and macOS only.
"""

import argparse
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from counting_share import LEAST, drawn, measure

from fewstep.calibration.calibrate import open_task
from fewstep.calibration.count import count_activations
from fewstep.calibration.options import CalibrateOptions
from fewstep.workers.opening import opened


def processor() -> float:
    """Seconds of this process and of those of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def counted(bundle: Path, plan: str, trajectories: int, workers: int) -> tuple[float, int]:
    """Processor seconds, and evaluations of one sample."""
    with tempfile.TemporaryDirectory() as folder:
        options = CalibrateOptions(
            bundle,
            plan=plan,
            target=("cpu-x86",),
            trajectories=trajectories,
            conditions=drawn(bundle, Path(folder), trajectories),
        )
        task = open_task(options)
    before = processor()
    with opened(workers, None) as hands:
        count_activations(task, workers=hands)
    return processor() - before, trajectories * sum(len(step.branches) for step in task.plan.steps)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--plan", default="ddim:2")
    parser.add_argument("--trajectories", default="4,8")
    parser.add_argument("--workers", default="0,1,2")
    given = parser.parse_args(arguments)
    network, counting, _ = measure(given.bundle, given.plan, LEAST)
    print(f"network {network:.3f} s, counting {counting:.3f} s")
    print("trajectories workers evaluations processor  model  left for each process")
    for workers in map(int, given.workers.split(",")):
        for trajectories in map(int, given.trajectories.split(",")):
            took, evaluations = counted(given.bundle, given.plan, trajectories, workers)
            model = evaluations * (network + counting)
            left = (took - model) / max(workers, 1)
            print(f"{trajectories:12} {workers:7} {evaluations:11} {took:9.1f} {model:6.1f} {left:8.1f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
