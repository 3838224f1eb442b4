"""A start that replaces the first evaluations by statistics of the teacher's samples ("teleportation": Wang & Vastola
2024, arXiv 2412.09726)."""

from functools import partial
from itertools import product

import numpy as np

from fewstep.literature.analytic_start import gaussian_start
from fewstep.literature.fits.fit_setting import FitSetting
from fewstep.plans.names.plan_name import PlanName, parse_plan_name
from fewstep.plans.plan import Plan

MOST = 4  # number of steps that a start may save
NOISY = "dpmpp_2m:{}@arctan"  # this grid is dense where a Gaussian start is exact, unlike `trailing`


def fit_plan(setting: FitSetting) -> Plan:
    """Return the best of several plans with more steps, whose first steps are replaced by a start from a Gaussian. They
    use the nominal solver on its own grid, or on `NOISY`.

    Mean and variance of the Gaussian are estimated for each element from the teacher's samples. The authors use the
    covariance of the data, which a plan cannot multiply by.
    """
    samples = np.concatenate([block.required_target for block in setting.blocks]).astype(np.float64)
    mean, variance = samples.mean(axis=0), samples.var(axis=0)

    def saving(named: PlanName, steps: int) -> Plan:
        times = named.grid(setting.schedule, setting.evaluations + steps)[steps:]
        return gaussian_start(setting.compile(named.solver, times, named.text), setting.schedule, mean, variance)

    named = (setting.plan_name, parse_plan_name(NOISY.format(setting.evaluations), setting.denoiser.grid))
    return setting.best(partial(saving, *each) for each in product(named, range(1, MOST + 1)))
