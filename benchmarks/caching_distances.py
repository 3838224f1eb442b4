"""FD to the data of plans with light steps, next to full plans of equal work and of equal time, on CIFAR-10.

    python -m benchmarks.caching_distances --data package --work FOLDER

It writes two tables of lab/measured/caching.md, in about an hour of one core.
Samples are those of solver_distances.py: without guidance, of the body in bfloat16, from seed 10 000 on. All plans run
in the bundle with the light network. Features of samples are kept in --work, so an interrupted call continues.
"""

import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks import options
from benchmarks.caching import EQUAL_TIME, OF_ALL_SOLVERS, PAGE, SCRIPT, export_cut
from benchmarks.distance_to_data import jackknife_distances, mean_and_error
from benchmarks.markdown import put_part, table
from benchmarks.result_store import digest
from benchmarks.shipped_models_page import WIDTH
from benchmarks.solver_distances import BLOCK, EXTRACTOR, SHAPE, Judge, real_features
from benchmarks.solver_page import Cell
from fewstep.measure.distances.features import open_extractor
from fewstep.measure.rollouts.metrics import Floats
from fewstep.models.cifar10 import data
from fewstep.plans.plan import LIGHT
from zoo.members import BY_NAME, SHIPPED

MEMBERS = {each.name: each for each in (BY_NAME["cifar10_dit"], *SHIPPED) if each.name.startswith("cifar10")}
SOLVERS = ("dpmpp_2m", "unipc_2", "ipndm")  # of full plans
LIGHT_PLANS = (("dpmpp_2m", "every"), ("dpmpp_2m", OF_ALL_SOLVERS), ("unipc_2", OF_ALL_SOLVERS))
STEPS = (20, 50)
EQUAL_WORK = {"cifar10_dit": {20: 11, 50: 28}, "cifar10": {20: 11, 50: 29}}  # full steps, as EQUAL_TIME


@dataclass
class CachedJudge(Judge):
    """The judge of a bundle with a light network."""

    @cached_property
    def bundle(self) -> Path:
        return export_cut(self.member.name, self.work)

    def digest(self, cell: Cell) -> str:
        """Return a hash of all that determines the features of a cell, also of the light network."""
        manifest = self.sampler(cell.body).bundle.manifest
        return digest(super().digest(cell), manifest.files[manifest.networks[LIGHT].bodies["float32"].graph.file])


def equal_plans(model: str, steps: int) -> dict[str, int]:
    """The numbers of full steps of the work and of the time of a plan with every second step light."""
    return {"work": EQUAL_WORK[model][steps], "time": EQUAL_TIME[model][steps]}


def plans_of(model: str, steps: int) -> list[str]:
    """The plans that the rows of some steps need."""
    light = [f"{solver}:{steps}+{kind}" for solver, kind in LIGHT_PLANS]
    others = [f"{solver}:{count}" for count in equal_plans(model, steps).values() for solver in SOLVERS]
    return [*light, f"{SOLVERS[0]}:{steps}", *others]


def lines_of(model: str, values: Mapping[str, Floats]) -> Iterator[list[str]]:
    """The lines of a denoiser's table, from the pseudo-values of FD of each plan. What was not measured has none."""
    for steps, (solver, kind) in product(STEPS, LIGHT_PLANS):
        plan, full = f"{solver}:{steps}+{kind}", f"{SOLVERS[0]}:{steps}"
        for same, count in equal_plans(model, steps).items():
            others = [f"{other}:{count}" for other in SOLVERS]
            if {plan, full, *others} <= values.keys():
                differences = [difference(values, plan, other) for other in others]
                yield [
                    *(f"`{plan}`", of(values[plan]), difference(values, plan, full)),
                    *(f"{count}, equal {same}", *differences),
                ]


def difference(values: Mapping[str, Floats], plan: str, other: str) -> str:
    """The difference of FD of two plans with its error, as text."""
    return of(values[plan] - values[other], "+")


def of(values: Floats, sign: str = "") -> str:
    """The mean of pseudo-values with its error, as text."""
    mean, error = mean_and_error(values)
    return f"{mean:{sign}.1f} ± {error:.1f}"


def part(model: str, values: Mapping[str, Floats], samples: int) -> str:
    """The table of a denoiser, with the FD of full plans above."""
    measured = [plan for plan in (f"{SOLVERS[0]}:{steps}" for steps in STEPS) if plan in values]
    full = ", ".join(f"`{plan}` {of(values[plan])}" for plan in measured)
    head = ["plan", "FD", "to all steps full", "full steps", *(f"to `{solver}`" for solver in SOLVERS)]
    about = f"`{model}`, {samples} samples. All steps full: {full}."
    return f"{textwrap.fill(about, WIDTH, break_on_hyphens=False)}\n\n{table(head, [*lines_of(model, values)])}"


def main() -> None:
    parser = options.parser_of(__doc__)
    parser.add_argument("--data", type=Path, help=f"folder of the npm package: {data.HOW_TO_GET}")
    parser.add_argument("--model", action="append", choices=list(MEMBERS), help="a denoiser (default: all)")
    parser.add_argument("--seeds", type=options.positive, default=256, help="seeds of each plan (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of a call; 0 for all cores")
    options.add_work(parser, "caching")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    extractor = open_extractor(EXTRACTOR, SHAPE, given.threads)
    assert extractor is not None
    with options.refusing(parser):
        real = real_features(extractor, given.data, given.work)
    judges = {name: CachedJudge(MEMBERS[name], given.work, extractor, given.threads) for name in given.model or MEMBERS}
    found: dict[str, dict[str, Floats]] = {name: {} for name in judges}
    for blocks, steps, model in product(range(1, -(-given.seeds // BLOCK) + 1), STEPS, judges):
        for plan in plans_of(model, steps):
            cell = Cell(model, "bfloat16", 1.0, plan)
            parts = [judges[model].features(cell, block) for block in range(blocks)]
            found[model][plan] = jackknife_distances(np.concatenate(parts), real)
            print(f"{model} {plan}: {of(found[model][plan])}", file=sys.stderr, flush=True)
        if blocks == 1 or steps == STEPS[-1]:  # a table is of equal seeds
            put_part(PAGE, f"{SCRIPT}_distances, {model}", part(model, found[model], blocks * BLOCK))


if __name__ == "__main__":
    main()
