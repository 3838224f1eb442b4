"""Feature caching at equal cost: plans with light steps next to plans of full steps, on trained denoisers.

    python -m benchmarks.caching                     # writes lab/measured/caching.md: four hours of two cores
    python -m benchmarks.caching --model cifar10 --seeds 8

Quality is the PSNR of float32 samples to those of a plan of many full steps, without guidance. The cost of a plan is
its multiply-adds in evaluations of the full network. A second table has the number of full steps that takes as long, of
EQUAL_TIME. Seeds are measured in blocks, after each of which the page is written. What was measured is kept in --work.
"""

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks import options
from benchmarks.distance_to_data import mean_and_error
from benchmarks.markdown import put_part, table
from benchmarks.result_store import digest, load_or_compute
from benchmarks.shipped_models_page import WIDTH
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.seeds import held_out_conditions
from fewstep.plans.plan import LIGHT, Plan
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler
from zoo.members import BY_NAME, SHIPPED

PAGE = Path(__file__).parent.parent / "lab/measured/caching.md"
SCRIPT = "benchmarks.caching"
MODELS = {each.name: each for each in (*SHIPPED, BY_NAME["cifar10_dit"])}
CUTS = {"fashion_mnist": "depth1", "cifar10": "depth1", "cifar10_dit": "F1B0"}
TEACHER = "dpmpp_2m:100"
EVALUATIONS = (10, 20, 50)
LIGHT_STEPS = (
    "every",
    "every(linear=True)",
    "every(interval=3)",
    "every(interval=3, first=2, linear=True)",
    "every(interval=5, first=2, linear=True)",
)
SOLVERS = ("dpmpp_2m", "unipc_2", "ipndm", "deis_log_rho_3")
OF_ALL_SOLVERS = "every(linear=True)"  # light steps of plans by each solver; others are of the first one
EQUAL_TIME = {  # full steps in the time of some steps with every second one light, by caching_times.py
    "cifar10_dit": {10: 6, 20: 12, 50: 29},
    "cifar10": {10: 6, 20: 12, 50: 31},
}
BLOCK = 4  # seeds
HEAD = ("PSNR, dB", "best full plan of that cost", "PSNR, dB", "difference")  # after the plan and its cost


@dataclass(frozen=True)
class Case:
    """A denoiser with a light network, and the folder of its measurements."""

    name: str
    sampler: Sampler
    folder: Path

    def cost(self, plan: Plan) -> float:
        """The multiply-adds of a plan, in evaluations of the full network."""
        features = self.sampler.bundle.manifest.features
        assert features is not None
        return sum(features.share if step.network == LIGHT else 1.0 for step in plan.steps)

    def psnr(self, plan: str, seeds: Sequence[int]) -> NDArray[np.float64]:
        """PSNR in dB to the teacher's samples, [seeds]."""
        own, teacher = self._samples(plan, seeds), self._samples(TEACHER, seeds)
        return psnr(own, teacher)

    def _samples(self, plan: str, seeds: Sequence[int]) -> NDArray[np.float32]:
        manifest = self.sampler.bundle.manifest
        key = digest(self.sampler.bundle.manifest.files, plan, seeds)
        find = partial(self._sample, plan, seeds)
        values = load_or_compute(self.folder, list[float], find, key)
        return np.array(values, np.float32).reshape(len(seeds), *manifest.x_shape)

    def _sample(self, plan: str, seeds: Sequence[int]) -> list[float]:
        conditions = held_out_conditions(self.sampler.bundle.manifest, seeds)
        made: list[float] = self.sampler.sample(plan, seeds, conditions).astype(np.float64).ravel().tolist()
        return made


class Row(msgspec.Struct, frozen=True):
    """A plan with light steps, and the best plan of full steps of that cost.

    gain: the mean difference of their PSNR in dB, and its standard error.
    """

    model: str
    plan: str
    cost: float
    psnr: float
    other: str
    other_psnr: float
    gain: tuple[float, float]
    seeds: int


def export_cut(name: str, work: Path) -> Path:
    """Return the bundle of a denoiser with its cut, which is exported unless it is in the folder."""
    bundle = work / "bundles" / f"{name}-{CUTS[name]}"
    if not (bundle / "manifest.json").exists():
        export(ExportOptions(MODELS[name].source, bundle, verify="quick", cache=CUTS[name]))
    return bundle


def open_case(name: str, work: Path) -> Case:
    """Open a denoiser with its cut."""
    return Case(name, load(export_cut(name, work), backend=OnnxRuntime(threads=1)), work / name)


def full_plans_of(case: Case, cost: float) -> list[str]:
    """Return the plans of full steps with as many evaluations as the cost allows."""
    return [f"{solver}:{int(cost + 1e-6)}" for solver in SOLVERS]


def plans_of(case: Case) -> dict[str, float]:
    """The plans with light steps, with their costs."""
    kinds = [(SOLVERS[0], light) for light in LIGHT_STEPS] + [(solver, OF_ALL_SOLVERS) for solver in SOLVERS[1:]]
    names = [f"{solver}:{count}+{light}" for count in EVALUATIONS for solver, light in kinds]
    return {name: case.cost(case.sampler.compile(name)) for name in names}


def measure_block(case: Case, seeds: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """Measure the PSNR [seeds] of each plan of a case, and of the same plans without light steps."""
    plans = plans_of(case)
    names = [*plans, *(other for cost in plans.values() for other in full_plans_of(case, cost))]
    names += [f"dpmpp_2m:{count}" for count in EVALUATIONS]
    names += [f"{solver}:{count}" for count in EQUAL_TIME.get(case.name, {}).values() for solver in SOLVERS]
    return {name: case.psnr(name, seeds) for name in dict.fromkeys(names)}


def rows_of(case: Case, values: dict[str, NDArray[np.float64]]) -> list[Row]:
    """The rows of a case at equal work, from the PSNR [seeds] of each plan."""
    return [compare(case, values, plan, cost) for plan, cost in plans_of(case).items()]


def rows_of_equal_time(case: Case, values: dict[str, NDArray[np.float64]]) -> list[Row]:
    """The rows of a case at equal time; empty if its time was not measured."""
    found = []
    for steps, count in EQUAL_TIME.get(case.name, {}).items():
        found += [compare(case, values, f"{solver}:{steps}+{OF_ALL_SOLVERS}", count) for solver in SOLVERS]
    return found


def compare(case: Case, values: dict[str, NDArray[np.float64]], plan: str, cost: float) -> Row:
    """Return a row: a plan with light steps, and the best plan of full steps of this cost."""
    other = max(full_plans_of(case, cost), key=lambda each: float(values[each].mean()))
    gain = mean_and_error(values[plan] - values[other])
    found = (float(values[plan].mean()), other, float(values[other].mean()))
    return Row(case.name, plan, cost, *found, gain, len(values[plan]))


def part(case: Case, values: dict[str, NDArray[np.float64]]) -> str:
    """The table of a case."""
    features = case.sampler.bundle.manifest.features
    assert features is not None
    rows = rows_of(case, values)
    full = ", ".join(f"`dpmpp_2m:{count}` {values[f'dpmpp_2m:{count}'].mean():.1f} dB" for count in EVALUATIONS)
    about = f"Cut {features.cut}, {features.share:.1%} of the work, {rows[0].seeds} seeds. All steps full: {full}."
    tables = [table(("plan", "cost", *HEAD), lines_of(rows))]
    if at_equal_time := rows_of_equal_time(case, values):
        tables += ["At equal time, in full steps:", table(("plan", "time", *HEAD), lines_of(at_equal_time))]
    return "\n\n".join([textwrap.fill(about, WIDTH, break_on_hyphens=False), *tables])


def lines_of(rows: Sequence[Row]) -> list[list[str]]:
    """The lines of a table."""
    return [
        [
            *(f"`{row.plan}`", f"{row.cost:.1f}", f"{row.psnr:.1f}", f"`{row.other}`", f"{row.other_psnr:.1f}"),
            f"{row.gain[0]:+.1f} ± {row.gain[1]:.1f}",
        ]
        for row in rows
    ]


def main() -> None:
    parser = options.parser_of(__doc__)
    parser.add_argument("--model", action="append", choices=list(MODELS), help="a denoiser (default: all)")
    options.add_seeds(parser, 32)
    options.add_work(parser, "caching")
    arguments = parser.parse_args()
    seeds, cases = options.seeds_of(arguments), [open_case(name, arguments.work) for name in arguments.model or MODELS]
    found: dict[str, list[dict[str, NDArray[np.float64]]]] = {case.name: [] for case in cases}
    for start in range(0, len(seeds), BLOCK):
        for case in cases:
            blocks = found[case.name]
            blocks.append(measure_block(case, list(seeds[start : start + BLOCK])))
            joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
            put_part(PAGE, f"{SCRIPT}, {case.name}", part(case, joined))
            print(f"{case.name}: {min(start + BLOCK, len(seeds))} of {len(seeds)} seeds", file=sys.stderr)


if __name__ == "__main__":
    main()
