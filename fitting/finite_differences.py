"""Derivatives of samples with respect to each free number, by finite differences of single network evaluations.

A change of a number changes the next x. From there on, changes follow the recurrence of the plan:

    dx_{i+1} = rows[i, 0] dx_i + sum_j rows[i, 1 + j] dp_{i-j} + change of row i,   dp_i = D_i dx_i + own change of p_i

Only D_i, the derivative of a prediction with respect to x, needs the network. D_i is linear, and for each sample, the
dx_i of all numbers lie near a few directions. So D_i is measured along at most DIRECTIONS directions, the strongest
ones. For the rest of dx_i, D_i is approximated by its factor along the weakest measured direction.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.blocks import Block, append_times, flatten_samples
from fewstep.fitting.free_numbers import Number, add_to_numbers
from fewstep.fitting.jacobian import Jacobian
from fewstep.fitting.recurrence import Recurrence, build_plan
from fewstep.plans.plan import Plan
from fewstep.runtime.sampling.execute import StepNetwork, StepState, build_evaluation, combine, finish
from fewstep.runtime.sampling.sampler import Sampler

Float64 = NDArray[np.float64]

DIRECTIONS = 8  # directions of each sample at each step along which D_i is measured
ENOUGH = 1e-4  # share of the energy of all normalised changes that may remain unmeasured
NUDGE = 1e-2  # length of a difference of x, relative to its root mean square
NOTHING = 1e-30  # lower bound of a length, so that none is 0


def measure_jacobian(sampler: Sampler, numbers: Recurrence, free: Sequence[Number], block: Block) -> Jacobian:
    """Return the Jacobian of a block's samples with respect to the coefficients and times in `free`."""
    plan, count = build_plan(numbers), numbers.steps
    nudged = numbers.times.copy()
    for number in free:
        if number.kind == "times":
            nudged[number.step] += number.size
    leans = [number for number in free if number.kind == "lean"]
    leaned = build_plan(add_to_numbers(numbers, leans, np.array([number.size for number in leans])))
    both = append_times(plan, nudged)
    network = block.step_network(sampler, both)
    states = list(block.run(plan, network))
    seeds, base = len(block.seeds), finish(plan, states)
    of_x = np.zeros((seeds, len(free), base[0].size))
    of_ps: list[Float64] = []  # the changes of predictions, newest first
    for k, state in enumerate(states):
        of_p = np.zeros_like(of_x)
        moving = [place for place, number in enumerate(free) if number.step < k]
        if moving:
            of_p[:, moving] = _derivative(plan, state, network, of_x[:, moving])
        for place, number in enumerate(free):
            if number.step == k and number.kind == "times":
                outputs = network(k + count, both.steps[k + count], state.u)
                of_p[:, place] = flatten_samples(
                    build_evaluation(plan, k, state.before, state.u, outputs).x0
                ) - flatten_samples(state.x0)
            elif number.step == k and number.kind == "lean":
                other = build_evaluation(leaned, k, state.before, state.u, state.outputs)
                of_p[:, place] = flatten_samples(other.x0) - flatten_samples(state.x0)
        of_ps = [of_p, *of_ps[: numbers.history - 1]]
        of_x = numbers.rows[k, 0] * of_x + sum(c * each for c, each in zip(numbers.rows[k, 1:], of_ps, strict=False))
        columns = [state.before[0], state.x0, *state.before[1:]]
        for place, number in enumerate(free):
            if number.step == k and number.kind == "rows":
                of_x[:, place] += number.size * flatten_samples(columns[number.column])
    return Jacobian(
        columns=of_x.astype(np.float32),
        samples=base.reshape(seeds, -1),
        targets=block.required_target.reshape(seeds, -1),
    )


def count_calls(numbers: Sequence[int]) -> int:
    """Return the maximum number of network evaluations needed for the Jacobian of one sample. `numbers` has the number
    of free coefficients and times of each step."""
    return 2 * len(numbers) + sum(min(sum(numbers[:k]), DIRECTIONS) for k in range(len(numbers)))


def _derivative(plan: Plan, state: StepState, network: StepNetwork, of_x: Float64) -> Float64:
    """Return D dx for each dx [seeds, M, elements]. The order of sums does not depend on the number of threads."""
    seeds, count, elements = of_x.shape
    lengths = np.maximum(np.sqrt(np.einsum("sme,sme->sm", of_x, of_x)), NOTHING)
    units = of_x / lengths[:, :, None]
    energies, mixes = np.linalg.eigh(np.einsum("sme,sne->smn", units, units))
    energies, mixes = np.maximum(energies[:, ::-1], 0), mixes[:, :, ::-1]
    left = 1 - np.cumsum(energies, axis=1) / energies.sum(axis=1, keepdims=True)
    needed = min(1 + int((left > ENOUGH).sum(axis=1).max()), count, DIRECTIONS)
    shares = mixes[:, :, :needed] * lengths[:, :, None]
    x, p = flatten_samples(state.before[0]), flatten_samples(state.x0)
    reach = NUDGE * np.sqrt(np.einsum("se,se->s", x, x))[:, None]
    derivative, rest, slope = np.zeros_like(of_x), of_x.copy(), np.zeros((seeds, 1))
    for j in range(needed):
        direction = np.einsum("sm,sme->se", mixes[:, :, j], units)
        length = np.maximum(np.sqrt(np.einsum("se,se->s", direction, direction)), NOTHING)[:, None]
        direction = direction / length
        before = [(x + reach * direction).astype(np.float32).reshape(state.u.shape), *state.before[1:]]
        u = combine(state.step.input, before, np.float32)
        evaluation = build_evaluation(plan, state.index, before, u, network(state.index, state.step, u))
        change = (flatten_samples(evaluation.x0) - p) / np.maximum(reach, NOTHING)
        share = shares[:, :, j, None] * length[:, :, None]
        derivative += share * change[:, None, :]
        rest -= share * direction[:, None, :]
        slope = np.einsum("se,se->s", change, direction)[:, None]
    return np.asarray(derivative + slope[:, :, None] * rest)
