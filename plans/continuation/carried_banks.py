"""Banks for a denoiser that carries tensors from run to run.

Chunk-causal denoisers carry keys and values from chunk to chunk in one of two ways:

- "step": each step reads the slot that the same step of the previous chunk wrote (CosyVoice 2: Du et al. 2024, arXiv
  2412.10117; Live2Diff: Xing et al. 2024, arXiv 2407.08701).
- "sample": all steps read one slot, which an additional evaluation of the previous finished chunk wrote at the clean
  end (Ca2-VDM: Gao et al. 2024, arXiv 2411.16375; Self Forcing: Huang et al. 2025, arXiv 2506.08009).
"""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from fewstep.plans.plan import DENOISER, Bank, Carry, CarryIn, Plan, Row, Step, group_of
from fewstep.plans.prediction import input_scale
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import BankedTensor, ScheduleSpec

Entries = tuple[tuple[CarryIn, ...], tuple[Carry, ...]]  # what a step reads and writes of one bank


def add_banks(
    plan: Plan, carried: Sequence[BankedTensor], schedule: ScheduleSpec, groups: Sequence[float] = ()
) -> Plan:
    """Return the plan with a bank for each tensor that its denoiser carries from run to run.

    A tensor with `bank` "sample" has one slot for the whole run. The plan then ends with an additional evaluation of
    all branches, which only writes this slot: no step reads its output.
    """
    if not carried:
        return plan
    steps = plan.steps
    if any(tensor.bank == "sample" for tensor in carried):
        steps = (*steps, _sample_evaluation(plan, NoiseSchedule(schedule), groups))
    banks = tuple(Bank(tensor.name, 1 if tensor.bank == "sample" else len(steps), is_kept=True) for tensor in carried)
    rows = [bank_rows(number, each.bank, len(steps)) for number, each in enumerate(carried)]
    made = tuple(
        msgspec.structs.replace(
            step,
            carry_in=tuple(read for row in rows for read in row[index][0]),
            carry=tuple(write for row in rows for write in row[index][1]),
        )
        for index, step in enumerate(steps)
    )
    return msgspec.structs.replace(plan, banks=banks, steps=made)


def bank_rows(number: int, bank: Literal["step", "sample"], steps: int) -> list[Entries]:
    """Return what each step reads from and writes to bank `number`, as a pair (reads, writes) per step.

    bank: "step" if each step has its own slot, which it reads and writes; "sample" if all steps read one slot, which
        the last step writes.
    """
    slots = 1 if bank == "sample" else steps
    made = _unit_row(slots, slots + 1)
    return [
        (
            (CarryIn(number, _unit_row(step % slots, slots)),),
            (Carry(number, step % slots, made),) if bank == "step" or step == steps - 1 else (),
        )
        for step in range(steps)
    ]


def entries_of(step: Step, number: int) -> Entries:
    """Return what a step reads from and writes to bank `number`, as (reads, writes)."""
    return tuple(r for r in step.carry_in if r.bank == number), tuple(w for w in step.carry if w.bank == number)


def _unit_row(place: int, width: int) -> Row:
    return tuple(float(column == place) for column in range(width))


def _sample_evaluation(plan: Plan, schedule: NoiseSchedule, groups: Sequence[float]) -> Step:
    """Return a step that evaluates the sample at the cleanest time and leaves the state unchanged."""
    time, before = schedule.cleanest, plan.steps[-1]
    branches = tuple(dict.fromkeys(branch for step in plan.steps for branch in step.branches))
    outputs, scale = len(branches) * before.heads, input_scale(plan.prediction, time, schedule.spec)
    return Step(
        network=DENOISER,
        time=time.network,
        to=None if before.to is None else time.network,
        lam=before.lam if math.isinf(time.lam) else time.lam,
        alpha=1.0,
        sigma=0.0,
        group=group_of(before.lam if math.isinf(time.lam) else time.lam, groups),
        branches=branches,
        heads=before.heads,
        input=tuple(scale * number for number in plan.output),
        shaping=None,
        shaping_of=(),
        x0=(*plan.output, *[0.0] * outputs),
        update=tuple(_unit_row(row, plan.rows + outputs) for row in range(plan.rows)),
        terms=(),
        draws=(),
    )
