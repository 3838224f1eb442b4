"""A plan executed on a function, to its finished sample."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike

from fewstep.plans.plan import Plan
from fewstep.runtime.execute import Array, Draws, Hold, StepNetwork, execute, finish


def sample(
    plan: Plan,
    network: StepNetwork,
    draws: Draws,
    dtype: DTypeLike = np.float32,
    given: Mapping[str, Array] | None = None,
    hold: Hold | None = None,
) -> Array:
    """The sample [B, ...]."""
    return finish(plan, execute(plan, network, draws, dtype, given, hold), dtype, hold)
