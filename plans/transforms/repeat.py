"""Several runs of a plan as one plan. Each run begins with new noise, and continues with the carried tensors."""

import msgspec

from fewstep.plans.any_plan import check_compiled
from fewstep.plans.argument_checks import check_integer
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, Row, Step, steps_to_run


def repeat_plan(plan: Plan, runs: int) -> Plan:
    """Return a plan of `runs` runs in a row. The update of a run's last step is the start of the next run.

    Its sample is that of the last run. All runs have the same conditions. Run r reads draw d as draw d + r D, where D
    is the number of the plan's draws. If the plan rolls, a run continues from the state of the previous run.
    """
    check_compiled(plan)
    return repeat_compiled(plan, check_integer("runs", runs, 1))


def repeat_compiled(plan: Plan, runs: int) -> Plan:
    """Return the plan of `repeat_plan` for a compiled plan and a number of runs that are known to be valid."""
    if plan.given:
        raise UserError(
            f"plan {plan.name!r} starts from {', '.join(plan.given)}", "repeat a plan that starts from noise"
        )
    draws = 1 + max(draw for draws in (plan.start_draws, *(step.draws for step in plan.steps)) for draw in draws)
    steps: list[Step] = []
    for run in range(runs):
        steps += [
            msgspec.structs.replace(
                step,
                draws=tuple(d + run * draws for d in step.draws),
                enters=None if step.enters is None else tuple(d + run * draws for d in step.enters),
            )
            for step in (steps_to_run(plan) if run else plan.steps)
        ]
        if plan.rolling_bank is None and run < runs - 1:
            steps[-1] = _restart_after(plan, steps[-1], (run + 1) * draws)
    return msgspec.structs.replace(plan, name=f"{plan.name}, {runs} runs", steps=tuple(steps))


def _restart_after(plan: Plan, step: Step, first: int) -> Step:
    """Return a step that evaluates the same input, but then sets the state to that of a new run, whose draws begin at
    number `first`."""
    seen = plan.rows + len(step.branches) * step.heads + (step.shaping is not None)

    def spread(row: Row) -> Row:
        return (*[0.0] * seen, *row)

    terms = (
        msgspec.structs.replace(term, column=None if term.column is None else seen + term.column)
        for term in plan.start_terms
    )
    return msgspec.structs.replace(
        step,
        update=tuple(map(spread, plan.start)),
        terms=tuple(terms),
        draws=tuple(draw + first for draw in plan.start_draws),
        log_scale=(),
    )
