"""Check the carried tensors of a plan: each slot that a step reads must have been written before, for all branches of
the step. Only light steps may read features, and a state that is carried from run to run must fit the denoiser's
positions."""

from collections.abc import Mapping, Sequence

from fewstep.plans.errors import UserError
from fewstep.plans.plan import LIGHT, Plan
from fewstep.plans.spec import Stairs

Branches = tuple[str, ...]
Held = Branches | None  # the branches that a slot has; None if it is empty


def check_carry(plan: Plan, fix: str = "begin with a step that writes what it reads") -> Plan:
    """Return the plan after checking it. Raises UserError if a step reads an empty slot of a carried tensor, or a
    branch that the slot lacks."""
    if problem := carry_problem(plan):
        raise UserError(f"plan {plan.name!r}: {problem}", fix)
    return plan


def carry_problem(plan: Plan, begins: Mapping[str, Sequence[Held]] | None = None) -> str | None:
    """Return, as text, what is wrong with a plan's reads and writes of carried tensors, or None if nothing is.

    begins: by bank, the branches that each slot contains at the start. By default, slots that are kept from run to run
        contain all branches before the first run. A second run, which begins with what the first one leaves, is then
        checked too.
    """
    if begins is not None:
        return _walk_steps(plan, {bank.name: list(begins[bank.name]) for bank in plan.banks})
    every = tuple(dict.fromkeys(branch for step in plan.steps for branch in step.branches))
    held: dict[str, list[Held]] = {bank.name: [every if bank.is_kept else None] * bank.slots for bank in plan.banks}
    if (problem := _walk_steps(plan, held)) is not None:
        return problem
    again: dict[str, list[Held]] = {
        bank.name: held[bank.name] if bank.is_kept else [None] * bank.slots for bank in plan.banks
    }
    return _walk_steps(plan, again)


def light_problem(plan: Plan) -> str | None:
    """Return, as text, why a denoiser with a light network cannot run a plan, or None if it can. Only full steps may
    write features, only light steps may read them, and features last for one run."""
    if any(bank.is_kept for bank in plan.banks):
        return f"keeps {plan.banks[0].name!r} from run to run, but features last for one run"
    for index, step in enumerate(plan.steps):
        if step.network == LIGHT and step.carry:
            return f"writes features in step {index}, but it is light"
        if step.network != LIGHT and step.carry_in:
            return f"reads features in step {index}, but it is full"
    problem = carry_problem(plan)
    return None if problem is None else f"cannot run: {problem}"


def fits_stairs(plan: Plan, stairs: Stairs | None) -> bool:
    """Return True if a plan's positions fit those of a denoiser: the same number of times, and the same number of
    positions that finish in each run."""
    times = {plan.tensors[step.times].shape for step in plan.steps if step.times is not None}
    if stairs is None or stairs.leaves == stairs.places:
        return plan.rolling_bank is None and not times
    rolls = None if plan.rolling_bank is None else plan.rolling_bank.rolls
    if rolls is None or (rolls.axis, rolls.by) != (stairs.axis, stairs.leaves):
        return False
    return times <= {(stairs.places, *[1] * (-stairs.axis - 1))}


def _walk_steps(plan: Plan, held: dict[str, list[Held]]) -> str | None:
    """Return the first invalid read of a carried tensor along all steps, as text, or None if all are valid. `held` (the
    branches in each slot, by bank) is updated in place."""
    for index, step in enumerate(plan.steps):
        for read in step.carry_in:
            bank = plan.banks[read.bank]
            slots = [slot for slot in range(bank.slots) if read.row[slot]]
            if not slots:
                return f"step {index} reads no slot of {bank.name!r}"
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
                return f"step {index} writes slot {write.slot} of {bank.name!r} from an empty slot"
            first, *others = [source for source in read_from if source is not None]
            common = tuple(branch for branch in first if all(branch in other for other in others))
            if not common:
                return f"step {index} writes slot {write.slot} of {bank.name!r} from slots without a branch in common"
            held[bank.name][write.slot] = common
    return None
