"""Time shift (Li, Qu, Yao, Sun, Moens 2024, arXiv 2305.15583): the network takes the time that x looks like.

The published sampler compares the variance of each sample with sigma^2 of each timestep nearby while it runs. That
depends on the data, and is no plan. But the variance over thousands of elements hardly differs between samples. Its
mean, measured once on rollouts of the deployed plan, gives the shift of every step in advance.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from fewstep.plans.errors import UserError
from fewstep.plans.paths import RESTORING
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import NoiseSchedule


def shift_times(plan: Plan, times: Sequence[float]) -> Plan:
    """The plan with these times for the network, one for each evaluation; all coefficients stay."""
    if len(times) != len(plan.steps):
        raise UserError(f"{len(times)} times for {len(plan.steps)} evaluations", "give one for each")
    steps = (msgspec.structs.replace(step, time=float(time)) for step, time in zip(plan.steps, times, strict=True))
    return msgspec.structs.replace(plan, steps=tuple(steps))


def estimate_shift(
    plan: Plan, schedule: NoiseSchedule, variances: Sequence[float], window: float = 40.0, cutoff: float = 200.0
) -> tuple[float, ...]:
    """Times for `shift_times`: for each evaluation the whole timestep within half a window whose sigma^2 is nearest to
    the variance that x has there. The first evaluation keeps its time, and so do those at or
    below the cutoff, where x is more data than noise.

    Args:
        variances: of the network's input at each evaluation, over the elements of a sample, mean over rollouts.
        window, cutoff: in timesteps.
    """
    last = schedule.timesteps
    if last is None or schedule.spec.kind in RESTORING:
        raise UserError(
            f"a time shift on schedule {schedule.name}, which is no table of a generator's timesteps",
            "use one with a table, such as linear",
        )
    if len(variances) != len(plan.steps):
        raise UserError(f"{len(variances)} variances for {len(plan.steps)} evaluations", "give one for each")
    shifted = [plan.steps[0].time]
    for step, variance in zip(plan.steps[1:], variances[1:], strict=True):
        if step.time <= cutoff:
            shifted.append(step.time)
            continue
        low, high = max(step.time - window / 2, 0.0), min(step.time + window / 2, last - 1.0)
        near = np.arange(np.ceil(low), np.floor(high) + 1)
        shifted.append(float(min(near, key=lambda t: abs(variance - schedule.sigma(float(t)) ** 2))))
    return tuple(shifted)
