"""A start that saves first steps: statistics of the teacher's samples, instead of its first evaluations
("teleportation": Wang & Vastola 2024, arXiv 2412.09726)."""

from functools import partial
from itertools import product

import numpy as np

from fewstep.literature.analytic_start import gaussian_start
from fewstep.literature.fits.fit_setting import FitSetting
from fewstep.plans.names.plan_name import PlanName, parse_plan_name
from fewstep.plans.plan import Plan

MOST = 4  # steps that a start may save
NOISY = "dpmpp_2m:{}@arctan"  # its grid is dense where a start is exact, and `trailing` has no cheap steps there


def fit_plan(setting: FitSetting) -> Plan:
    """The best of plans with more steps, whose first ones a Gaussian start makes: with the nominal solver on its grid,
    or `NOISY`.

    Mean and variance are of each element of the teacher's samples. The authors have the covariance of the data, which
    no plan multiplies by.
    """
    samples = np.concatenate([block.required_target for block in setting.blocks]).astype(np.float64)
    mean, variance = samples.mean(axis=0), samples.var(axis=0)

    def saving(named: PlanName, steps: int) -> Plan:
        times = named.grid(setting.schedule, setting.evaluations + steps)[steps:]
        return gaussian_start(setting.compile(named.solver, times, named.text), setting.schedule, mean, variance)

    named = (setting.plan_name, parse_plan_name(NOISY.format(setting.evaluations), setting.denoiser.grid))
    return setting.best(partial(saving, *each) for each in product(named, range(1, MOST + 1)))
