"""Plans over positions: each block of a sample is at a different step, and the state continues from run to run.

A run advances each block by some steps. Then the block at the front is clean and leaves, the others move forward, and
noise is appended at the end: Rolling Diffusion (Ruhe et al. 2024, arXiv 2402.09470), Streaming Diffusion Policy (Hoeg
et al. 2024, arXiv 2406.04806), the pyramid of Diffusion Forcing (Chen et al. 2024, arXiv 2407.01392). A position passes
through all steps of an ordinary plan. So the coefficients are those of that plan. Coefficients that differ between
blocks are tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.plan import STATE, Bank, Plan, Roll, Row, Step, Tensor, Term, make_tensor
from fewstep.plans.prediction import input_scale
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import Stairs

Table = NDArray[np.float64]  # [lines, columns]


def staircase(plan: Plan, stairs: Stairs, schedule: NoiseSchedule) -> Plan:
    """Return a rolling plan, in which each block of positions passes through the steps of an ordinary plan.

    A first run begins with pure noise everywhere. Each block starts once the block in front of it has completed the
    steps of one run. Every later run executes only the last steps. The sample consists of the finished positions at the
    front, and the current prediction of all others.

    Raises UserError if the number of steps is not a multiple of the runs that a block takes, if the plan starts from a
    given tensor, and if its steps differ in more than numbers.
    """
    blocks, kept = stairs.places // stairs.leaves, stairs.kept // stairs.leaves
    runs, count = blocks - kept, len(plan.steps)
    if blocks == 1:
        return plan
    _check(plan)
    if count % runs:
        what = f"plan {plan.name!r} has {count} steps, but a position takes {runs} runs of equally many steps"
        raise UserError(what, f"give a multiple of {runs} steps")
    each = count // runs
    aligned, rows, last = _AlignedBlocks(plan, stairs, schedule), plan.rows + 1, blocks * each - 1
    steps = []
    for number in range(last + 1):
        before, after = (np.clip(at - each * np.arange(blocks), 0, count) for at in (number, number + 1))
        steps.append(aligned.step(number, before, after, int(before[kept]), is_last=number == last))
    return msgspec.structs.replace(
        plan,
        rows=rows,
        start=(*plan.start, (0.0,) * len(plan.start_draws)),
        steps=tuple(steps),
        output=tuple(float(row == plan.rows) for row in range(rows)),
        tensors=tuple(aligned.tensors),
        banks=(Bank(STATE, rows, is_kept=True, rolls=Roll(stairs.axis, stairs.leaves, each)),),
    )


def _check(plan: Plan) -> None:
    """Raise UserError for a plan whose steps cannot be combined into one step."""
    first, drawn = plan.steps[0], [draw for step in plan.steps for draw in step.draws]
    kinds = {(step.network, step.branches, step.heads, step.shaping, step.to) for step in plan.steps}
    problem = ""
    if plan.given:
        problem = f"starts from {plan.given[0]!r}"
    elif plan.banks or plan.start_terms or any(step.terms or step.to is not None for step in plan.steps):
        problem = "carries tensors, has tensor coefficients, or passes the end times of its steps to the network"
    elif len(kinds) > 1:
        problem = f"has steps that differ from its first, which evaluates the branches {', '.join(first.branches)}"
    elif any(step.log_scale for step in plan.steps):
        problem = "draws noise of a learned variance"
    elif len({*drawn, *plan.start_draws}) < len(drawn) + len(plan.start_draws):
        problem = "uses the same noise more than once"
    if problem:
        fix = "use a plan that starts from noise, with the same guidance at all steps, such as ddim:8"
        what = f"plan {plan.name!r} {problem}: its steps cannot be applied to different positions at once"
        raise UserError(what, fix)


@dataclass
class _AlignedBlocks:
    """Combines steps of an ordinary plan, one for each block of positions, into a step that updates all positions.

    The state has one more row, which holds the output sample.
    """

    plan: Plan
    stairs: Stairs
    schedule: NoiseSchedule
    tensors: dict[Tensor, int] = field(default_factory=dict)  # tensor -> its number

    def step(self, number: int, before: NDArray[np.intp], after: NDArray[np.intp], front: int, is_last: bool) -> Step:
        """Return step `number` of the rolling plan. `before` and `after` say, for each block, how many steps of the
        ordinary plan it has completed before and after this step."""
        plan, like = self.plan, self.plan.steps[front]
        most = max(len(step.draws) for step in plan.steps)
        first = 1 + max(plan.start_draws) + number * most
        lines: list[list[Table]] = [[], [], [], []]
        for at, then in zip(before, after, strict=True):
            tables = self._tables(int(at), is_moving=then > at, is_clean=then == len(plan.steps), is_last=is_last)
            for tables_of_blocks, table in zip(lines, tables, strict=True):
                tables_of_blocks.append(table)
        (seen, seen_terms), (shaped, shaped_terms), (x0, x0_terms), (update, terms) = map(
            self._merge_block_tables, lines
        )
        last = self.schedule.cleanest.network
        times = np.array([plan.steps[at].time if at < len(plan.steps) else last for at in before])
        return msgspec.structs.replace(
            like,
            alpha=None,
            sigma=None,
            times=None if (times == like.time).all() else self._number(times),
            input=seen[0],
            input_terms=seen_terms,
            shaping_of=shaped,
            shaping_terms=shaped_terms,
            x0=x0[0],
            x0_terms=x0_terms,
            update=update,
            terms=terms,
            draws=tuple(range(first, first + most)),
        )

    def _tables(self, at: int, *, is_moving: bool, is_clean: bool, is_last: bool) -> tuple[Table, Table, Table, Table]:
        """Return the coefficient tables (input, shaping_of, x0, update) of a block that has completed `at` steps of the
        ordinary plan."""
        plan, rows = self.plan, self.plan.rows
        like = plan.steps[min(at, len(plan.steps) - 1)]
        outputs = len(like.branches) * like.heads
        made, most = outputs + (like.shaping is not None), max(len(step.draws) for step in plan.steps)
        output = np.array(plan.output)
        if at < len(plan.steps):
            seen, x0 = np.array(like.input), np.array(like.x0)
            shaped = np.reshape(like.shaping_of, (-1, rows + outputs))
        else:
            scale = input_scale(plan.prediction, self.schedule.cleanest, self.schedule.spec)
            seen, x0 = scale * output, np.append(output, np.zeros(made))
            shaped = np.tile(x0[: rows + outputs], (len(like.shaping_of), 1))
        update = np.eye(rows, rows + made + most)
        if is_moving:
            update[:] = 0
            update[:, : rows + made + len(like.draws)] = like.update
        sample = output @ update if is_clean else np.append(x0, np.zeros(most))
        update = np.vstack([update, sample if is_last else np.zeros_like(sample)])
        seen, shaped, x0, update = (
            np.insert(table, rows, 0, axis=1) for table in (seen[None], shaped, x0[None], update)
        )
        return seen, shaped, x0, update

    def _merge_block_tables(self, tables: Sequence[Table]) -> tuple[tuple[Row, ...], tuple[Term, ...]]:
        """Merge the coefficient tables of all blocks into one. A coefficient that is equal in all blocks becomes an
        entry of the table; one that differs becomes a term with a tensor coefficient. Returns the table and the
        terms."""
        whole, terms = np.array(tables), list[Term]()
        lines = [[0.0] * whole.shape[2] for _ in range(whole.shape[1])]
        for row, column in np.ndindex(whole.shape[1:]):
            values = whole[:, row, column]
            if (values == values[0]).all():
                lines[row][column] = float(values[0])
            else:
                terms.append(Term(row, column, self._number(values)))
        return tuple(map(tuple, lines)), tuple(terms)

    def _number(self, values: NDArray[np.float64]) -> int:
        """Return the number of the tensor with these values, one for each block. Add the tensor if it is new."""
        shape = (self.stairs.places, *[1] * (-self.stairs.axis - 1))
        tensor = make_tensor(np.repeat(values, self.stairs.leaves).reshape(shape))
        return self.tensors.setdefault(tensor, len(self.tensors))
