"""LinearAG (Castillo et al. 2023, arXiv 2312.12487, section 5.2): late unconditional outputs from earlier outputs.

The paper combines noises, with coefficients of their own at each step. These are the outputs as they are, with the
same coefficients at all steps, so that a plan of classifier-free guidance becomes another plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from fewstep.fitting.published.guidance import Outputs
from fewstep.plans.guidance import COND, UNCOND
from fewstep.plans.plan import Plan, Row, Step


@dataclass(frozen=True)
class LinearRule:
    """From evaluation `after` on: coefficients of o_cond at this evaluation, the one before, and so on, and of o_uncond
    at the one before this, the one before that, and so on (an estimate counts as an output)."""

    after: int
    cond: tuple[float, ...]
    uncond: tuple[float, ...]


def fitted(outputs: Outputs, after: int, terms: int = 2) -> LinearRule:
    """The rule of `terms` conditional outputs and `terms` - 1 unconditional ones: least squares over steps and samples
    together. 1 <= terms <= after < steps."""
    targets, columns = [], []
    for i in range(after, len(outputs.cond)):
        past = [outputs.cond[i - j] for j in range(terms)] + [outputs.uncond[i - 1 - j] for j in range(terms - 1)]
        columns.append(np.stack([array.ravel() for array in past], axis=1))
        targets.append(outputs.uncond[i].ravel())
    solution, *_ = np.linalg.lstsq(np.concatenate(columns), np.concatenate(targets), rcond=None)
    numbers = tuple(float(number) for number in solution)
    return LinearRule(after, numbers[:terms], numbers[terms:])


def estimated(plan: Plan, rule: LinearRule) -> Plan:
    """A plan of two branches at each step that evaluates the unconditional one in the first `after` alone. Its state
    has the earlier outputs as rows behind its own: conditional ones, then unconditional ones, the latest first."""
    if any(step.branches != (COND, UNCOND) or step.heads > 1 or step.shaping or step.terms for step in plan.steps):
        raise ValueError(f"plan {plan.name!r} is not of two branches alone")
    conds, unconds = len(rule.cond) - 1, len(rule.uncond)
    nothing = (0.0,) * (conds + unconds)

    def widened(step: Step, is_estimated: bool) -> Step:
        rows = plan.rows

        def reads(row: Sequence[float]) -> Row:
            state, (cond, uncond), rest = row[:rows], row[rows : rows + 2], row[rows + 2 :]
            if not is_estimated:
                return (*state, *nothing, cond, uncond, *rest)
            now, *before = (uncond * each for each in rule.cond)
            return (*state, *before, *(uncond * each for each in rule.uncond), cond + now, *rest)

        width = rows + len(nothing) + 2 - is_estimated + len(step.draws)
        at = {name: rows + len(nothing) + place for place, name in enumerate(step.branches)}

        def keeps(column: int) -> Row:
            return tuple(float(each == column) for each in range(width))

        estimate = reads((*(0.0,) * (rows + 1), 1.0, *(0.0,) * len(step.draws)))
        latest = [keeps(at[COND]), *(keeps(rows + j) for j in range(conds))][:conds]
        latest += [estimate, *(keeps(rows + conds + j) for j in range(unconds))][:unconds]
        return msgspec.structs.replace(
            step,
            branches=step.branches[: 2 - is_estimated],
            input=(*step.input, *nothing),
            x0=reads(step.x0),
            update=(*map(reads, step.update), *latest),
        )

    return msgspec.structs.replace(
        plan,
        name=f"{plan.name} LinearAG",
        rows=plan.rows + len(nothing),
        start=(*plan.start, *[(0.0,) * len(plan.start[0])] * len(nothing)),
        steps=tuple(widened(step, i >= rule.after) for i, step in enumerate(plan.steps)),
        output=(*plan.output, *nothing),
    )
