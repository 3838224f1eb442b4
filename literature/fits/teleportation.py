"""A start that saves first steps: statistics of the teacher's samples, instead of its first evaluations
("teleportation": Wang & Vastola 2024, arXiv 2412.09726)."""

from functools import partial

import numpy as np

from fewstep.literature.analytic_start import gaussian_start
from fewstep.literature.fits.setting import FitSetting
from fewstep.plans.plan import Plan

MOST = 4  # steps that a start may save


def fitted(setting: FitSetting) -> Plan:
    """The best of the nominal solver's plans with more steps, whose first ones a Gaussian start makes.

    Mean and variance are of each element of the teacher's samples. The authors have the covariance of the data, which
    no plan multiplies by.
    """
    samples = np.concatenate([block.taught for block in setting.blocks]).astype(np.float64)
    mean, variance = samples.mean(axis=0), samples.var(axis=0)

    def saving(steps: int) -> Plan:
        times = setting.times(setting.evaluations + steps)[steps:]
        plan = setting.compiled(setting.parsed.solver, times, setting.nominal.name)
        return gaussian_start(plan, setting.schedule, mean, variance)

    return setting.best(partial(saving, steps) for steps in range(1, MOST + 1))
