"""Replace the first evaluations of a plan by a formula: where x is nearly pure noise, the output of a denoiser is
known."""

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, Row, Tensor, Term, make_tensor
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.shaping import Rescale
from fewstep.plans.transforms.start_checks import check_start, noise_levels

Matrix = NDArray[np.float64]


def analytic_first_step(plan: Plan, mean: ArrayLike = 0.0) -> Plan:
    """Return the plan without its first evaluation: x0 = `mean` is used instead of its prediction.

    The analytic first step of Dockhorn, Vahdat, Kreis 2022 (arXiv 2210.05475) has the mean 0; Liu et al. 2023 (arXiv
    2312.07243) use the mean of the data. It is exact where x contains no information about the data, as at the noisiest
    time. The start keeps its draws.

    Args:
        mean: the mean of the data, as one number or with the shape of a sample.
    """
    if len(plan.steps) < 2:
        raise UserError(
            f"plan {plan.name!r} has one evaluation, and an analytic first step leaves it none", "use 2 steps or more"
        )
    first = plan.steps[0]
    if first.terms or plan.start_terms or first.heads > 1 or isinstance(first.shaping, Rescale):
        raise UserError(
            f"the first step of plan {plan.name!r} holds tensors, several outputs or a rescaling",
            "use the plan without an analytic first step",
        )
    K, outputs = plan.rows, len(first.branches)
    x0 = np.array(first.shaping_of[0] if first.shaping is not None else first.x0)
    # x0 = known . S + share * output for a common output of all branches; it has to be the mean
    of_state, share = x0[:K], float(x0[K : K + outputs].sum())
    update, start = np.array(first.update), np.array(plan.start)
    of_output = update[:, K : K + outputs].sum(axis=1) / share
    of_mean = of_output + (update[:, K + outputs] if first.shaping is not None else 0.0)
    fresh = update[:, K + outputs + (first.shaping is not None) :]
    begun = (update[:, :K] - np.outer(of_output, of_state)) @ start
    start_terms, tensors = _constants(of_mean, np.asarray(mean, np.float64), plan.tensors)
    return msgspec.structs.replace(
        plan,
        name=f"{plan.name} with an analytic first step",
        start=_rows(np.concatenate([begun, fresh], axis=1)),
        start_terms=start_terms,
        start_draws=(*plan.start_draws, *first.draws),
        steps=plan.steps[1:],
        tensors=tensors,
        tail_of=None,
        first_step=0,
    )


def gaussian_start(plan: Plan, schedule: NoiseSchedule, mean: ArrayLike, variance: ArrayLike) -> Plan:
    """Return the plan with a start at its first time instead of the schedule's noisiest time: x is moved there along
    the trajectory of Gaussian data of this mean and variance ("teleportation": Wang & Vastola 2024, arXiv 2412.09726).

    With a_T, s_T at the noisiest time and a, s at the plan's first evaluation,

        x = a mean + sqrt((a^2 variance + s^2) / (a_T^2 variance + s_T^2)) (s_T z - a_T mean).

    This is the exact solution of the probability-flow ODE for such data, and nearly exact for other data while noise
    dominates. It saves the first 15 to 30 % of a plan. Elements are treated as independent: a full covariance would
    need a product with its eigenvectors, which a plan cannot contain.

    Args:
        plan: a plan that starts from one draw. The network is first evaluated at its first time.
        mean, variance: those of the data, as numbers or with the shape of a sample.
    """
    row, first, noisiest, start = check_start(plan), noise_levels(plan)[0], schedule.noisiest, np.array(plan.start)
    mean, variance = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
    if not (variance >= 0).all():
        raise UserError("the variance is negative", "give the variance of the data")
    spread = np.sqrt((first.alpha**2 * variance + first.sigma**2) / (noisiest.alpha**2 * variance + noisiest.sigma**2))
    at_row = np.zeros(plan.rows)
    at_row[row] = 1.0
    terms, tensors = _constants(at_row, (first.alpha - spread * noisiest.alpha) * mean, plan.tensors)
    if spread.ndim == 0:
        start[row, 0] = float(spread) * noisiest.sigma
    else:
        start[row, 0] = 0.0
        terms = (*terms, Term(row, 0, len(tensors)))
        tensors = (*tensors, make_tensor(spread * noisiest.sigma))
    name = f"{plan.name} from a Gaussian start"
    return msgspec.structs.replace(plan, name=name, start=_rows(start), start_terms=terms, tensors=tensors)


def _constants(
    shares: Matrix, value: Matrix, tensors: tuple[Tensor, ...]
) -> tuple[tuple[Term, ...], tuple[Tensor, ...]]:
    """Return terms that add shares[row] * value to each row of the start, and `tensors` extended by the tensors to
    which the terms refer."""
    terms = []
    for row in np.flatnonzero(shares):
        if value.any():
            terms.append(Term(int(row), None, len(tensors)))
            tensors = (*tensors, make_tensor(np.atleast_1d(shares[row] * value)))
    return tuple(terms), tensors


def _rows(matrix: Matrix) -> tuple[Row, ...]:
    return tuple(tuple(float(number) for number in line) for line in matrix)
