"""Plans whose steps take some tensors from earlier steps instead of computing them: schedules of caching, as tables.

A step returns the tensors that it computes besides its output, and a later one takes them (DeepCache: Ma, Fang, Wang
2024, arXiv 2312.00858).
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans.continuation.carry_check import check_carry
from fewstep.plans.plan import Bank, Carry, CarryIn, Plan

SHALLOW = "shallow"
Mask = NDArray[np.bool_]  # [steps, tensors]: those that a step takes


def cache_plan(plan: Plan, taken: Mask | Sequence[bool], order: int, names: Sequence[str] = ("features",)) -> Plan:
    """Return the plan whose steps take tensors from earlier ones. order 0: as the last step computed them. 1:
    extrapolated linearly in lambda, once two steps have computed some.

    taken: for each step all tensors or none [steps], or each of `names` [steps, tensors].

    Raises UserError for a schedule that reads tensors before they are computed.
    """
    mask = np.broadcast_to(np.reshape(taken, (len(plan.steps), -1)), (len(plan.steps), len(names)))
    computed: list[list[float | None]] = [[] for _ in names]
    steps = []
    for step, own in zip(plan.steps, mask, strict=True):
        reads, writes = list[CarryIn](), list[Carry]()
        for bank, (is_taken, lams) in enumerate(zip(own, computed, strict=True)):
            if is_taken:
                row = (1.0, *[0.0] * order)
                if order and len(lams) > 1 and None not in (*lams[-2:], step.lam):
                    ratio = (step.lam - lams[-1]) / (lams[-1] - lams[-2])
                    row = (1 + ratio, -ratio)
                reads.append(CarryIn(bank, row))
                continue
            writes.append(Carry(bank, 0, (*[0.0] * (1 + order), 1.0)))
            if order and lams:
                writes.append(Carry(bank, 1, (1.0, 0.0, 0.0)))
            lams.append(step.lam)
        network = SHALLOW if reads else step.network
        steps.append(msgspec.structs.replace(step, network=network, carry_in=tuple(reads), carry=tuple(writes)))
    banks = tuple(Bank(name, 1 + order, is_kept=False) for name in names)
    return check_carry(msgspec.structs.replace(plan, steps=tuple(steps), banks=banks))
