"""The plan that a fit begins as, where nobody names one: the best of some known ones on a few seeds of the fit."""

from collections.abc import Sequence
from contextlib import suppress
from math import isfinite

import numpy as np

from fewstep.fitting.blocks import Block, qualities
from fewstep.fitting.recurrence import recurrence_of
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.plans.plan import Plan
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler

STARTS = (  # solver, grid: some are far ahead on one denoiser, and none on all (docs/measured/nominal.md)
    ("dpmpp_2m", "ays_svd"),
    ("dpmpp_2m", "arctan"),
    ("dpmpp_2m", "trailing"),
    ("dpmpp_2m", "quadratic"),
    ("gradient_estimation", "trailing"),
    ("gradient_estimation", "quadratic"),
    ("unipc_2", "ays_svd"),
    ("unipc_2", "arctan(centre=2, power=1.5)"),
)


def candidates(sampler: Sampler, steps: int, guidance: Guidance | None) -> tuple[Plan, ...]:
    """The plans of STARTS that this schedule has, with so many evaluations, and that a fit can begin at."""
    found = []
    for solver, grid in STARTS:
        try:
            plan = sampler.compile(f"{solver}:{steps}@{grid}", guidance)
            recurrence_of(plan)
        except UserError:
            continue
        if len(plan.steps) == steps:
            found.append(plan)
    if not found:
        raise UserError("no known plan suits this denoiser", "name one to begin at: --plan SOLVER:STEPS")
    return tuple(found)


def best_start(sampler: Sampler, plans: Sequence[Plan], blocks: Sequence[Block], progress: Progress = SILENT) -> Plan:
    """The plan with the highest mean PSNR on some blocks, of those whose samples are finite. UserError without one."""
    found: list[tuple[float, Plan]] = []
    for tried, plan in enumerate(plans, 1):
        with suppress(UserError), np.errstate(all="ignore"):  # it left the numbers
            found.append((float(qualities(sampler, plan, blocks).mean()), plan))
        progress("nominal plans", tried, len(plans))
    finite = [known for known in found if isfinite(known[0])]
    if not finite:
        what = f"no sample of {', '.join(plan.name for plan in plans)} is finite"
        raise UserError(what, "name another plan to begin at: --plan SOLVER:STEPS@GRID")
    return max(finite, key=lambda known: known[0])[1]
