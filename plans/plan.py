"""A plan is a sampler as a table of numbers, compiled ahead of time in float64 and run by one executor.

The state S has `rows` rows, each the size of a sample. It starts as S = start . [given; draws], and step i does

    u  = input . S                            the network's input
    o  = network(u, time, branch)             one output per branch and head
    p  = shaping(shaping_of . [S; o])         only where the step has a shaping: clip, threshold, rescale
    S' = update . [S; o; p; draws]            guidance weights and the prediction's meaning are folded in

and the sample is output . S after the last step. Where a coefficient differs over a sample it is a tensor (`terms`).

Some networks also take and return *carried* tensors, of shapes of their own: keys and values, features. Each has a
bank of slots c, of which a step reads and writes rows; the branches of a step stand one after the other in front:

    o, made = network(u, time, branch, carry_in . c)
    c'      = carry . [c; made]

Nothing depends on the data, so one plan serves any number of threads. `compile.py` makes plans, `carried_banks.py`
gives them banks, `file.py` writes and reads them.
"""

import re
from collections.abc import Sequence
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.guidance import Guidance
from fewstep.plans.shaping import Shaping
from fewstep.plans.spec import Prediction, Strict

SCHEMA = 3
FITTED = "fitted"  # in the place of a solver, in the name of a plan of `fewstep fit`
FROM_STEP = r" from step (\d{1,9})"  # in the name of a tail, which begins there
DENOISER = "denoiser"  # the network of a step, unless a plan has several
IMAGE = "image"  # the given tensor that a solver starts from instead of pure noise, and that `hold` puts back
STATE = "state"  # the bank of its rows, where they roll on from run to run
NOISE = "noise"  # the given tensor that stands for the first draw, where the caller brings the noise
AXES_LIMIT = 32  # of a tensor: what every version of numpy takes

Row = tuple[float, ...]


class Tensor(Strict, frozen=True):
    """Coefficients that differ over a sample: float64, little-endian, broadcast to a sample's shape from the right."""

    shape: tuple[int, ...]
    data: bytes


class Term(Strict, frozen=True):
    """row[`row`] += tensors[`tensor`] * column[`column`], elementwise; without a column the tensor is added itself."""

    row: int
    column: int | None
    tensor: int


class Roll(Strict, frozen=True):
    """The way in which a run goes on from the state that the run before left: it runs the last `steps` steps alone.

    Ahead of them the state moves by `by` places along `axis` of a sample, which counts from its end. What falls off the
    front has left, and the start's state enters behind.
    """

    axis: int
    by: int
    steps: int


class Bank(Strict, frozen=True, omit_defaults=True):
    """The slots of a carried tensor, or of the state's rows where these roll on: no step reads or writes those.

    is_kept: a run begins with what the run before left, or with zeros. Other slots are empty until a step writes them.
    """

    name: str
    slots: int
    is_kept: bool
    rolls: Roll | None = None


class CarryIn(Strict, frozen=True):
    """The carried tensor that a network is fed at a step: `row` over the slots of bank number `bank`."""

    bank: int
    row: Row


class Carry(Strict, frozen=True):
    """The content of a slot after a step: `row` over the slots of its bank before it, and then what the network made.

    A slot that no entry names is held.
    """

    bank: int
    slot: int
    row: Row


class Step(Strict, frozen=True, omit_defaults=True, rename={"shaping": "shape", "shaping_of": "shape_of"}):
    """One evaluation and the update after it. `lam` is log(alpha / sigma) there, None for -infinity (pure noise).

    Columns of `shaping_of`: rows of the state, then the outputs, head by head within branch by branch. Of `x0`, the
    predicted sample: those, then what the shaping makes if there is one. Of `update`, one line for each row of the next
    state: those, then `draws`.

    Where positions of a sample are at times of their own, `times` is the number of the tensor of all, and `time` and
    `lam` are the front's. `input_terms`, `shaping_terms` and `x0_terms` are to those tables what `terms` is to
    `update`. `enters`: ahead of the step the state moves as the plan says (`Roll`), and these are the start's draws.
    """

    network: str
    time: float
    to: float | None  # the second time that some networks take
    lam: float | None
    alpha: float | None  # of x at this time; None in plans of an older schema
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


class Fitted(Strict, frozen=True):
    """The origin of fitted numbers: the plan that they began as, and one body of one denoiser.

    source: SHA-256 of what the denoiser was exported from. graph: SHA-256 of the body's graph. method: of the fit.
    """

    nominal: str
    body: str
    graph: str
    source: str
    method: str = "end"


class Plan(Strict, frozen=True, omit_defaults=True):
    """A compiled sampler. `schedule` is the fingerprint of the noise schedule it was compiled for.

    given: names of the tensors [B, *x_shape] that the caller brings.
    strength: the share of the steps that is run from a given image; None starts from noise.
    renoise: the share of the noise that the given image gets; None is all of it.
    fitted: where the numbers are no solver's, but were fitted to a denoiser.
    banks: of carried tensors.
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

    shape: ClassVar[tuple[int, ...]] = ()  # samples of any shape run along it
    is_counted: ClassVar[bool] = True  # every sample has all evaluations

    @property
    def is_stochastic(self) -> bool:
        """True where a step draws noise."""
        return any(step.draws for step in self.steps)

    @property
    def rolling_bank(self) -> Bank | None:
        """The bank of the state's rows, where these roll on from run to run."""
        return next((bank for bank in self.banks if bank.rolls is not None), None)


def row_names(rows: int) -> tuple[str, ...]:
    """The given tensors of a plan's tail: one for each row of the state."""
    return tuple(f"row{row}" for row in range(rows))


def locate_step(plan: Plan, done: int = 0) -> tuple[str, int]:
    """(the name of the whole plan, the number of the step that comes next) behind so many steps of a plan or a tail."""
    first = sum(map(int, re.findall(FROM_STEP, plan.name)))
    return re.sub(FROM_STEP, "", plan.name), (first + done) % (first + len(plan.steps))


def tensor_values(tensor: Tensor) -> NDArray[np.float64]:
    """The numbers of a tensor."""
    return np.frombuffer(tensor.data, "<f8").reshape(tensor.shape)


def make_tensor(values: ArrayLike) -> Tensor:
    """Numbers as a tensor of a plan."""
    array = np.asarray(values, "<f8")
    return Tensor(array.shape, array.tobytes())


def steps_to_run(plan: Plan) -> tuple[Step, ...]:
    """The steps of a run: all of them, or those of one that goes on from the state of the one before."""
    if plan.rolling_bank is None or plan.rolling_bank.rolls is None:
        return plan.steps
    first, *others = plan.steps[-plan.rolling_bank.rolls.steps :]
    return (msgspec.structs.replace(first, enters=plan.start_draws), *others)


def tensor_problem(tensors: Sequence[Tensor]) -> str | None:
    """The fault of a plan's tensors, or None."""
    for i, tensor in enumerate(tensors):
        if len(tensor.shape) > AXES_LIMIT:
            return f"tensors[{i}] has {len(tensor.shape)} axes"
        if any(size < 1 for size in tensor.shape) or 8 * int(np.prod(tensor.shape, dtype=object)) != len(tensor.data):
            return f"tensors[{i}] is not {list(tensor.shape)} numbers"
        if not np.isfinite(tensor_values(tensor)).all():
            return f"tensors[{i}] holds a number that is not finite"
    return None


def group_of(lam: float | None, groups: Sequence[float]) -> int:
    """Index of the lambda interval; None is -infinity."""
    return 0 if lam is None else sum(lam >= edge for edge in groups)


def with_steps(name: str, steps: int) -> str:
    """The name of the same solver and grid with other steps: ("heun:4@karras", 8) -> "heun:8@karras"."""
    solver, _, rest = name.partition(":")
    _, at, grid = rest.partition("@")
    return f"{solver}:{steps}{at}{grid}"
