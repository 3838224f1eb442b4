"""The executor: it runs a plan's steps on numpy arrays, and is the only implementation of a step at run time.

Deployment uses float32. Tests and measurements of float32's error use float64. Every row is computed elementwise, by
multiplications and additions in column order, so a sample is bitwise identical in any batch.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import DTypeLike, NDArray

from fewstep.plans import shaping
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND
from fewstep.plans.plan import NOISE, Bank, Plan, Row, Step, Tensor, Term, locate_step, steps_to_run, tensor_values
from fewstep.runtime.arrays import Arrays
from fewstep.runtime.sampling.slots import CarryingNetwork, Slot, Slots

Array = NDArray[np.floating]
StepNetwork = Callable[[int, Step, Array], Sequence[Array]]  # index, step, u [B, ...] -> heads of each branch in turn
Draws = Callable[[int], Array]  # a draw's number -> [B, ...]
Rows = Sequence[Array]  # the rows of a state

HOLD_DRAW = 0  # the noise of a held part is the draw that samples start from
FRESH_DRAW = 2**31  # number of the first draw of a fresh hold, larger than all draw numbers of plans


@dataclass(frozen=True)
class Hold:
    """The known part of a sample. Where `mask` is 1, the state is set to `value`, noised to the time of each step.

    Uses are inpainting, and a robot's actions that are already decided. A mask between 0 and 1 blends the state at
    each step, but not the final sample.

    value: [B, *x_shape], or a tuple of N + 1 such arrays: one for each of N steps, then one for the sample.
    mask: from 0 to 1, broadcast against a value.
    clean: insert the value without noise, for networks that are trained on a clean part and take the mask as a
        condition. Values for each step may also be states of another run, which already contain noise.
    fresh: noise the value with a new draw at each step, as RePaint does (Lugmayr et al. 2022, arXiv 2201.09865).
        Otherwise all steps use the draw that samples start from.
    """

    value: Array | tuple[Array, ...]
    mask: Array
    clean: bool = False
    fresh: bool = False

    def value_at(self, index: int) -> Array:
        """Return the value [B, *x_shape] at a step; index N is the final sample."""
        return self.value[index] if isinstance(self.value, tuple) else self.value


class StepEvaluation(msgspec.Struct, frozen=True):
    """An evaluation before its update: the rows of the state before it, the network's input `u`, and its outputs.
    `tensors` are the plan's tensors."""

    index: int
    step: Step
    before: Sequence[Array]
    u: Array
    outputs: Sequence[Array]  # one per branch and head
    shaped: Array | None  # the result of the step's shaping
    tensors: Sequence[Tensor] = ()

    @property
    def columns(self) -> list[Array]:
        """The columns of the update, without draws."""
        return [*self.before, *self.outputs, *([] if self.shaped is None else [self.shaped])]

    @property
    def x0(self) -> Array:
        """The predicted clean sample, after guidance and shaping: a preview."""
        (x0,) = make_rows(self.tensors, (self.step.x0,), self.step.x0_terms, self.columns, self.u.dtype)
        return x0


class StepState(StepEvaluation, frozen=True, kw_only=True):
    """An evaluation with its update: `after` are the rows of the state after it, and `slots` the carried tensors and
    named outputs, or None."""

    after: Sequence[Array]
    slots: Slots | None = None

    def sample(self, plan: Plan, hold: Hold | None = None, dtype: DTypeLike = np.float32) -> Array:
        """Return the sample [B, ...] of a run that ends after this step."""
        sample = combine(plan.output, self.after, dtype)
        return sample if hold is None else np.where(hold.mask == 1, hold.value_at(len(plan.steps)), sample)


RunStep = Callable[[int, Rows, Slots | None], StepState]  # a step's number, and the rows and slots before it


def combine(row: Row, arrays: Sequence[Array], dtype: DTypeLike) -> Array:
    """Return sum_j row[j] * arrays[j], for arrays of one dtype. Arrays with coefficient 0 are not read, so they may
    contain NaN."""
    total: Array | None = None
    is_new = False  # whether the total is a new array, which may be modified in place
    if len(row) != len(arrays):
        raise ValueError(f"{len(row)} coefficients for {len(arrays)} arrays")
    for column, coefficient in _nonzero_coefficients(row, arrays[0].dtype):
        term = arrays[column] if coefficient is None else arrays[column] * coefficient
        if total is None:
            total, is_new = term, coefficient is not None
        elif is_new and total.shape == term.shape:
            total += term
        else:
            total, is_new = total + term, True
    return np.zeros(arrays[0].shape, dtype) if total is None else total


@lru_cache(2**12)
def _nonzero_coefficients(row: Row, dtype: np.dtype[Any]) -> tuple[tuple[int, Any], ...]:
    """Return the columns of a row's nonzero coefficients, each with the coefficient in `dtype`, or None for 1.

    numpy multiplies by a zero-dimensional array in half the time that it needs for a Python float. For floating-point
    arrays the product is the same. For other arrays the coefficient stays a Python float, which numpy does not round to
    their type.
    """
    is_floating = np.issubdtype(dtype, np.floating)
    return tuple(
        (column, None if each == 1.0 else np.array(each, dtype) if is_floating else each)
        for column, each in enumerate(row)
        if each != 0.0
    )


def make_rows(
    tensors: Sequence[Tensor], table: Sequence[Row], terms: Sequence[Term], columns: Sequence[Array], dtype: DTypeLike
) -> list[Array]:
    """Return the rows of a new state. Each is one line of the table applied to the columns, plus its terms with tensor
    coefficients."""
    rows = [combine(row, columns, dtype) for row in table]
    for term in terms:  # most plans have none
        tensor = tensor_values(tensors[term.tensor]).astype(dtype)
        rows[term.row] = rows[term.row] + (tensor if term.column is None else tensor * columns[term.column])
    return rows


def network_input(plan: Plan, step: Step, rows: Sequence[Array], dtype: DTypeLike) -> Array:
    """Return a step's network input u [B, *x_shape]. For a self-conditioned network, u is [B, 2 C, ...]: x, followed by
    the previous x0."""
    if step.input_terms:
        (u,) = make_rows(plan.tensors, (step.input,), step.input_terms, rows, dtype)
    else:  # of most plans
        u = combine(step.input, rows, dtype)
    return np.concatenate([u, combine(step.estimate, rows, dtype)], axis=1) if step.estimate else u


def begin(plan: Plan, draws: Draws, dtype: DTypeLike, given: Mapping[str, Array]) -> list[Array]:
    """Return the state before the first step."""
    columns = [np.asarray(given[name], dtype) for name in plan.given]
    columns += [np.asarray(draws(number), dtype) for number in plan.start_draws]
    return make_rows(plan.tensors, plan.start, plan.start_terms, columns, dtype)


def x_row(step: Step) -> tuple[int, float, float]:
    """Return (the index of the state row that is x at a step, alpha, sigma). Raises UserError for a step at which no
    part of x can be held."""
    if step.alpha is None or step.sigma is None:
        raise UserError("a plan of an older version cannot hold part of a sample", "compile the plan again")
    rows = [k for k, coefficient in enumerate(step.input) if coefficient != 0.0]
    if len(rows) != 1:
        raise UserError(
            f"the network's input at time {step.time:g} combines {len(rows)} state tensors, so hold cannot set x",
            "leave hold out, or use a plan whose network takes x itself",
        )
    return rows[0], step.alpha, step.sigma


def apply_hold(plan: Plan, index: int, state: Sequence[Array], hold: Hold, draws: Draws) -> list[Array]:
    """Return the state with x replaced, where the mask is 1, by the held value at the noise level of the step's time. A
    step that is `unheld` keeps its noise."""
    if plan.steps[index].unheld and not hold.clean:
        return list(state)
    row, alpha, sigma = x_row(plan.steps[index])
    rows, held, kind = list(state), hold.value_at(index), state[0].dtype.type
    if not hold.clean:
        left = len(plan.steps) - index  # counted from the end, so that a tail draws the same noise
        noise = np.asarray(draws(FRESH_DRAW + left if hold.fresh else HOLD_DRAW), state[0].dtype)
        held = kind(alpha) * held + kind(sigma) * noise
    rows[row] = hold.mask * held + (1 - hold.mask) * rows[row]
    return rows


def build_evaluation(
    plan: Plan, index: int, state: Sequence[Array], u: Array, outputs: Sequence[Array], dtype: DTypeLike = np.float32
) -> StepEvaluation:
    """Return the network's outputs at step `index`, with the shaped prediction. Noise is not drawn yet."""
    step = plan.steps[index]
    outputs = [np.asarray(output, dtype) for output in outputs]
    return StepEvaluation(index, step, state, u, outputs, _shape(plan, step, state, outputs, dtype), plan.tensors)


def _shape(plan: Plan, step: Step, state: Sequence[Array], outputs: Sequence[Array], dtype: DTypeLike) -> Array | None:
    """Return the shaped prediction of a step; None if it has no shaping."""
    if step.shaping is None:
        return None
    values = make_rows(plan.tensors, step.shaping_of, step.shaping_terms, [*state, *outputs], dtype)
    return shaping.apply(step.shaping, values)


def _read_draws(step: Step, columns: Sequence[Array], draws: Draws, dtype: DTypeLike) -> list[Array]:
    """Return the noise that a step draws. `columns` are those of its `log_scale`."""
    drawn = [np.asarray(draws(number), dtype) for number in step.draws]
    if step.log_scale:
        drawn[0] = drawn[0] * np.exp(combine(step.log_scale, columns, dtype))
    return drawn


def update(plan: Plan, evaluation: StepEvaluation, draws: Draws, dtype: DTypeLike = np.float32) -> list[Array]:
    """Return the state after an evaluation."""
    drawn = _read_draws(evaluation.step, [*evaluation.before, *evaluation.outputs], draws, dtype)
    columns = [*evaluation.columns, *drawn]
    return make_rows(plan.tensors, evaluation.step.update, evaluation.step.terms, columns, dtype)


def advance(
    plan: Plan, index: int, state: Sequence[Array], u: Array, outputs: Sequence[Array], draws: Draws, dtype: DTypeLike
) -> StepState:
    """Compute step `index` from the state and the network's outputs."""
    step = plan.steps[index]  # like `build_evaluation` and `update`, without a struct between them
    outputs = [np.asarray(output, dtype) for output in outputs]
    shaped = _shape(plan, step, state, outputs, dtype)
    columns = [*state, *outputs] if shaped is None else [*state, *outputs, shaped]
    columns += _read_draws(step, [*state, *outputs], draws, dtype)
    after = make_rows(plan.tensors, step.update, step.terms, columns, dtype)
    return StepState(index, step, state, u, outputs, shaped, plan.tensors, after=after)


def carry_in(plan: Plan, step: Step, slots: Slots, dtype: DTypeLike = np.float32) -> dict[str, Array]:
    """Return the carried tensors [branches * B, *shape] that the network takes at a step, by name."""
    fed = {}
    for read in step.carry_in:
        name = plan.banks[read.bank].name
        pairs = zip(slots.banks[name], read.row, strict=True)
        tensors = [slot.select_branches(step.branches) for slot, number in pairs if slot is not None and number]
        fed[name] = combine(tuple(filter(None, read.row)), tensors, dtype)
    return fed


def carry(plan: Plan, step: Step, slots: Slots, made: Arrays, dtype: DTypeLike = np.float32) -> Slots:
    """Return the slots of carried tensors after a step.

    made: the carried tensors and named outputs that the network returned, [branches * B, *shape].
    """
    banks = {name: list(bank) for name, bank in slots.banks.items()}
    for write in step.carry:
        name = plan.banks[write.bank].name
        sources = [*slots.banks[name], Slot(step.branches, made[name]) if write.row[-1] else None]
        read = [source for source, number in zip(sources, write.row, strict=True) if source is not None and number]
        branches = tuple(
            branch for branch in read[0].branches if all(branch in prediction.branches for prediction in read)
        )
        value = combine(
            tuple(filter(None, write.row)), [prediction.select_branches(branches) for prediction in read], dtype
        )
        banks[name][write.slot] = Slot(branches, value)
    first = step.branches.index(COND) if COND in step.branches else 0
    named = {
        name: tensor.reshape(len(step.branches), -1, *tensor.shape[1:])[first]
        for name, tensor in made.items()
        if name not in banks
    }
    return Slots({name: tuple(bank) for name, bank in banks.items()}, named)


def execute(
    plan: Plan,
    network: StepNetwork | CarryingNetwork,
    draws: Draws,
    dtype: DTypeLike = np.float32,
    given: Mapping[str, Array] | None = None,
    hold: Hold | None = None,
) -> Iterator[StepState]:
    """Run a plan. Yields one `StepState` per evaluation.

    Args:
        network: `network(index, step, u)` -> one output per branch and head of the step, each of u's shape [B, ...].
            A network that also returns carried tensors or named outputs is a `CarryingNetwork`.
        draws: `draws(number)` -> standard normal array [B, ...]; called once for each draw that a step reads.
        given: the plan's given tensors [B, ...].
        hold: the known part of the sample.
    """
    run = _begin_run(plan, network, draws, dtype, given or {}, hold)
    rows, slots = run.rows, run.slots
    for index in range(run.first, len(plan.steps)):
        state = run.step(index, rows, slots)
        yield state
        rows, slots = state.after, state.slots


class _Run(NamedTuple):
    """A run before its first step: the function that computes a step, the state rows, the slots of carried tensors
    (None without any), and the index of the first step."""

    step: RunStep
    rows: Rows
    slots: Slots | None
    first: int


def _begin_run(
    plan: Plan,
    network: StepNetwork | CarryingNetwork,
    draws: Draws,
    dtype: DTypeLike,
    given: Mapping[str, Array],
    hold: Hold | None,
) -> _Run:
    """Prepare a run. The function of one step is wrapped in others if the run has carried tensors, a hold or rolling
    positions."""
    started = draws if hold is None or hold.fresh else cache(draws)  # a hold reads the start's draw at every step
    if isinstance(network, CarryingNetwork):
        slots, rows, first = network.slots, network.slots.rows(plan), network.slots.first_step(plan)
        if rows is not None:  # a continued run: its first step shifts the state and appends fresh rows (`Step.enters`)
            plan = msgspec.structs.replace(plan, steps=(*plan.steps[:first], *steps_to_run(plan)))
        step = _carrying_step(plan, network, draws, dtype)
    else:
        step, slots, rows, first = _plain_step(plan, network, draws, dtype), None, None, 0
    if hold is not None:
        passed = {HOLD_DRAW: given[NOISE]} if NOISE in plan.given else {}  # a hold has the noise of the start
        step = _hold_before(step, plan, hold, lambda number: passed[number] if number in passed else started(number))
    if plan.rolling_bank is not None:
        step = _roll_around(step, plan, plan.rolling_bank, started, dtype)
    return _Run(step, begin(plan, started, dtype, given) if rows is None else rows, slots, first)


def _plain_step(plan: Plan, network: StepNetwork, draws: Draws, dtype: DTypeLike) -> RunStep:
    """Return the function of a step: combine the network's input, evaluate it, and combine the next state."""

    def run_step(index: int, rows: Rows, slots: Slots | None = None) -> StepState:
        step = plan.steps[index]
        u = network_input(plan, step, rows, dtype)
        return advance(plan, index, rows, u, network(index, step, u), draws, dtype)

    return run_step


def _carrying_step(plan: Plan, network: CarryingNetwork, draws: Draws, dtype: DTypeLike) -> RunStep:
    """Return the function of one step for a network with carried tensors. The state that it returns also contains the
    slots of carried tensors after the step."""

    def run_step(index: int, rows: Rows, slots: Slots | None) -> StepState:
        assert slots is not None
        before, returned = slots, dict[str, Array]()

        def call(index: int, step: Step, u: Array) -> Sequence[Array]:
            outputs, made = network.call(index, step, u, carry_in(plan, step, before, dtype))
            returned.update(made)
            return outputs

        state = _plain_step(plan, call, draws, dtype)(index, rows, None)
        after = replace(carry(plan, state.step, slots, returned, dtype), next=locate_step(plan, index + 1))
        return msgspec.structs.replace(state, slots=after)

    return run_step


def _hold_before(run_step: RunStep, plan: Plan, hold: Hold, draws: Draws) -> RunStep:
    """Return a function that runs a step after it has set the held elements of x to their given values."""
    return lambda index, rows, slots: run_step(index, apply_hold(plan, index, rows, hold, draws), slots)


def _roll_around(run_step: RunStep, plan: Plan, bank: Bank, draws: Draws, dtype: DTypeLike) -> RunStep:
    """Return a function of a step that, at a step of a rolling plan, first shifts the positions of the state forward.
    `bank` stores the state rows after each step."""

    def run_rolling(index: int, rows: Rows, slots: Slots | None) -> StepState:
        state = run_step(index, _roll_rows(plan, plan.steps[index], rows, draws, dtype), slots)
        if state.slots is None:
            return state
        return msgspec.structs.replace(state, slots=state.slots.with_rows(bank.name, state.after))

    return run_rolling


def _roll_rows(plan: Plan, step: Step, rows: Rows, draws: Draws, dtype: DTypeLike) -> Rows:
    """Return the state rows before a step. A step of a rolling plan first shifts positions forward, and appends new
    positions that start from noise."""
    if step.enters is None or plan.rolling_bank is None or (rolls := plan.rolling_bank.rolls) is None:
        return rows
    fresh = make_rows(plan.tensors, plan.start, (), [np.asarray(draws(bank), dtype) for bank in step.enters], dtype)
    later_axes: Any = (slice(None),) * (-rolls.axis - 1)
    stays, new = (..., slice(rolls.by, None), *later_axes), (..., slice(-rolls.by, None), *later_axes)
    return [np.concatenate([row[stays], start[new]], rolls.axis) for row, start in zip(rows, fresh, strict=True)]


def finish(plan: Plan, states: Iterable[StepState], dtype: DTypeLike = np.float32, hold: Hold | None = None) -> Array:
    """Consume a run's states and return its sample [B, ...]. Only the last state is kept in memory."""
    (last,) = deque(states, maxlen=1)
    return last.sample(plan, hold, dtype)
