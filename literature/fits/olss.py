"""Optimal linear subspace search: fit the rows of a plan to the states of a teacher by least squares (Duan, Wang, Chen,
Zhou, Huang 2023, arXiv 2305.14677).

For each step, the coefficients of the next x are the least-squares solution between the columns of the plan and the
teacher's state at that time. The plan's rollout continues from the result, so that later steps correct the errors of
earlier ones. In addition to the paper, a ridge term pulls the coefficients towards those of the solver.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from fewstep.fitting.blocks import Block, flatten_samples
from fewstep.fitting.recurrence import build_plan, extract_recurrence
from fewstep.fitting.teacher_path import CHOICES, find_path, teacher_states
from fewstep.literature.fits.fit_setting import FitSetting
from fewstep.plans.plan import Plan
from fewstep.plans.solvers.ddim import ddim
from fewstep.runtime.sampling.execute import begin, build_evaluation, combine
from fewstep.runtime.sampling.sampler import Sampler

SINGULAR = 1e-12  # least ridge, as a share of the energy of all columns


def fit_rows(
    sampler: Sampler,
    reference: Sampler,
    plan: Plan,
    teacher: Plan,
    blocks: Sequence[Block],
    ridge: float = 1e-3,
    history: int = 3,
) -> Plan:
    """Return the plan with coefficients that bring the state after each step closest to the teacher's, fitted step by
    step.

    Args:
        sampler: runs the plan; `reference` runs the teacher.
        blocks: seeds, from `fewstep.fitting.blocks.make_blocks`.
        ridge: the strength of the ridge term that pulls the coefficients towards the solver's, relative to the mean
            squared norm of the columns.
        history: the number of predictions that a step may combine.

    Raises UserError for a plan that draws noise, and for a teacher whose x does not consist of signal and noise only.
    """
    numbers = extract_recurrence(plan, history)
    plan, history, rows = build_plan(numbers), numbers.history, numbers.rows.copy()
    targets = [teacher_states(reference, teacher, block, plan.steps[1:]) for block in blocks]
    networks = [block.step_network(sampler, plan) for block in blocks]
    states = [list(begin(plan, block.draw_noise, np.float32, block.given_tensors(plan))) for block in blocks]
    for i, step in enumerate(plan.steps):
        used = [column for column in range(rows.shape[1]) if column <= i + 1 or column > history]
        gram, slope = np.zeros((len(used), len(used))), np.zeros(len(used))
        columns = []
        for place, network in enumerate(networks):
            u = combine(step.input, states[place], np.float32)
            evaluation = build_evaluation(plan, i, states[place], u, network(i, step, u))
            columns.append([states[place][0], evaluation.x0, *states[place][1:]])
            matrix = np.stack([flatten_samples(columns[-1][column]) for column in used])
            residual = targets[place][i] - np.einsum("c,cse->se", rows[i, used], matrix)
            gram += np.einsum("cse,dse->cd", matrix, matrix)
            slope += np.einsum("cse,se->c", matrix, residual)
        restraint = ridge * np.diag(gram) + SINGULAR * np.trace(gram)
        rows[i, used] += np.linalg.solve(gram + np.diag(restraint), slope)
        for place, arrays in enumerate(columns):
            x = combine(tuple(rows[i]), arrays, np.float32)
            states[place] = [x, *arrays[1:history], *arrays[1 + history :]]
    return build_plan(replace(numbers, rows=rows))


def fit_plan(setting: FitSetting) -> Plan:
    """Return the better of two plans whose rows read all earlier predictions: the nominal plan over the times of the
    paper's path search, and over its own times."""
    times, steps = setting.times(CHOICES), setting.evaluations
    probe = setting.compile(ddim, times, f"ddim:{CHOICES}")
    path = find_path(setting.rolled.reference, setting.teacher, setting.blocks, probe, steps)
    name = f"{setting.nominal.name} on a path"
    chosen = setting.compile(setting.plan_name.solver, [times[place] for place in path], name)
    samplers = setting.rolled.sampler, setting.rolled.reference
    return setting.best(
        partial(fit_rows, *samplers, plan, setting.teacher, setting.blocks, history=steps)
        for plan in (setting.nominal, chosen)
    )
