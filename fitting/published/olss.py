"""Optimal linear subspace search: the rows of a plan by least squares on the states of a teacher (Duan, Wang, Chen,
Zhou, Huang 2023, arXiv 2305.14677).

Step by step, the coefficients of the next x are the least squares between the plan's own columns and where the teacher
is at that time. The plan's own rollout goes on from there, so that later steps correct what earlier ones lack. Here a
ridge draws the coefficients to those of the solver.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.blocks import Block
from fewstep.fitting.published.teacher_states import states_at
from fewstep.fitting.recurrence import Recurrence, plan_of
from fewstep.plans.plan import Plan
from fewstep.runtime.execute import begin, combine, see
from fewstep.runtime.sampler import Sampler

RIDGES = (1e-5, 1e-3, 1e-1)  # of the columns' energies, to choose from
SINGULAR = 1e-12  # of all columns' energy


def lessons(
    reference: Sampler, teacher: Plan, numbers: Recurrence, blocks: Sequence[Block]
) -> list[list[NDArray[np.float64]]]:
    """Where the teacher is after each step, block by block: [seeds, elements] for each of N steps."""
    later = numbers.nominal.steps[1:]
    return [
        [*states_at(reference, teacher, block, later), block.taught.reshape(len(block.seeds), -1).astype(np.float64)]
        for block in blocks
    ]


def least_squares(
    sampler: Sampler,
    numbers: Recurrence,
    blocks: Sequence[Block],
    taught: Sequence[Sequence[NDArray[np.float64]]],
    ridge: float,
) -> Recurrence:
    """The rows that bring each step nearest to the teacher. taught: as of `lessons`."""
    plan, history = plan_of(numbers), numbers.history
    networks = [block.network(sampler, plan) for block in blocks]
    states = [list(begin(plan, block.draws, np.float32, block.given(plan))) for block in blocks]
    rows = numbers.rows.copy()
    for i, step in enumerate(plan.steps):
        there = [column for column in range(rows.shape[1]) if column <= i + 1 or column > history]
        square, slope = np.zeros((len(there), len(there))), np.zeros(len(there))
        columns = []
        for place, block in enumerate(blocks):
            u = combine(step.input, states[place], np.float32)
            seen = see(plan, i, states[place], u, networks[place](i, step, u))
            columns.append([states[place][0], seen.x0, *states[place][1:]])
            kept = np.stack([columns[-1][column].reshape(len(block.seeds), -1) for column in there]).astype(np.float64)
            lacks = taught[place][i] - np.einsum("c,cse->se", rows[i, there], kept)
            square += np.einsum("cse,dse->cd", kept, kept)
            slope += np.einsum("cse,se->c", kept, lacks)
        restraint = ridge * np.diag(square) + SINGULAR * np.trace(square)
        rows[i, there] += np.linalg.solve(square + np.diag(restraint), slope)
        for place, known in enumerate(columns):
            x = combine(tuple(rows[i]), known, np.float32)
            states[place] = [x, *known[1 : 1 + history - 1], *known[1 + history :]]
    return replace(numbers, rows=rows)
