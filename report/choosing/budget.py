"""The choice of a deployment by the limits that the user gives: a time, a quality, or both."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fewstep.measure.cost import max_branches
from fewstep.measure.rollouts.nearness import LEAST_PSNR, LEAST_SNR
from fewstep.plans.any_plan import shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.report.choosing.saved_choice import Deployment, SavedChoice, describe_deployment
from fewstep.runtime.bundle.reading import Bundle


@dataclass(frozen=True)
class Budget:
    """The limits of a choice as they were given, and as numbers: milliseconds of a call, dB of its samples. None means
    no limit."""

    within: str | None
    at_least: str | None
    milliseconds: float | None
    decibels: float | None


def choose_by_budget(
    bundle: Bundle, budget: Budget, batch: int, plan: Plan, on_front: Sequence[Deployment]
) -> SavedChoice:
    """Return the best deployment within the time, or the fastest one of the requested quality. Its quality is at least
    the minimum quality, unless the user requested less."""
    within = np.inf if budget.milliseconds is None else budget.milliseconds
    least, floor = budget.decibels, f"{LEAST_PSNR:g}dB in PSNR or signal to error, and {LEAST_SNR:g}dB in the latter"
    asked = " and ".join(
        [f"within {budget.within}"] * (budget.within is not None)
        + [f"at least {budget.at_least or floor}"] * (budget.at_least is not None or within < np.inf)
    )
    good = [row for row in on_front if (row.quality.nearness.is_enough if least is None else row.psnr >= least)]
    kept = [row for row in good if row.milliseconds <= within]
    if not kept:
        nearest = (
            f"the fastest of this quality is {describe_deployment(good[0])}"
            if good
            else f"the best quality is {describe_deployment(on_front[-1])}"
        )
        fix = "relax the limits (as --at-least 15dB), or try more plans (--plan)"
        raise UserError(f"no deployment samples {bundle.path} {asked}: {nearest}", fix)
    winner = kept[0] if budget.within is None else kept[-1]
    family = tuple(
        row.plan
        for row in reversed(on_front)
        if (row.body, row.engine.backend) == (winner.body, winner.engine.backend)
        and row.milliseconds <= winner.milliseconds
    )
    day = time.strftime("%Y-%m-%d")
    rows_of_x = batch * max_branches(plan)
    return SavedChoice(bundle.manifest.name, asked, day, rows_of_x, plan.guidance, shaping_of(plan), winner, family)
