"""Optimal linear subspace search: the rows of a plan by least squares on the states of a teacher (Duan, Wang, Chen,
Zhou, Huang 2023, arXiv 2305.14677).

Step by step, the coefficients of the next x are the least squares between the plan's own columns and the teacher's
state at that time. The plan's own rollout goes on from there, so that later steps correct what earlier ones lack. Here
a ridge draws the coefficients to the solver's.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import exp, isfinite

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.blocks import Block, flat, run, sample_of
from fewstep.fitting.recurrence import plan_of, recurrence_of
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, Step
from fewstep.runtime.execute import StepState, begin, combine, see
from fewstep.runtime.sampler import Sampler

SINGULAR = 1e-12  # of all columns' energy


def fit_rows(
    sampler: Sampler,
    reference: Sampler,
    plan: Plan,
    teacher: Plan,
    blocks: Sequence[Block],
    ridge: float = 1e-3,
    history: int = 3,
) -> Plan:
    """The plan whose rows bring each step nearest to the teacher.

    Args:
        sampler: runs the plan, `reference` the teacher. blocks: seeds, of `fewstep.fitting.blocks.blocks_of`.
        ridge: strength of the pull to the solver's rows, of the columns' energies.
        history: predictions that a row may read.

    Raises UserError for a plan that draws noise, and for a teacher whose x is more than signal and noise.
    """
    numbers = recurrence_of(plan, history)
    plan, history, rows = plan_of(numbers), numbers.history, numbers.rows.copy()
    targets = [teacher_states(reference, teacher, block, plan.steps[1:]) for block in blocks]
    networks = [block.network(sampler, plan) for block in blocks]
    states = [list(begin(plan, block.draws, np.float32, block.given(plan))) for block in blocks]
    for i, step in enumerate(plan.steps):
        used = [column for column in range(rows.shape[1]) if column <= i + 1 or column > history]
        gram, slope = np.zeros((len(used), len(used))), np.zeros(len(used))
        columns = []
        for place, network in enumerate(networks):
            u = combine(step.input, states[place], np.float32)
            seen = see(plan, i, states[place], u, network(i, step, u))
            columns.append([states[place][0], seen.x0, *states[place][1:]])
            matrix = np.stack([flat(columns[-1][column]) for column in used])
            residual = targets[place][i] - np.einsum("c,cse->se", rows[i, used], matrix)
            gram += np.einsum("cse,dse->cd", matrix, matrix)
            slope += np.einsum("cse,se->c", matrix, residual)
        restraint = ridge * np.diag(gram) + SINGULAR * np.trace(gram)
        rows[i, used] += np.linalg.solve(gram + np.diag(restraint), slope)
        for place, arrays in enumerate(columns):
            x = combine(tuple(rows[i]), arrays, np.float32)
            states[place] = [x, *arrays[1:history], *arrays[1 + history :]]
    return plan_of(replace(numbers, rows=rows))


def teacher_states(sampler: Sampler, teacher: Plan, block: Block, steps: Sequence[Step]) -> list[NDArray[np.float64]]:
    """The teacher's x [seeds, elements] at each of the steps, and its sample at the end. `sampler` runs the teacher."""
    if teacher.given or any(step.alpha is None or step.sigma is None for step in teacher.steps):
        what = f"the states of the teacher {teacher.name} have other parts than x0 and noise"
        raise UserError(what, "choose a teacher that samples from noise")
    trajectory = run(teacher, block, block.network(sampler, teacher))
    return [*(_between(trajectory, step) for step in steps), flat(sample_of(teacher, trajectory))]


def _between(trajectory: Sequence[StepState], step: Step) -> NDArray[np.float64]:
    """x at a step: sigma / sigma_i x_i + sigma int e^l x0(l) dl from lambda_i on, with x0 linear in lambda."""
    lam = _lam(step)
    i = max(j for j, state in enumerate(trajectory) if j == 0 or _lam(state.step) <= lam)
    here = trajectory[i]
    assert step.alpha is not None and step.sigma is not None and here.step.sigma is not None
    (row,) = [row for row, number in enumerate(here.step.input) if number]  # its network sees one row, scaled
    x, p = flat(here.before[row]), flat(here.x0)
    h = lam - _lam(here.step) if isfinite(_lam(here.step)) else np.inf
    state = step.sigma / here.step.sigma * x + step.alpha * (1 - exp(-h)) * p
    if i + 1 < len(trajectory) and isfinite(h):
        whole = _lam(trajectory[i + 1].step) - _lam(here.step)
        state += step.alpha * (h - 1 + exp(-h)) / whole * (flat(trajectory[i + 1].x0) - p)
    return np.asarray(state)


def _lam(step: Step) -> float:
    return float(step.lam) if step.lam is not None else float("-inf")
