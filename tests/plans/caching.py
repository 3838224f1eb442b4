"""A plan whose shallow steps take a tensor that the full network wrote before: DeepCache's schedule, as a table.

The full network returns its deep features beside its output; the shallow one takes them in place of computing them
(Ma, Fang, Wang 2024, arXiv 2312.00858).
"""

from collections.abc import Sequence

import msgspec

from fewstep.plans.carry import check_carry
from fewstep.plans.plan import Bank, Carry, CarryIn, Plan

SHALLOW = "shallow"


def cached(plan: Plan, shallow: Sequence[bool], order: int) -> Plan:
    """The plan with some steps on the shallow network. order 0: the features of the last full step are held. 1: they
    go on linearly in lambda, once two full steps have written some."""
    full: list[float | None] = []
    steps = []
    for step, is_shallow in zip(plan.steps, shallow, strict=True):
        if is_shallow:
            row = (1.0, *[0.0] * order)
            if order and len(full) > 1 and None not in (*full[-2:], step.lam):
                ratio = (step.lam - full[-1]) / (full[-1] - full[-2])
                row = (1 + ratio, -ratio)
            steps.append(msgspec.structs.replace(step, network=SHALLOW, carry_in=(CarryIn(0, row),)))
            continue
        newest = Carry(0, 0, (*[0.0] * (1 + order), 1.0))
        shift = (Carry(0, 1, (1.0, 0.0, 0.0)),) if order and full else ()
        full.append(step.lam)
        steps.append(msgspec.structs.replace(step, carry=(newest, *shift)))
    banks = (Bank("features", 1 + order, is_kept=False),)
    return check_carry(msgspec.structs.replace(plan, steps=tuple(steps), banks=banks))
