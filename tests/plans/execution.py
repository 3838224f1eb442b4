"""A plan executed on a function, to its finished sample."""

from collections.abc import Mapping, Sequence

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


def recorded(
    plan: Plan, outputs: Sequence[Sequence[Array]], draws: Sequence[Array], given: Mapping[str, Array] | None = None
) -> tuple[Array, list[Array]]:
    """The sample where the network's heads say `outputs[i]` at evaluation i, and what it was shown."""
    seen: list[Array] = []

    def network(index, step, u):
        seen.append(u)
        return list(outputs[index])

    return sample(plan, network, lambda number: draws[number], np.float64, given), seen
