"""What counting activations costs beside evaluating them: `python benchmarks/large/counting_share.py BUNDLE`.

    python benchmarks/large/counting_share.py BUNDLE [--plan ddim:2] [--trajectories 2]

Prints processor seconds of one evaluation of one sample, and of the histograms of all activations that calibration
watches in it. Conditions are standard normal numbers where the bundle says nothing of them. Both are means over all
evaluations but the first. Seconds of the processor depend little on what else the machine does. The bar is 40 % of the
evaluation; exits with 1 if it is missed.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time

import numpy as np

from fewstep.calibration.calibrate import open_task
from fewstep.calibration.inputs import evaluations
from fewstep.calibration.options import CalibrateOptions
from fewstep.ranges.observe import Counts, open_watched
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.conditions import drawn_range

BAR = 0.4
LEAST = 4  # trajectories that a task has


def measure(bundle: Path, plan: str, trajectories: int) -> tuple[float, float, int]:
    """Processor seconds of an evaluation, and of counting; bytes of the activations that are counted."""
    with tempfile.TemporaryDirectory() as folder:
        options = CalibrateOptions(
            bundle, plan=plan, target=("cpu-x86",), trajectories=LEAST, conditions=drawn(bundle, Path(folder), LEAST)
        )
        task = replace(open_task(options), seeds=range(10**6, 10**6 + trajectories))
    if task.conditions is not None:
        task = replace(task, conditions={name: rows[:trajectories] for name, rows in task.conditions.items()})
    counts = Counts.empty(task.prepared, task.edges, trajectories)
    watched = open_watched(task.prepared, counts.tensors)
    network, counting, size = list[float](), list[float](), 0
    before = process_time()
    for evaluation in evaluations(task, watched, "deployed", batch=1):
        evaluated = process_time()
        network.append((evaluated - before) / len(evaluation.state.step.branches))
        counts.add(evaluation)
        before = process_time()
        counting.append((before - evaluated) / len(evaluation.state.step.branches))
        size = sum(each.nbytes for each in evaluation.tensors.values())
    return float(np.mean(network[1:])), float(np.mean(counting[1:])), size


def drawn(bundle: Path, folder: Path, count: int) -> Path | None:
    """A file of `count` values of the conditions, if there is one whose values nothing tells."""
    conditions = open_bundle(bundle).manifest.conditions
    if all(drawn_range(each) is not None for each in conditions):
        return None
    rng = np.random.default_rng(0)
    values = {each.name: rng.standard_normal((count, *each.shape)).astype(each.dtype) for each in conditions}
    np.savez(folder / "conditions.npz", **values)  # type: ignore[arg-type]
    return folder / "conditions.npz"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--plan", default="ddim:2")
    parser.add_argument("--trajectories", type=int, default=2)
    given = parser.parse_args(arguments)
    network, counting, size = measure(given.bundle, given.plan, given.trajectories)
    share = counting / network
    verdict = "" if share <= BAR else "  MISSED"
    print(f"evaluation of a sample    {network:8.2f} s of the processor")
    print(f"counting its activations  {counting:8.2f} s, {size / 1e6:.0f} MB")
    print(f"share                     {100 * share:8.0f} %, of at most {100 * BAR:.0f} %{verdict}")
    return 1 if share > BAR else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
