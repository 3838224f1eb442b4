"""What a recording contains: the calls of a denoiser and the steps of a scheduler."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fewstep.plans.errors import UserError

SCALE = "conditioning_scale"  # as ControlNets call the weight of the control
INPUTS_OF = "inputs of "  # before the name of a second network, in the name of an argument of joined calls
LEARNED = ("learned", "learned_range")  # values of `variance_type` with which DDPM reads a second half of the channels


@dataclass(frozen=True)
class Joint:
    """How the call of a second network belongs to that of the denoiser. The arguments of the second network are in a
    dict, which is the argument `inputs` of the joined call.

    component: the second network.
    fed: for each argument of the denoiser that is an output of the second network, the number of that output.
    shared: for each argument of the second network that the denoiser gets too, the path of the denoiser's, and how many
        of its channels the second network gets, or None for all of the tensor.
    numbers: the numbers among the arguments of the second network, such as the weight of the control. In the joined
        call each is a tensor [rows].
    dimensions: the number of dimensions of the second network's outputs.
    is_scaled: the pipeline multiplies the outputs by a number, `SCALE` among the arguments of the second network, which
        itself does not take it.
    """

    component: str
    fed: Mapping[str, int]
    shared: Mapping[str, tuple[str, int | None]]
    numbers: tuple[str, ...]
    dimensions: int
    is_scaled: bool = False

    @property
    def inputs(self) -> str:
        return INPUTS_OF + self.component


@dataclass(frozen=True)
class NetworkCall:
    """A call of a denoiser. `leaves` are its arguments by path, such as "['hidden_states']"; `structure` rebuilds the
    nested arguments from them. `output` is the tensor that the network returned, or the random probe that replaced it.
    `more` are further tensors that it returned. A list of tensors, one for each row, is stacked (`is_list`). `joint`
    says how it was joined with the call of a second network, or is None."""

    component: str
    leaves: Mapping[str, Any]
    structure: pytree.TreeSpec
    output: Tensor
    more: tuple[Tensor, ...] = ()
    is_list: bool = False
    joint: Joint | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The nested arguments by name."""
        arguments: dict[str, Any] = pytree.tree_unflatten(list(self.leaves.values()), self.structure)
        return arguments


@dataclass(frozen=True)
class SchedulerStep:
    """A call of the scheduler's `step`, with the denoiser's calls since the previous one. `eta` is its argument of that
    name, or None. `variance` is a learned variance that the scheduler got after `model_output`, or None. Several calls
    of `step` without a call of the denoiser between them are recorded as one step. Its tensors are flattened to [rows,
    elements] and concatenated, and `joined` is the number of these calls."""

    calls: tuple[NetworkCall, ...]
    model_output: Tensor
    time: float
    sample: Tensor
    result: Tensor
    eta: float | None = None
    joined: int = 1
    variance: Tensor | None = None

    def join(self, other: "SchedulerStep") -> "SchedulerStep":
        """Return this step with the tensors of the next call of `step` after its own."""

        def flat(first: Tensor, second: Tensor) -> Tensor:
            return torch.cat([first.flatten(1), second.flatten(1)], dim=1)

        return replace(
            self,
            model_output=flat(self.model_output, other.model_output),
            sample=flat(self.sample, other.sample),
            result=flat(self.result, other.result),
            joined=self.joined + 1,
        )


def float_tensors(returned: Any) -> list[Tensor]:
    """Return the floating-point tensors in what a network returned."""
    return [leaf for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def only_float_tensor(returned: Any) -> Tensor:
    """Return the only floating-point tensor in what a network returned."""
    (tensor,) = float_tensors(returned)
    return tensor


def is_of_second(path: str) -> bool:
    """Return True for the path of an argument of a second network, such as the picture of a ControlNet."""
    return path.startswith(f"['{INPUTS_OF}")


def select_rows(value: Tensor, branch: int, samples: int) -> Tensor:
    """Return the rows of one branch, one row per sample, from a tensor whose rows are ordered by branch."""
    return value[branch * samples : (branch + 1) * samples]


def branch_outputs(step: SchedulerStep) -> list[Tensor]:
    """Return the output of each branch of a step."""
    samples = len(step.sample)
    return [
        select_rows(call.output, branch, samples)
        for call in step.calls
        for branch in range(len(call.output) // samples)
    ]


@dataclass(frozen=True)
class NoisedImage:
    """A call of a pipeline's own method that adds noise to an image: its arguments and its result."""

    image: Tensor
    noise: Tensor
    noised: Tensor


@dataclass(frozen=True)
class CallRecord:
    """All steps of one call of a pipeline, and what it returned, or None if it failed after its last step (a failed
    decode is ignored). `times` are the arguments of the scheduler's `set_timesteps`. `failure` is the error after the
    last step, in words. `noised` are the results of the scheduler's `add_noise` at the time of the first step, and
    `own_noised` are the calls of a method of the pipeline with this name. `step_calls` are the numbers of calls
    of the scheduler's `step` that make each step, also where a form of the network makes one x of these."""

    steps: tuple[SchedulerStep, ...]
    times: Mapping[str, Any] = field(default_factory=dict)
    returned: Any = None
    failure: str | None = None
    noised: tuple[Tensor, ...] = ()
    own_noised: tuple[NoisedImage, ...] = ()
    step_calls: tuple[int, ...] = ()

    @property
    def starts_from_picture(self) -> bool:
        """Whether the first x is an encoded image to which the scheduler or the pipeline added noise, perhaps with its
        elements in another order, or only in the part that steps change. A plan from an image with strength 1 starts in
        this way."""
        first = self.steps[0].sample
        moved = torch.stack([_differs(step.sample, first) for step in self.steps]).any(dim=0)
        return any(
            torch.equal(noised.flatten().sort().values, first.flatten().sort().values)
            or (noised.shape == first.shape and bool(moved.any()) and torch.equal(noised[moved], first[moved]))
            for noised in (*self.noised, *(own.noised for own in self.own_noised))
        )


def _differs(x: Tensor, first: Tensor) -> Tensor:
    """Return a mask of the elements of `first` that differ in x; of all elements if x has another shape."""
    return x != first if x.shape == first.shape else torch.ones_like(first, dtype=torch.bool)


def split_ragged(record: CallRecord) -> CallRecord:
    """Return a recording in which a call with texts of different lengths, as lists with a tensor for each row, is a
    call for each branch."""
    steps = tuple(replace(step, calls=tuple(_split_calls(step))) for step in record.steps)
    return replace(record, steps=steps)


def _split_calls(step: SchedulerStep) -> Iterator[NetworkCall]:
    samples = len(step.sample)
    for call in step.calls:
        rows = len(call.output)
        lists = [value for value in call.arguments.values() if _is_row_list(value, rows)] if call.is_list else []
        if rows == samples or rows % samples or all(len({row.shape for row in entries}) == 1 for entries in lists):
            yield call
            continue
        for start in range(0, rows, samples):
            yield _select(call, slice(start, start + samples), rows)


def _is_row_list(value: Any, rows: int) -> bool:
    return isinstance(value, list) and len(value) == rows and all(isinstance(row, Tensor) for row in value)


def _select(call: NetworkCall, place: slice, rows: int) -> NetworkCall:
    """Return some rows of a call."""

    def select(value: Any) -> Any:
        has_rows = isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows
        return value[place] if has_rows or _is_row_list(value, rows) else value

    arguments = {name: select(value) for name, value in call.arguments.items()}
    flat, structure = pytree.tree_flatten_with_path(arguments)
    leaves = {pytree.keystr(path): leaf for path, leaf in flat}
    more = tuple(map(select, call.more))
    return replace(call, leaves=leaves, structure=structure, output=call.output[place], more=more)


def split_variance(scheduler: Any, output: Tensor, sample: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the prediction of a step's model_output, and the learned variance after it, or None if it has none.

    As in DDPM's step, which uses this variance for its noise only (Nichol & Dhariwal 2021, arXiv 2102.09672, equation
    15).
    """
    channels = sample.shape[1] if sample.dim() > 1 else 0
    is_learned = getattr(getattr(scheduler, "config", None), "variance_type", None) in LEARNED
    if not is_learned or output.dim() < 2 or output.shape[1] != 2 * channels:
        return output, None
    return output[:, :channels], output[:, channels:]


def drop_copies(record: CallRecord) -> CallRecord:
    """Return a recording whose steps have one row for each sample, where the pipeline steps an equal copy of x for each
    of two branches of guidance, as DiT's does. Other recordings are unchanged."""
    if not all(map(_is_copied, record.steps)):
        return record
    return replace(record, steps=tuple(map(_drop_copy, record.steps)))


def _is_copied(step: SchedulerStep) -> bool:
    return step.variance is None and all(map(_has_equal_halves, (step.sample, step.model_output, step.result)))


def _drop_copy(step: SchedulerStep) -> SchedulerStep:
    rows = slice(len(step.sample) // 2)
    return replace(step, model_output=step.model_output[rows], sample=step.sample[rows], result=step.result[rows])


def _has_equal_halves(rows: Tensor) -> bool:
    half, odd = divmod(len(rows), 2)
    return not odd and half > 0 and bool((rows[:half] == rows[half:]).all())


def bind_arguments(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of a method by name, without the object that it belongs to. Raises UserError for
    arguments without names (`*args`)."""
    own, *_ = signature.parameters.values()
    arguments = dict(signature.bind(None, *args, **kwargs).arguments)
    if own.kind is not own.VAR_POSITIONAL:
        del arguments[own.name]
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(parameter.name, {})
        if parameter.kind is parameter.VAR_POSITIONAL and parameter.name in arguments:
            what = f"the forward of a network takes *{parameter.name}, arguments without names"
            raise UserError(what, "give each a name: forward(self, x, time, words)")
    return arguments
