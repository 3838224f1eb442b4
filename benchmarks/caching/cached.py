"""Plans whose shallow steps take tensors that the full network wrote before: schedules of caching, as tables.

The full network returns its deep features beside its output; the shallow one takes them in place of computing them
(DeepCache: Ma, Fang, Wang 2024, arXiv 2312.00858).
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans.carry import check_carry
from fewstep.plans.plan import Bank, Carry, CarryIn, Plan, Tensor, Term

SHALLOW = "shallow"


def cached(plan: Plan, shallow: Sequence[bool], order: int, names: Sequence[str] = ("features",)) -> Plan:
    """The plan with some steps on the shallow network. order 0: the features of the last full step are held. 1: they
    go on linearly in lambda, once two full steps have written some. names: of the tensors that are carried.

    UserError for a schedule that reads what is not there.
    """
    full: list[float | None] = []
    steps = []
    for step, is_shallow in zip(plan.steps, shallow, strict=True):
        if is_shallow:
            row = (1.0, *[0.0] * order)
            if order and len(full) > 1 and None not in (*full[-2:], step.lam):
                ratio = (step.lam - full[-1]) / (full[-1] - full[-2])
                row = (1 + ratio, -ratio)
            reads = tuple(CarryIn(bank, row) for bank in range(len(names)))
            steps.append(msgspec.structs.replace(step, network=SHALLOW, carry_in=reads))
            continue
        newest, shift = (*[0.0] * (1 + order), 1.0), (1.0, 0.0, 0.0)
        writes = [Carry(bank, 0, newest) for bank in range(len(names))]
        writes += [Carry(bank, 1, shift) for bank in range(len(names)) if order and full]
        full.append(step.lam)
        steps.append(msgspec.structs.replace(step, carry=tuple(writes)))
    banks = tuple(Bank(name, 1 + order, is_kept=False) for name in names)
    return check_carry(msgspec.structs.replace(plan, steps=tuple(steps), banks=banks))


def corrected(plan: Plan, numbers: Mapping[int, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Plan:
    """A plan of one bank that is held, whose reads at some steps are scaled and shifted by channel (CacheQuant: Liu
    et al. 2025, arXiv 2503.01323, its correction at the read). numbers: (scale, shift) [C, 1, ...] by step."""
    steps, tensors = list(plan.steps), list[Tensor]()
    for index, pair in numbers.items():
        own = steps[index]
        terms = (Term(0, 0, len(tensors)), Term(0, None, len(tensors) + 1))
        tensors += [Tensor(each.shape, np.ascontiguousarray(each, np.float64).tobytes()) for each in pair]
        steps[index] = msgspec.structs.replace(own, carry_in=(CarryIn(0, (0.0,)),), carry_in_terms=terms)
    return check_carry(msgspec.structs.replace(plan, steps=tuple(steps), tensors=tuple(tensors)))
