"""Random plans: any solver along any grid, with any guidance and shaping that it supports."""

from collections.abc import Iterator

import numpy as np

from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Cfg, CfgPlusPlus
from fewstep.plans.names.grid_name import GRIDS
from fewstep.plans.names.plan_name import SOLVERS
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Clip, Rescale, Threshold
from fewstep.plans.spec import DenoiserFacts

GUIDANCE = [None, 2.0, Cfg(3.0, interval=(-1.0, 1.0)), CfgPlusPlus(0.6)]
SHAPINGS = [None, Clip(-0.5, 0.75), Threshold(0.9), Rescale(0.7)]


def random_plans(facts: DenoiserFacts, seed: int) -> Iterator[Plan]:
    """Yield plans for a denoiser, endlessly. Refused combinations are left out."""
    rng = np.random.default_rng(seed)
    solvers, grids = sorted(SOLVERS.own_functions()), sorted(GRIDS.own_functions())
    while True:
        solver, grid, count = rng.choice(solvers), rng.choice(grids), rng.integers(1, 7)
        guidance, shaping = GUIDANCE[rng.integers(len(GUIDANCE))], SHAPINGS[rng.integers(len(SHAPINGS))]
        try:
            plan = compile_plan(f"{solver}:{count}@{grid}", facts, guidance, shaping)
        except UserError:
            continue
        if not plan.given:
            yield plan
