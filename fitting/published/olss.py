"""Optimal linear subspace search: the rows of a plan by least squares on the states of a teacher (Duan, Wang, Chen,
Zhou, Huang 2023, arXiv 2305.14677).

Step by step, the coefficients of the next x are the least squares between the plan's own columns and the teacher's
state at that time. The plan's own rollout goes on from there, so that later steps correct what earlier ones lack. Here
a ridge draws the coefficients to the solver's.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import exp, isfinite

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.blocks import Block, flat, run, sample_of
from fewstep.fitting.published.setting import FitSetting
from fewstep.fitting.recurrence import plan_of, recurrence_of
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, Step
from fewstep.plans.solvers.ddim import ddim
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
    lam, i = _lam(step), _before(trajectory, step)
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


def _before(trajectory: Sequence[StepState], step: Step) -> int:
    """The place of the trajectory's last state that is no cleaner than a step, or of its first."""
    return max(j for j, state in enumerate(trajectory) if j == 0 or _lam(state.step) <= _lam(step))


def _lam(step: Step) -> float:
    return float(step.lam) if step.lam is not None else float("-inf")


CHOICES = 48  # times that a path goes through some of
BISECTIONS = 16
LEAST = 1e-9  # of the largest state's energy: float32 rounds more


def fitted(setting: FitSetting) -> Plan:
    """The nominal plan, over the times of the paper's path search or over its own, with rows of all predictions before
    them; the better of both."""
    times = setting.times(CHOICES)
    probe = setting.compiled(ddim, times, f"ddim:{CHOICES}")
    taught = [teacher_states(setting.reference, setting.teacher, block, probe.steps) for block in setting.blocks]
    runs = [run(setting.teacher, block, block.network(setting.reference, setting.teacher)) for block in setting.blocks]
    states = np.stack([np.concatenate([own[i] for own in taught]) for i in range(len(times))])
    predictions = np.stack([np.concatenate([_prediction(own, step) for own in runs]) for step in probe.steps])
    path = shortest_path(states, predictions, setting.evaluations)
    name = f"{setting.nominal.name} on a path"
    chosen = setting.compiled(setting.parsed.solver, [times[place] for place in path], name)
    samplers, steps = (setting.sampler, setting.reference), setting.evaluations
    return setting.best(
        partial(fit_rows, *samplers, plan, setting.teacher, setting.blocks, history=steps)
        for plan in (setting.nominal, chosen)
    )


def shortest_path(states: NDArray[np.float64], predictions: NDArray[np.float64], steps: int) -> tuple[int, ...]:
    """The places of `steps` + 1 times, both ends among them, whose largest error of a step is least.

    A step's error is what is left of the teacher's next state after the least squares on the first state and on the
    predictions at the path's places. For a bound on it each step goes as far as it can, and bisection finds the least
    bound that leaves so many steps.

    Args:
        states: the teacher's x [times + 1, seeds, elements], the sample last. predictions: x0 [times, seeds, elements].
    """
    flattened = states.reshape(len(states), -1), predictions.reshape(len(predictions), -1)
    high = max(float(np.square(state).mean()) for state in flattened[0])  # one step stays below it
    low, best = LEAST * high, _bounded(*flattened, steps, high)
    for _ in range(BISECTIONS):
        bound = (low * high) ** 0.5
        if (path := _bounded(*flattened, steps, bound)) is None:
            low = bound
        else:
            high, best = bound, path
    assert best is not None
    return best


def _bounded(
    states: NDArray[np.float64], predictions: NDArray[np.float64], steps: int, bound: float
) -> tuple[int, ...] | None:
    """A path whose steps have errors below a bound; None if it takes more than `steps`."""
    end = len(predictions)
    path = [0]
    while path[-1] < end and len(path) <= steps:
        basis = np.stack([states[0], *predictions[path]], axis=1)
        q, _ = np.linalg.qr(basis)
        reached = path[-1] + 1
        for place in range(path[-1] + 1, end + 1):
            rest = states[place] - q @ (q.T @ states[place])
            if np.square(rest).mean() <= bound:
                reached = place
        path.append(reached)
    if path[-1] < end:
        return None
    while len(path) <= steps:  # fewer steps than asked for: the longest one gets a place in its middle
        gaps = np.diff(path)
        longest = int(gaps.argmax())
        path.insert(longest + 1, path[longest] + int(gaps[longest]) // 2)
    return tuple(path)


def _prediction(trajectory: Sequence[StepState], step: Step) -> NDArray[np.float64]:
    """The teacher's x0 at a step, linear in lambda between its own."""
    lam, i = _lam(step), _before(trajectory, step)
    here = flat(trajectory[i].x0)
    if i + 1 == len(trajectory) or not isfinite(_lam(trajectory[i].step)) or not isfinite(lam):
        return here
    share = (lam - _lam(trajectory[i].step)) / (_lam(trajectory[i + 1].step) - _lam(trajectory[i].step))
    return (1 - share) * here + share * flat(trajectory[i + 1].x0)
