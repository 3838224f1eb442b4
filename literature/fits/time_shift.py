"""Fit the Time-Shift Sampler (Li et al. 2024, arXiv 2305.15583) to the variances of x in rollouts of the nominal
plan."""

from functools import partial

import numpy as np

from fewstep.literature.fits.fit_setting import FitSetting
from fewstep.literature.time_shift import estimate_shift, shift_times
from fewstep.plans.plan import Plan

WINDOWS = (20.0, 40.0, 80.0)  # in timesteps
CUTOFFS = (200.0, 400.0)


def fit_plan(setting: FitSetting) -> Plan:
    """Return the nominal plan with shifted times for the network, for the best window and cutoff. The authors also
    choose both for each data set and number of steps."""
    states = setting.states(setting.nominal)
    elements = [[state.u.reshape(len(state.u), -1) for state in run] for run in states]
    variances = [
        float(np.concatenate([x.var(axis=1, ddof=1) for x in step]).mean()) for step in zip(*elements, strict=True)
    ]

    def shift(window: float, cutoff: float) -> Plan:
        times = estimate_shift(setting.nominal, setting.schedule, variances, window, cutoff)
        return shift_times(setting.nominal, times)

    return setting.best(partial(shift, window, cutoff) for window in WINDOWS for cutoff in CUTOFFS)
