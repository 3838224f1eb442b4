"""A small network for high noise in front of the shipped one: distance to the teacher and cost at several switches.

    python benchmarks/experts/measure.py --work FOLDER [--seeds 32] [--rounds 5] [--precision int8 --small 0 2 3]

The bundle is exported once, and its switch moved. In int8 each plan and switch has a copy, calibrated along that plan;
the teacher is the float32 one. MACs are of the networks' convolutions and products in a run of one
sample. Processor time is of runs in separate processes that take turns, as a share of the large network's alone.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import ExportOptions, export
from fewstep.graph import io
from fewstep.graph.commit import open_for_update
from fewstep.lowering.coverage import macs
from fewstep.rollouts.metrics import psnr
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler

SOURCE = Path(__file__).with_name("small.py")
TEACHER, PLAN, GUIDANCE = "dpmpp_2m:40@arctan", "dpmpp_2m", 2.0
ALONE = -1e6  # a switch below every step of these plans: the large network runs all of them
HIGHEST = 0.33  # lambda up to which the small network was trained
BATCH, CLASSES = 8, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each process that is timed")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 6, 8])
    parser.add_argument("--small", type=int, nargs="+", help="steps by the small network; default: each number")
    parser.add_argument("--precision", choices=("float32", "int8"), default="float32")
    parser.add_argument("--timed", help=argparse.SUPPRESS)
    given = parser.parse_args()
    bundle, precision = given.work / "bundle", given.precision
    if given.timed is not None:
        plan, _, until = given.timed.partition("@")
        print(json.dumps(processor_seconds(bundle, plan, float(until), precision)))
        return
    if not bundle.exists():
        export(ExportOptions("fashion_mnist", bundle, verify="quick", expert=(f"small={SOURCE}:make@0",)))
    costs = {name: sum(macs(body_of(bundle, name)).values()) for name in ("small", "denoiser")}
    print({name: f"{cost / 1e6:.1f} million MACs" for name, cost in costs.items()}, flush=True)
    lessons = given.work / f"teacher-{given.seeds}.npy"
    if not lessons.exists():
        np.save(lessons, samples(opened(bundle, ALONE), TEACHER, given.seeds))
    teacher = np.load(lessons)
    unit = ("dpmpp_2m:8", ALONE)
    for steps in given.steps:
        plan = f"{PLAN}:{steps}"
        lams = [step.lam for step in opened(bundle, ALONE).compile(plan, GUIDANCE).steps]
        ends = [ALONE, *((a + b) / 2 for a, b in pairwise(lams) if (a + b) / 2 < HIGHEST)]
        for until in ends:
            runs = [step.network for step in opened(bundle, until).compile(plan, GUIDANCE).steps]
            if given.small is not None and runs.count("small") not in given.small:
                continue
            sampler = deployed(bundle, plan, until, precision)
            own = psnr(samples(sampler, plan, given.seeds), teacher)
            seconds = in_turns(given.work, unit, (plan, until), given.rounds, precision)
            share = sum(costs[name] for name in runs) / (8 * costs["denoiser"])
            print(
                f"{plan}, {runs.count('small')} steps by the small network (lambda < {until:.2f}): "
                f"{own.mean():.2f} dB, p5 {np.percentile(own, 5):.2f}, error {own.std(ddof=1) / len(own) ** 0.5:.2f}; "
                f"{share:.3f} of the MACs, {seconds:.3f} of the time",
                flush=True,
            )


def body_of(bundle: Path, network: str):  # type: ignore[no-untyped-def]
    own = open_bundle(bundle).network(network)
    return io.load(own.graph(own.body("float32").graph), root=bundle)


def opened(bundle: Path, until: float) -> Sampler:
    """The bundle with its switch at a lambda."""
    with open_for_update(bundle, must_exist=True) as writer:
        assert writer.manifest is not None
        entry = msgspec.structs.replace(writer.manifest.networks["small"], until=until)
        writer.commit(msgspec.structs.replace(writer.manifest, networks={"small": entry}))
    return load(bundle, backend=OnnxRuntime(threads=1))


def deployed(bundle: Path, plan: str, until: float, precision: str) -> Sampler:
    """The bundle with its switch at a lambda; in int8 a copy that is calibrated along the plan."""
    if precision == "float32":
        return opened(bundle, until)
    own = bundle.with_name(f"int8-{plan.replace(':', '-')}-{until:.2f}")
    if not own.exists():
        opened(bundle, until)
        shutil.copytree(bundle, part := own.with_name("part"), dirs_exist_ok=True)
        if until == ALONE:
            with open_for_update(part, must_exist=True) as writer:
                assert writer.manifest is not None
                writer.commit(msgspec.structs.replace(writer.manifest, networks={}))
        calibrate(CalibrateOptions(part, plan, guidance=GUIDANCE, target=("cpu-x86",)))
        part.rename(own)
    return load(own, "int8", backend=OnnxRuntime(threads=1))


def samples(sampler: Sampler, plan: str, seeds: int) -> np.ndarray:
    """Held-out samples [seeds, 1, 28, 28]; classes take turns."""
    parts = [range(start, min(start + BATCH, seeds)) for start in range(0, seeds, BATCH)]
    drawn = [sampler.sample(plan, part, {"class": [seed % CLASSES for seed in part]}, GUIDANCE) for part in parts]
    return np.concatenate(drawn)


def processor_seconds(bundle: Path, plan: str, until: float, precision: str) -> float:
    """Processor time of a run of one sample: the least of five, behind one that allocates."""
    sampler, seconds = deployed(bundle, plan, until, precision), []
    compiled = sampler.compile(plan, GUIDANCE)
    for _ in range(6):
        start = time.process_time()
        sampler.sample(compiled, [0], {"class": [0]}, GUIDANCE)
        seconds.append(time.process_time() - start)
    return min(seconds[1:])


def in_turns(work: Path, unit: tuple[str, float], other: tuple[str, float], rounds: int, precision: str) -> float:
    """The median ratio of processor times, other to unit, of processes that take turns."""
    ratios = []
    for _ in range(rounds if unit != other else 0):
        took = []
        for plan, until in (unit, other):
            command = [sys.executable, __file__, "--work", str(work), f"--timed={plan}@{until!r}"]
            command += ["--precision", precision]
            took.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        ratios.append(took[1] / took[0])
    return median(ratios) if ratios else 1.0


if __name__ == "__main__":
    main()
