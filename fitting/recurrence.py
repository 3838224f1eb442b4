"""A plan in the form in which it is fitted: each new x is a linear combination of the previous x and the last
predictions.

    x_{i+1} = rows[i, 0] x_i + sum_j rows[i, 1 + j] p_{i-j} + sum_k rows[i, 1 + history + k] y_k

Here p_i is the predicted sample after guidance and shaping, and y are the given tensors. Every deterministic solver
with one network has this form if `history` is long enough (Shaul et al. 2024, arXiv 2403.01329). A fit adds corrections
to the solver's coefficients and times, so corrections of 0 leave the solver unchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, UNCOND
from fewstep.plans.plan import Plan, Row, Step

Array = NDArray[np.float64]
NEGLIGIBLE = 1e-9  # rounding errors, relative to a row's largest coefficient


@dataclass(frozen=True)
class Recurrence:
    """The numbers of a plan of N steps. Everything else is taken from `nominal`, the plan from which they were
    extracted.

    times: [N], the times that the network receives.
    lean: [N], the change of guidance: a number that is added to the weight of the conditional branch and subtracted
        from that of the unconditional one.
    rows: [N, 1 + history + given], the coefficients of x, of the predictions, newest first, and of the given tensors.
    start: [given + 1], the coefficients of the given tensors and of the first draw in the first x.
    scales: [N], the coefficient of x in the network's input.
    shown: [N, given], the coefficients of the given tensors in the network's input.
    base: [N, 1 + given], the coefficients of x and of the given tensors in each prediction. The coefficients of the
        network's outputs are those of `nominal`.
    """

    nominal: Plan
    times: Array
    lean: Array
    rows: Array
    start: Array
    scales: Array
    shown: Array
    base: Array

    @property
    def steps(self) -> int:
        return len(self.times)

    @property
    def history(self) -> int:
        """The number of predictions that a row may read."""
        return int(self.rows.shape[1]) - 1 - len(self.nominal.given)


def extract_recurrence(plan: Plan, history: int = 1) -> Recurrence:
    """Return the coefficients and times of a plan. Each step reads `history` earlier predictions, or more if the plan
    needs more.

    Raises UserError for plans that draw noise during steps, contain tensors, or cannot be written in the form that this
    module describes.
    """
    _check(plan)
    given, steps = len(plan.given), len(plan.steps)
    width = given + 1 + steps
    state = np.zeros((plan.rows, width))
    state[:, : given + 1] = np.array(plan.start)
    units = np.eye(width)
    xs, scales, shown, base = [], [], [], []
    for i, step in enumerate(plan.steps):
        scale, x, of_given = _decompose_input(plan, step, state, units[:given])
        prediction = np.array(step.x0[len(step.input) :])  # coefficients of the outputs, and of their shaping
        previous = np.array(step.x0[: plan.rows]) @ state
        unshaped = np.array(step.shaping_of[0][: plan.rows]) @ state if step.shaping_of else 0.0
        xs.append(x)
        scales.append(scale)
        shown.append(of_given)
        base.append(_decompose_row(plan, previous + unshaped, x, units[:given]))  # one of the two summands is 0
        update = np.array(step.update)
        reads = update[:, plan.rows :]
        shares = reads @ prediction / (prediction @ prediction)
        if np.abs(reads - np.outer(shares, prediction)).max() > NEGLIGIBLE * np.abs(reads).max(initial=1.0):
            raise _refuse_plan(plan, "updates x with the network's outputs in addition to its prediction")
        state = update[:, : plan.rows] @ state + np.outer(shares, units[given + 1 + i] - previous)
    xs.append(np.array(plan.output) @ state)
    columns = [_solve_combination(before, after, given) for before, after in zip(xs, xs[1:], strict=False)]
    needed = max(i + 1 - _first_nonzero(numbers[1 + given :]) for i, numbers in enumerate(columns))
    history = max(history, needed, 1)
    rows = np.zeros((steps, 1 + history + given))
    for i, numbers in enumerate(columns):
        rows[i, 0] = numbers[0]
        newest_first = numbers[1 + given : 1 + given + i + 1][::-1][:history]
        rows[i, 1 : 1 + len(newest_first)] = newest_first
        rows[i, 1 + history :] = numbers[1 : 1 + given]
    return Recurrence(
        nominal=plan,
        times=np.array([step.time for step in plan.steps]),
        lean=np.zeros(steps),
        rows=rows,
        start=xs[0][: given + 1],
        scales=np.array(scales),
        shown=np.array(shown).reshape(steps, given),
        base=np.array(base).reshape(steps, 1 + given),
    )


def build_plan(numbers: Recurrence, name: str | None = None) -> Plan:
    """Return the plan with the coefficients and times of `numbers`. Its state rows are x, the stored predictions, and
    the given tensors."""
    plan, history, given = numbers.nominal, numbers.history, len(numbers.nominal.given)
    start = np.zeros((history + given, given + 1))
    start[0] = numbers.start
    start[history:, :given] = np.eye(given)
    return msgspec.structs.replace(
        plan,
        name=plan.name if name is None else name,
        rows=history + given,
        start=_to_rows(start),
        start_terms=(),
        steps=tuple(_build_step(numbers, i) for i in range(numbers.steps)),
        output=_to_row(np.eye(history + given)[0]),
        tensors=(),
    )


def _build_step(numbers: Recurrence, i: int) -> Step:
    """Return step i as `build_plan` writes it, with its coefficients converted to the state rows of that plan."""
    step, old_rows = numbers.nominal.steps[i], numbers.nominal.rows
    base, lean = _expand_shares(numbers, numbers.base[i]), _guidance_shares(step, numbers.lean[i])

    def line(reads: Row, leans: bool) -> Array:
        """Convert a row of coefficients of the nominal step to the new state and the outputs."""
        of_state, of_outputs = np.array(reads[:old_rows]), np.array(reads[old_rows:])
        leaning = of_outputs.sum() * lean if leans else 0.0
        return np.concatenate([base * np.any(of_state), of_outputs + leaning])

    x0 = line(step.x0, leans=step.shaping is None)
    return msgspec.structs.replace(
        step,
        time=float(numbers.times[i]),
        input=_to_row(_expand_shares(numbers, [numbers.scales[i], *numbers.shown[i]])),
        shaping_of=_to_rows([line(reads, leans=number == 0) for number, reads in enumerate(step.shaping_of)]),
        x0=_to_row(x0),
        update=_to_rows(_update(numbers, i, x0)),
        terms=(),
    )


def _expand_shares(numbers: Recurrence, shares: Sequence[float] | Array) -> Array:
    """Expand the coefficients of x and of the given tensors to a row over all state rows, with zeros for the stored
    predictions."""
    return np.concatenate([shares[:1], np.zeros(numbers.history - 1), shares[1:]])


def _guidance_shares(step: Step, by: float) -> Array:
    """Return the coefficients of a step's outputs that a change `by` of the guidance weight adds."""
    lean = np.zeros(len(step.branches) * step.heads)
    if by:
        lean[step.branches.index(COND) * step.heads] = by
        lean[step.branches.index(UNCOND) * step.heads] = -by
    return lean


def _update(numbers: Recurrence, i: int, x0: Array) -> Array:
    """Return the state, as linear combinations, after step i, whose prediction is `x0`. Stored predictions move to the
    next row, and the rows of given tensors stay unchanged."""
    history, row = numbers.history, numbers.rows[i]
    rows = history + len(numbers.nominal.given)
    update = np.zeros((rows, len(x0)))
    update[0] = row[1] * x0
    update[0, 0] += row[0]
    update[0, 1:rows] += row[2:]
    if history > 1 and i + 1 < numbers.steps:
        update[1] = x0
        update[range(2, history), range(1, history - 1)] = 1.0
    update[range(history, rows), range(history, rows)] = 1.0
    return update


def _check(plan: Plan) -> None:
    if any(step.draws for step in plan.steps):
        raise UserError(
            f"plan {plan.name!r} draws noise in its steps, so it does not follow the teacher from the same seed",
            "choose a deterministic solver, such as dpmpp_2m or unipc_2",
        )
    if plan.tensors or any(step.terms for step in plan.steps):
        raise UserError(
            f"plan {plan.name!r} contains tensors", "fit a plan whose coefficients are numbers, such as dpmpp_2m"
        )
    if plan.banks:
        raise _refuse_plan(plan, "has light steps or carries tensors")
    if len(plan.start_draws) > 1:
        raise _refuse_plan(plan, f"starts from {len(plan.start_draws)} draws")


def _refuse_plan(plan: Plan, reason: str) -> UserError:
    return UserError(f"plan {plan.name!r} {reason}, and cannot be fitted", "choose dpmpp_2m, unipc_2 or ddim")


def _decompose_input(plan: Plan, step: Step, state: Array, units: Array) -> tuple[float, Array, Array]:
    """Express the network's input as a multiple of x plus the given tensors. Return the coefficient of x, x as a
    combination of the basis `units`, and the coefficients of the given tensors."""
    rows = [row for row, number in enumerate(step.input) if number]
    held = {row: k for row in rows for k, unit in enumerate(units) if np.array_equal(state[row], unit)}
    moving = [row for row in rows if row not in held]
    of_given = np.zeros(len(units))
    for row, k in held.items():
        of_given[k] += step.input[row]
    if not moving:
        raise _refuse_plan(plan, "feeds the network only given tensors")
    scale = step.input[moving[0]] if len(moving) == 1 else 1.0
    x = np.array([step.input[row] for row in moving]) @ state[moving] / scale
    return scale, x, of_given


def _decompose_row(plan: Plan, previous: Array, x: Array, units: Array) -> Array:
    """Return (of_x, of_given of each given tensor) with previous = of_x x + of_given . y."""
    given = len(units)
    free = slice(given, None)
    of_x = float(previous[free] @ x[free] / (x[free] @ x[free]))
    left = previous - of_x * x
    if np.abs(left[free]).max() > NEGLIGIBLE * max(1.0, np.abs(previous).max()):
        raise _refuse_plan(plan, "computes its prediction from more than the network's input and outputs")
    return np.concatenate([[of_x], left[:given]])


def _solve_combination(before: Array, after: Array, given: int) -> Array:
    """Return the coefficients of x, of the given tensors and of p_0, p_1, ... whose combination is `after`."""
    of_x = after[given] / before[given] if before[given] else 0.0
    left = after - of_x * before
    left[np.abs(left) < NEGLIGIBLE * np.abs(after).max(initial=1e-300)] = 0.0
    return np.concatenate([[of_x], left[:given], left[given + 1 :]])


def _first_nonzero(numbers: Array) -> int:
    """Return the index of the first number that is not 0, or the length if all are 0."""
    places = np.flatnonzero(numbers)
    return int(places[0]) if len(places) else len(numbers)


def _to_row(numbers: Array) -> Row:
    return tuple(float(number) for number in numbers)


def _to_rows(matrix: Sequence[Array] | Array) -> tuple[Row, ...]:
    return tuple(_to_row(line) for line in matrix)
