"""Whether a network knows the times between its timesteps: some look them up in a table."""

import numpy as np

from fewstep.fitting.blocks import Block, told_apart
from fewstep.plans.plan import Plan
from fewstep.runtime.sampler import Sampler

PART = 0.3  # of a timestep, or of a thousandth of the times where there are no timesteps


def is_continuous(sampler: Sampler, plan: Plan, block: Block) -> bool:
    """True if the network's output changes with a part of a timestep. A network that rounds its time, or looks it up,
    gives the same bits."""
    timesteps = sampler.bundle.manifest.schedule.timesteps
    times = np.array([step.time for step in plan.steps])
    span = float(np.ptp(times)) or 1.0
    part = PART * (1.0 if times.max() > 1 and timesteps else span / 1000)
    middle = len(times) // 2
    told = times.copy()
    told[middle] += part if np.floor(times[middle] + part) == np.floor(times[middle]) else -part
    network = block.network(sampler, told_apart(plan, told))
    step = plan.steps[middle]
    u = block.draws(0)
    before, after = network(middle, step, u), network(middle + len(times), step, u)
    return not all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
