"""A plan is a sampler as a table of numbers, compiled ahead of time in float64 and run by one executor.

The state S has `rows` rows, each the size of a sample. It starts as S = start . [given; draws], and step i does

    u  = input . S                            the network's input, with estimate . S after it if there is one
    o  = network(u, time, branch)             one output per branch and head
    p  = shaping(shaping_of . [S; o])         only if the step has a shaping: clip, threshold, rescale
    z  = draw * exp(log_scale . [S; o])       the first draw, only if the network predicts its variance
    S' = update . [S; o; p; draws]            guidance weights and the conversion to x0 are folded in

and the sample is output . S after the last step. A coefficient that varies within a sample is a tensor (`terms`).

Some networks also take and return *carried* tensors of separate shapes, such as keys and values, or features. Each has
a bank of slots c, of which a step reads and writes rows. The branches of a step are concatenated along a slot's first
axis:

    o, made = network(u, time, branch, carry_in . c)
    c'      = carry . [c; made]

Nothing depends on the data, so any number of threads can share a plan. `compile.py` compiles plans, `carried_banks.py`
adds banks, and `file.py` writes and reads plans.
"""

from collections.abc import Sequence
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.guidance import Guidance
from fewstep.plans.shaping import Shaping
from fewstep.plans.spec import Prediction, Strict

SCHEMA = 3
DENOISER = "denoiser"  # the name of a step's network, if the plan has only one
LIGHT = "light"  # the network of a step that reads features of an earlier one (`light_steps.py`)
IMAGE = "image"  # the given tensor that a solver starts from instead of pure noise, and that `hold` restores
STATE = "state"  # the bank of the state's rows, if a run continues from the state of the previous run
NOISE = "noise"  # the given tensor that replaces the first draw, if the caller passes the noise
AXES_LIMIT = 32  # maximum number of axes of a tensor: the limit of the oldest numpy

Row = tuple[float, ...]


class Tensor(Strict, frozen=True):
    """Coefficients that vary within a sample: float64, little-endian, broadcast to a sample's shape."""

    shape: tuple[int, ...]
    data: bytes


class Term(Strict, frozen=True):
    """A term with a tensor coefficient in a table of a plan: row[`row`] += tensors[`tensor`] * column[`column`],
    elementwise. If `column` is None, the tensor itself is added."""

    row: int
    column: int | None
    tensor: int


class Roll(Strict, frozen=True):
    """How a run continues from the state of the previous run: it executes only the last `steps` steps.

    Before them the state shifts forward by `by` positions along `axis` of a sample, which is negative. The positions
    that leave at the front are finished. Positions of the start's state are appended at the end.
    """

    axis: int
    by: int
    steps: int


class Bank(Strict, frozen=True, omit_defaults=True):
    """The slots of a carried tensor. If `rolls` is set, they are the rows of the state instead, and steps neither read
    nor write them.

    is_kept: whether a run begins with the slots of the previous run (zeros in the first run). Otherwise a slot is empty
        until a step writes it.
    """

    name: str
    slots: int
    is_kept: bool
    rolls: Roll | None = None


class CarryIn(Strict, frozen=True):
    """A carried tensor that a step feeds to the network: the sum of the values stored in bank number `bank`, weighted
    by `row`."""

    bank: int
    row: Row


class Carry(Strict, frozen=True):
    """What a step writes to a slot of a bank: the sum, weighted by `row`, of the bank's slots before the step and of
    the network's output.

    A slot that no step writes keeps its value.
    """

    bank: int
    slot: int
    row: Row


class Step(Strict, frozen=True, omit_defaults=True, rename={"shaping": "shape", "shaping_of": "shape_of"}):
    """One evaluation and the update after it. `lam` is its log(alpha / sigma), None for -infinity (pure noise).

    shaping_of: its columns are the rows of the state, then the outputs, head by head within branch by branch.
    x0: the predicted sample. Its columns are those of `shaping_of`, then the shaping's result if there is one.
    update: one line for each row of the next state. Its columns are those of `x0`, then `draws`.
    terms, input_terms, shaping_terms, x0_terms: the tensor coefficients of `update` and of the other tables.
    times: if positions of a sample have separate times, the number of the tensor that holds them. `time` and `lam` are
        then those of the front.
    enters: if not None, the state shifts before the step as `Roll` describes, and these are the draws of the start's
        rows that are appended.
    estimate: the x0 that the previous evaluation predicted, a row over the state, for a network that receives it with
        its input (self-conditioning). Zeros at the first evaluation; empty for other networks.
    unheld: whether a hold that adds noise to its value leaves x as it is before this step. Pipelines for inpainting
        evaluate noise everywhere at their first step.
    log_scale: the logarithm of a factor of the first draw, elementwise. Its columns are those of `shaping_of`. Empty
        for noise of a fixed variance.
    """

    network: str
    time: float
    to: float | None  # the second time, which some networks take
    lam: float | None
    alpha: float | None  # alpha of x at this time; None in plans of an older schema
    sigma: float | None
    group: int
    branches: tuple[str, ...]
    heads: int
    input: Row
    shaping: Shaping | None
    shaping_of: tuple[Row, ...]
    x0: Row
    update: tuple[Row, ...]
    terms: tuple[Term, ...]
    draws: tuple[int, ...]
    carry_in: tuple[CarryIn, ...] = ()
    carry: tuple[Carry, ...] = ()
    times: int | None = None
    input_terms: tuple[Term, ...] = ()
    shaping_terms: tuple[Term, ...] = ()
    x0_terms: tuple[Term, ...] = ()
    enters: tuple[int, ...] | None = None
    estimate: Row = ()
    unheld: bool = False
    log_scale: Row = ()


class Fitted(Strict, frozen=True):
    """The origin of a fitted plan: the plan from which the fit started, and the body to which it was fitted.

    nominal: the name of the plan from which the fit started.
    graph: SHA-256 of the body's graph.
    source: SHA-256 of the source that the denoiser was exported from.
    method: the method of the fit.
    """

    nominal: str
    body: str
    graph: str
    source: str
    method: str = "end"


class Plan(Strict, frozen=True, omit_defaults=True):
    """A compiled sampler. `schedule` is the fingerprint of the noise schedule it was compiled for.

    given: names of the tensors [B, *x_shape] that the caller passes.
    strength: the fraction of the steps that is run from a given image; None starts from noise.
    renoise: the fraction of the noise that is added to the given image; None is all of it.
    fitted: the origin of numbers that were fitted to a denoiser; None for the numbers of a solver.
    banks: the banks of carried tensors.
    tail_of: the name of the whole plan, if this plan is a tail (`transforms/tail.py`). A tail's own name only describes
        it.
    first_step: the number of a tail's first step in the whole plan.
    """

    schema: int
    name: str
    schedule: str
    prediction: Prediction
    guidance: Guidance | None
    strength: float | None
    rows: int
    given: tuple[str, ...]
    start: tuple[Row, ...]
    start_terms: tuple[Term, ...]
    start_draws: tuple[int, ...]
    steps: tuple[Step, ...]
    output: Row
    tensors: tuple[Tensor, ...]
    renoise: float | None = None
    fitted: Fitted | None = None
    banks: tuple[Bank, ...] = ()
    tail_of: str | None = None
    first_step: int = 0

    shape: ClassVar[tuple[int, ...]] = ()  # the plan works for samples of any shape
    is_counted: ClassVar[bool] = True  # every sample needs all evaluations

    @property
    def is_stochastic(self) -> bool:
        """True if a step draws noise."""
        return any(step.draws for step in self.steps)

    @property
    def rolling_bank(self) -> Bank | None:
        """The bank that keeps the state rows, if a run continues from the state of the previous run; otherwise None."""
        return next((bank for bank in self.banks if bank.rolls is not None), None)


def row_names(rows: int) -> tuple[str, ...]:
    """Return the names of the given tensors of a plan's tail: one for each row of the state."""
    return tuple(f"row{row}" for row in range(rows))


def locate_step(plan: Plan, done: int = 0) -> tuple[str, int]:
    """Return (name of the whole plan, number of the next step) after `done` steps of a plan or a tail."""
    whole = plan.name if plan.tail_of is None else plan.tail_of
    return whole, (plan.first_step + done) % (plan.first_step + len(plan.steps))


def tensor_values(tensor: Tensor) -> NDArray[np.float64]:
    """Return the numbers of a tensor as an array."""
    return np.frombuffer(tensor.data, "<f8").reshape(tensor.shape)


def make_tensor(values: ArrayLike) -> Tensor:
    """Convert an array of numbers to a tensor of a plan, stored as little-endian float64."""
    array = np.asarray(values, "<f8")
    return Tensor(array.shape, array.tobytes())


def steps_to_run(plan: Plan) -> tuple[Step, ...]:
    """Return the steps of a run that may continue from the state of a previous run: the last ones, or all steps of a
    plan that does not roll."""
    if plan.rolling_bank is None or plan.rolling_bank.rolls is None:
        return plan.steps
    first, *others = plan.steps[-plan.rolling_bank.rolls.steps :]
    return (msgspec.structs.replace(first, enters=plan.start_draws), *others)


def tensor_problem(tensors: Sequence[Tensor]) -> str | None:
    """Return what is wrong with a plan's tensors, as text, or None if nothing is."""
    for i, tensor in enumerate(tensors):
        if len(tensor.shape) > AXES_LIMIT:
            return f"tensors[{i}] has {len(tensor.shape)} axes"
        if any(size < 1 for size in tensor.shape) or 8 * int(np.prod(tensor.shape, dtype=object)) != len(tensor.data):
            return f"tensors[{i}] does not have the numbers of shape {list(tensor.shape)}"
        if not np.isfinite(tensor_values(tensor)).all():
            return f"tensors[{i}] holds a number that is not finite"
    return None


def group_of(lam: float | None, groups: Sequence[float]) -> int:
    """Return the index of the interval of a lambda between the edges `groups`; None is -infinity."""
    return 0 if lam is None else sum(lam >= edge for edge in groups)
