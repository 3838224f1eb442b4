"""The rest of a plan from some step on, with which a run can be resumed from its state."""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from fewstep.plans.any_plan import check_compiled
from fewstep.plans.argument_checks import check_integer
from fewstep.plans.continuation.carry_check import check_carry
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, row_names

T = TypeVar("T")


def tail(plan: Plan, k: int) -> Plan:
    """Return the rest of a plan, from step `k` to the end. It starts from the state before that step, which the caller
    passes as tensors `row0` to `row{K-1}`.

    Draws keep their numbers, so a run of the tail from the rows of a whole run gives the sample of that run, bitwise if
    the networks return the same. A prologue may not: for fewer steps it computes fewer rows at once, and an engine may
    round them differently. Slots that are kept from run to run continue with the slots of that run.

    Args:
        k: in [0, number of steps). At 0 the run starts from given rows instead of noise.

    Raises UserError for another k, for a rolling plan, and if a step would read a carried tensor that an omitted step
    writes.
    """
    check_compiled(plan)
    if plan.rolling_bank is not None:
        raise UserError(f"plan {plan.name!r} continues from run to run, and has no tail", "run it by carry_on")
    k = check_integer(f"plan {plan.name!r} has no step", k, 0, len(plan.steps) - 1)
    identity = tuple(tuple(float(row == column) for column in range(plan.rows)) for row in range(plan.rows))
    rest = msgspec.structs.replace(
        plan,
        name=f"{plan.name} from step {k}",
        strength=None,
        given=row_names(plan.rows),
        start=identity,
        start_terms=(),
        start_draws=(),
        steps=plan.steps[k:],
        tail_of=plan.name if plan.tail_of is None else plan.tail_of,
        first_step=plan.first_step + k,
    )
    return check_carry(rest, "cut it at a step that writes what it reads")


def tail_inputs(rows: Sequence[T]) -> dict[str, T]:
    """Return the rows of a state as the given tensors of a tail."""
    return dict(zip(row_names(len(rows)), rows, strict=True))
