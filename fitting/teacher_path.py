"""A teacher's path: its states between its steps, and the best times on it for few steps.

The search for these times is part of OLSS (Duan, Wang, Chen, Zhou, Huang 2023, arXiv 2305.14677).
"""

from collections.abc import Sequence
from math import exp, isfinite

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.blocks import BLOCK, Block, flatten_samples
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, Step
from fewstep.runtime.sampling.execute import StepState, finish
from fewstep.runtime.sampling.sampler import Sampler

CHOICES = 48  # number of times from which a path is selected
BISECTIONS = 16
LEAST = 1e-9  # lower bound of an error, relative to the energy of the largest state; float32 rounding exceeds it


def find_path(sampler: Sampler, teacher: Plan, blocks: Sequence[Block], probe: Plan, steps: int) -> tuple[int, ...]:
    """Return the indices of the path of `shortest_path`, among the steps of `probe` and its end. `sampler` runs the
    teacher.

    Raises UserError in the same cases as `teacher_states`.
    """
    parts = [_interpolate_along(sampler, teacher, block, probe.steps) for block in blocks]
    states, predictions = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return shortest_path(states, predictions, steps)


def path_bytes(seeds: int, elements: int, teacher_steps: int) -> int:
    """Return the bytes of memory of `find_path` with CHOICES times: all states and predictions twice, and one
    trajectory."""
    return elements * (2 * 8 * (2 * CHOICES + 1) * seeds + 3 * 4 * BLOCK * teacher_steps)


def teacher_states(sampler: Sampler, teacher: Plan, block: Block, steps: Sequence[Step]) -> list[NDArray[np.float64]]:
    """Return the teacher's x [seeds, elements] at each of the steps, and its sample at the end. `sampler` runs the
    teacher.

    Raises UserError if x is not the sum of signal and noise alone, or is not a single row of the teacher's state.
    """
    return _interpolate_states(teacher, _run_teacher(sampler, teacher, block), steps)


def shortest_path(states: NDArray[np.float64], predictions: NDArray[np.float64], steps: int) -> tuple[int, ...]:
    """Return the indices of `steps` + 1 times, including both ends, that minimise the largest error of a step.

    A step's error is the residual of the teacher's next state after least squares on the first state and on the
    predictions at the path's times. For a given bound of the error, each step is made as long as possible. Bisection
    finds the smallest bound that needs at most `steps` steps.

    Args:
        states: the teacher's x [times + 1, seeds, elements], the sample last.
        predictions: x0 [times, seeds, elements].
    """
    flattened = states.reshape(len(states), -1), predictions.reshape(len(predictions), -1)
    high = max(float(np.square(state).mean()) for state in flattened[0])  # the error of one step is below it
    low, best = LEAST * high, _find_bounded_path(*flattened, steps, high)
    for _ in range(BISECTIONS):
        bound = (low * high) ** 0.5
        if (path := _find_bounded_path(*flattened, steps, bound)) is None:
            low = bound
        else:
            high, best = bound, path
    assert best is not None
    return best


def _find_bounded_path(
    states: NDArray[np.float64], predictions: NDArray[np.float64], steps: int, bound: float
) -> tuple[int, ...] | None:
    """Return a path whose steps have errors below a bound, or None if it needs more than `steps` steps."""
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
    while len(path) <= steps:  # if the path has fewer steps, split the longest one in the middle
        gaps = np.diff(path)
        longest = int(gaps.argmax())
        path.insert(longest + 1, path[longest] + int(gaps[longest]) // 2)
    return tuple(path)


def _run_teacher(sampler: Sampler, teacher: Plan, block: Block) -> list[StepState]:
    steps = teacher.steps
    if teacher.given or any(s.alpha is None or s.sigma is None or np.count_nonzero(s.input) != 1 for s in steps):
        what = f"the states of the teacher {teacher.name} have parts other than x0 and noise"
        raise UserError(what, "choose a teacher that samples from noise")
    return list(block.run(teacher, block.step_network(sampler, teacher)))


def _interpolate_along(
    sampler: Sampler, teacher: Plan, block: Block, steps: Sequence[Step]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the teacher's states and predictions at the steps, without keeping its larger trajectory in memory."""
    trajectory = _run_teacher(sampler, teacher, block)
    predictions = np.stack([_interpolate_prediction(trajectory, step) for step in steps])
    return np.stack(_interpolate_states(teacher, trajectory, steps)), predictions


def _interpolate_states(
    teacher: Plan, trajectory: Sequence[StepState], steps: Sequence[Step]
) -> list[NDArray[np.float64]]:
    return [*(_interpolate_state(trajectory, step) for step in steps), flatten_samples(finish(teacher, trajectory))]


def _interpolate_state(trajectory: Sequence[StepState], step: Step) -> NDArray[np.float64]:
    """Return x at a step: sigma / sigma_i x_i + sigma int e^l x0(l) dl, integrated from lambda_i, with x0 linear in
    lambda."""
    lam, i = _lam(step), _preceding_place(trajectory, step)
    here = trajectory[i]
    assert step.alpha is not None and step.sigma is not None and here.step.sigma is not None
    (row,) = [row for row, number in enumerate(here.step.input) if number]  # the network's input is one scaled row
    x, p = flatten_samples(here.before[row]), flatten_samples(here.x0)
    h = lam - _lam(here.step) if isfinite(_lam(here.step)) else np.inf
    state = step.sigma / here.step.sigma * x + step.alpha * (1 - exp(-h)) * p
    if i + 1 < len(trajectory) and isfinite(h):
        whole = _lam(trajectory[i + 1].step) - _lam(here.step)
        state += step.alpha * (h - 1 + exp(-h)) / whole * (flatten_samples(trajectory[i + 1].x0) - p)
    return np.asarray(state)


def _preceding_place(trajectory: Sequence[StepState], step: Step) -> int:
    """Return the index of the trajectory's last state that is not cleaner than a step, or 0."""
    return max(j for j, state in enumerate(trajectory) if j == 0 or _lam(state.step) <= _lam(step))


def _lam(step: Step) -> float:
    return float(step.lam) if step.lam is not None else float("-inf")


def _interpolate_prediction(trajectory: Sequence[StepState], step: Step) -> NDArray[np.float64]:
    """Return the teacher's x0 at a step, interpolated linearly in lambda."""
    lam, i = _lam(step), _preceding_place(trajectory, step)
    here = flatten_samples(trajectory[i].x0)
    if i + 1 == len(trajectory) or not isfinite(_lam(trajectory[i].step)) or not isfinite(lam):
        return here
    share = (lam - _lam(trajectory[i].step)) / (_lam(trajectory[i + 1].step) - _lam(trajectory[i].step))
    return (1 - share) * here + share * flatten_samples(trajectory[i + 1].x0)
