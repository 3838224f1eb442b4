"""A small network for high noise in front of the shipped one: distance to the teacher and cost at several switches.

    python -m benchmarks.experts.measure --work FOLDER [--seeds 32] [--precision int8] [--small 0 2 3] [--page]

The bundle is exported once, and its switch moved. In int8 each plan and switch has a copy, calibrated along that plan;
the teacher is the float32 one. MACs are of the networks' convolutions and products in a run of one
sample. Processor time is of runs in separate processes that take turns, as a share of the large network's alone.
`--page` puts the table into docs/measured/experts.md.
"""

import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.markdown import part_of, put_part, table
from benchmarks.options import add_page, add_seeds, parser_of, refuse_other_seeds, seeds_of
from benchmarks.races.turns import Call, in_turns
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.lowering.coverage import macs
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import ExportOptions, export
from fewstep.graph import io
from fewstep.graph.commit import open_for_update
from fewstep.measure.rollouts.metrics import psnr
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler

SOURCE = Path(__file__).with_name("small.py")
TEACHER, PLAN, GUIDANCE = "dpmpp_2m:40@arctan", "dpmpp_2m", 2.0
ALONE = -1e6  # a switch below every step of these plans: the large network runs all of them
HIGHEST = 0.33  # lambda up to which the small network was trained
BATCH, CLASSES = 8, 10
SCRIPT = "benchmarks/experts/measure.py"
PAGE = Path(__file__).parents[2] / "docs/measured/experts.md"
HEAD = ("plan", "steps by the small one", "up to lambda", "dB", "5th percentile", "MACs", "time")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the bundle")
    add_seeds(parser, 32)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each process that is timed")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 6, 8])
    parser.add_argument("--small", type=int, nargs="+", help="steps by the small network; default: each number")
    parser.add_argument("--precision", choices=("float32", "int8"), default="float32")
    add_page(parser, PAGE)
    given = parser.parse_args()
    refuse_other_seeds(parser, given)
    part, rows = f"{SCRIPT}, {given.precision}", []
    if given.page:
        part_of(PAGE.read_text(), part)  # refused before minutes of work
    bundle, precision, seeds = given.work / "bundle", given.precision, seeds_of(given)
    if not bundle.exists():
        export(ExportOptions("fashion_mnist", bundle, verify="quick", expert=(f"small={SOURCE}:make@0",)))
    costs = {name: sum(macs(body_of(bundle, name)).values()) for name in ("small", "denoiser")}
    print({name: f"{cost / 1e6:.1f} million MACs" for name, cost in costs.items()}, flush=True)
    lessons = given.work / f"teacher-{seeds.start}-{len(seeds)}.npy"
    if not lessons.exists():
        np.save(lessons, samples(opened(bundle, ALONE), TEACHER, seeds))
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
            own = psnr(samples(sampler, plan, seeds), teacher)
            pair = {
                name: partial(one_run, bundle, *each, precision)
                for name, each in (("unit", unit), ("own", (plan, until)))
            }
            times = in_turns(pair, given.rounds, 1.0)
            seconds = 1 / times["own"].against(times["unit"])[1]
            share = sum(costs[name] for name in runs) / (8 * costs["denoiser"])
            lam = "–" if until == ALONE else f"{until:.2f}"
            row = (f"`{plan}`", f"{runs.count('small')}", lam, f"{own.mean():.2f}", f"{np.percentile(own, 5):.1f}")
            rows.append((*row, f"{share:.3f}", f"{seconds:.3f}"))
            print(*rows[-1], f"standard error {own.std(ddof=1) / len(own) ** 0.5:.2f} dB", flush=True)
    made = table(HEAD, rows)
    print(made)
    if given.page:
        put_part(PAGE, part, made)


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


def samples(sampler: Sampler, plan: str, seeds: range) -> np.ndarray:
    """Held-out samples [seeds, 1, 28, 28]; classes take turns."""
    parts = [seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)]
    drawn = [sampler.sample(plan, part, {"class": [seed % CLASSES for seed in part]}, GUIDANCE) for part in parts]
    return np.concatenate(drawn)


def one_run(bundle: Path, plan: str, until: float, precision: str) -> Call:
    """A run of one sample."""
    sampler = deployed(bundle, plan, until, precision)
    compiled = sampler.compile(plan, GUIDANCE)
    return lambda: sampler.sample(compiled, [0], {"class": [0]}, GUIDANCE)


if __name__ == "__main__":
    from benchmarks.experts import measure  # by this name the processes of contenders import its functions

    measure.main()
