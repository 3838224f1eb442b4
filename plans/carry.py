"""Banks of carried tensors in plans: what a plan has for a denoiser that carries from run to run, and the linter.

Chunk-causal denoisers carry keys and values from chunk to chunk in one of two ways. Each step reads what the same step
of the chunk before wrote (CosyVoice 2: Du et al. 2024, arXiv 2412.10117; Live2Diff: Xing et al. 2024, arXiv
2407.08701), or all steps read what the finished chunk before wrote, in one more evaluation at the clean end (Ca2-VDM:
Gao et al. 2024, arXiv 2411.16375; Self Forcing: Huang et al. 2025, arXiv 2506.08009).
"""

import math
from collections.abc import Mapping, Sequence

import msgspec

from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER, Bank, Carry, CarryIn, Plan, Row, Step, group_of
from fewstep.plans.prediction import input_scale
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import Carried, ScheduleSpec

Branches = tuple[str, ...]
Held = Branches | None  # the branches that a slot has, None for an empty one


def keeping(plan: Plan, carried: Sequence[Carried], schedule: ScheduleSpec, groups: Sequence[float] = ()) -> Plan:
    """The plan with a bank for each tensor that its denoiser carries from run to run.

    With a bank of the sample, one more evaluation ends the plan. It has all branches, and nothing reads its output.
    """
    if not carried:
        return plan
    steps = plan.steps
    if any(each.bank == "sample" for each in carried):
        steps = (*steps, _of_sample(plan, NoiseSchedule(schedule), groups))
    banks = tuple(Bank(each.name, 1 if each.bank == "sample" else len(steps), is_kept=True) for each in carried)
    last, made = len(steps) - 1, []
    for index, step in enumerate(steps):
        reads, writes = [], []
        for number, bank in enumerate(banks):
            slot = 0 if bank.slots == 1 else index
            reads.append(CarryIn(number, _one(slot, bank.slots)))
            if carried[number].bank == "step" or index == last:
                writes.append(Carry(number, slot, _one(bank.slots, bank.slots + 1)))
        made.append(msgspec.structs.replace(step, carry_in=tuple(reads), carry=tuple(writes)))
    return msgspec.structs.replace(plan, banks=banks, steps=tuple(made))


def _one(place: int, width: int) -> Row:
    return tuple(float(column == place) for column in range(width))


def _of_sample(plan: Plan, schedule: NoiseSchedule, groups: Sequence[float]) -> Step:
    """An evaluation of the sample at the cleanest time, which leaves the state as it is."""
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
        update=tuple(_one(row, plan.rows + outputs) for row in range(plan.rows)),
        terms=(),
        draws=(),
    )


def check_carry(plan: Plan, fix: str = "begin with a step that writes what it reads") -> Plan:
    """The plan itself. UserError for a read that has nothing to read."""
    if problem := carry_problem(plan):
        raise UserError(f"plan {plan.name!r}: {problem}", fix)
    return plan


def carry_problem(plan: Plan, begins: Mapping[str, Sequence[Held]] | None = None) -> str | None:
    """What is wrong with the reads and writes of banks, or None.

    begins: the branches of each slot at the start, by bank. Without it, kept slots have all branches in a first run,
    and what that leaves in the next.
    """
    if begins is not None:
        return _walked(plan, {bank.name: list(begins[bank.name]) for bank in plan.banks})
    every = tuple(dict.fromkeys(branch for step in plan.steps for branch in step.branches))
    held: dict[str, list[Held]] = {bank.name: [every if bank.is_kept else None] * bank.slots for bank in plan.banks}
    if (problem := _walked(plan, held)) is not None:
        return problem
    again: dict[str, list[Held]] = {
        bank.name: held[bank.name] if bank.is_kept else [None] * bank.slots for bank in plan.banks
    }
    return _walked(plan, again)


def _walked(plan: Plan, held: dict[str, list[Held]]) -> str | None:
    """The first read without a source, along all steps; `held` is then what they leave."""
    for index, step in enumerate(plan.steps):
        for read in step.carry_in:
            bank = plan.banks[read.bank]
            slots = _slots_read(step, read, bank.slots)
            if not slots:
                return f"step {index} feeds the network nothing of {bank.name!r}"
            for slot in slots:
                if (there := held[bank.name][slot]) is None:
                    return f"step {index} reads slot {slot} of {bank.name!r}, which is empty"
                if lacking := [branch for branch in step.branches if branch not in there]:
                    return f"step {index} reads {bank.name!r} in branch {lacking[0]!r}, which slot {slot} does not have"
        before = {name: list(slots) for name, slots in held.items()}
        for write in step.carry:
            bank = plan.banks[write.bank]
            sources = [*before[bank.name], step.branches]
            read_from = [sources[column] for column, number in enumerate(write.row) if number]
            if not read_from or None in read_from:
                return f"step {index} writes slot {write.slot} of {bank.name!r} from an empty one"
            first, *others = [source for source in read_from if source is not None]
            common = tuple(branch for branch in first if all(branch in other for other in others))
            if not common:
                return f"step {index} writes slot {write.slot} of {bank.name!r} from slots without a branch in common"
            held[bank.name][write.slot] = common
    return None


def _slots_read(step: Step, read: CarryIn, slots: int) -> list[int]:
    """The slots that an entry reads."""
    entry = step.carry_in.index(read)
    terms = {term.column for term in step.carry_in_terms if term.row == entry}
    return [slot for slot in range(slots) if read.row[slot] or slot in terms]
