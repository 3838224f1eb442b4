"""How a pipeline combines its network's outputs into the input of its scheduler, found in a recording by least squares.

    model_output = sign (w_1 o_1 + ... + w_k o_k), where o_j are the outputs of the branches and the weights sum to 1

or this sum, rescaled to the norm of one branch's output along an axis (`plans.shaping.MatchNorm`), or this sum in the
first channels and one branch's output in the others (`plans.shaping.GuideChannels`), or a sum whose weights grow along
the frames (`plans.shaping.GuideFrames`), or projected guidance (`plans.shaping.Project`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from fewstep.export.sources.diffusers.recording.call_record import CallRecord, SchedulerStep
from fewstep.export.sources.diffusers.recording.guidance.projection import (
    GuidedStep,
    ProjectedGuidance,
    find_projection,
    fit_weights,
)
from fewstep.export.sources.diffusers.recording.stand_ins import UNRECORDED, recording_error
from fewstep.plans.errors import UserError

TOLERANCE = 1e-5  # largest error of a relation, relative to the largest value


class CombinationError(UserError):
    """The pipeline combines the network's outputs in a way that fewstep does not know."""


@dataclass(frozen=True)
class Place:
    """The part of a tensor that is x: `start` to `stop` along `axis` of one sample, or all of it (axis None).

    box: instead, the start and the stop along every axis of a sample, for a part that is shorter along several.
    """

    axis: int | None = None
    start: int = 0
    stop: int = 0
    box: tuple[tuple[int, int], ...] = ()

    def select(self, tensor: Tensor) -> Tensor:
        """Return the part of a tensor [rows, ...] that is at this place."""
        if self.box:
            return tensor[(slice(None), *(slice(*each) for each in self.box))]
        return tensor if self.axis is None else tensor.narrow(1 + self.axis, self.start, self.stop - self.start)

    def others(self, tensor: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the parts of a tensor before and after this place. None if the place is the whole tensor. If the place
        is a box, the first part is the tensor with zeros in the box, and the second is empty."""
        if self.box:
            around = tensor.clone()
            self.select(around).zero_()
            return around, tensor[:, :0]
        if self.axis is None:
            return None
        length, axis = tensor.shape[1 + self.axis], 1 + self.axis
        return tensor.narrow(axis, 0, self.start), tensor.narrow(axis, self.stop, length - self.stop)

    def join(self, x: Tensor, before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
        """Return the network's input with x at this place. `before` and `after` are the other parts of the input; for a
        box inside a larger tensor, `before` is that tensor, to which x is added."""
        if self.box:
            (around,) = before
            ends = ((start, length - stop) for (start, stop), length in zip(self.box, around.shape[1:], strict=True))
            return around + torch.nn.functional.pad(x, [size for each in reversed(list(ends)) for size in each])
        return x if self.axis is None else torch.cat([*before, x, *after], dim=1 + self.axis)


@dataclass(frozen=True)
class MatchedNorm:
    """The guided output of a step is rescaled to the norm of one branch's output, along `axis`, which is counted from
    the last."""

    axis: int
    branch: int


@dataclass(frozen=True)
class GuidedChannels:
    """The first `count` channels are the guided combination of a step's outputs, and the others are the output of one
    branch."""

    count: int
    branch: int


@dataclass(frozen=True)
class GuidedFrames:
    """The guidance of a step grows along the first axis of a sample: the fraction of (weight - 1) that applies
    increases from `first` to 1 (`plans.shaping.GuideFrames`). `branch` is the number of the conditional branch."""

    first: float
    branch: int


Change = MatchedNorm | GuidedChannels | GuidedFrames | ProjectedGuidance  # how one branch's output changes the sum


@dataclass(frozen=True)
class Combination:
    """How a pipeline combines the network's outputs to what it passes to the scheduler.

    place: the place of the prediction in the network's output.
    weights: for each step, the weights of the branches. They sum to 1. The pipeline multiplies the sum by `sign`.
    change: what is done in addition to a linear combination; None if nothing is.
    """

    place: Place
    weights: tuple[tuple[float, ...], ...]
    sign: int
    change: Change | None = None

    def agrees(self, other: "Combination") -> bool:
        """Return True if the combination of another recording has the same place, sign and change; its weights may
        differ. The change is not compared if there is a single branch, since a single branch is not changed."""
        same_change = self.change == other.change or len(other.weights[0]) == 1
        return (self.place, self.sign) == (other.place, other.sign) and same_change


@dataclass(frozen=True)
class _StepCombination:
    """How one step combines the outputs of the branches. The weights sum to 1, or to -1 if the sign of the output is
    inverted."""

    place: Place
    weights: tuple[float, ...]
    change: Change | None = None


def find_combination(
    name: str, record: CallRecord, small: CallRecord | None = None, known: Change | None = None
) -> Combination:
    """Find out from a recording how the pipeline combines the network's outputs. Raises UserError if none of the
    combinations in this module fits, or if the steps need different ones.

    small: a recording with the same settings, in which the network's outputs are small. Projected guidance is found
        only if it is given.
    known: what was found in another recording in addition to a linear combination.
    """
    if isinstance(known, ProjectedGuidance):
        for place, steps in _list_guided_steps(record):
            if (weights := fit_weights(known, steps)) is not None:
                return _combine(place, known, weights)
    try:
        found = _find_fixed(name, record)
    except UserError:  # of one sample, a projection is a sum too, with weights that do not sum to 1
        if small is None or (projected := _find_projected(record, small)) is None:
            raise
        return projected
    if small is not None and len(set(found.weights)) > 1:
        return _find_projected(record, small) or found
    return found


def _find_projected(record: CallRecord, small: CallRecord) -> Combination | None:
    """Return the combination of projected guidance, or None if the recordings show none."""
    for (place, steps), (_, others) in zip(_list_guided_steps(record), _list_guided_steps(small), strict=False):
        if (found := find_projection(steps, others)) is not None:
            return _combine(place, *found)
    return None


def _combine(place: Place, change: ProjectedGuidance, weights: Sequence[float]) -> Combination:
    pairs = [(weight, 1 - weight) if change.branch == 0 else (1 - weight, weight) for weight in weights]
    return Combination(place, tuple(pairs), 1, change)


def _list_guided_steps(record: CallRecord) -> Iterator[tuple[Place, list[GuidedStep]]]:
    """Yield, for each possible place of the prediction in the network's output, that place and the outputs of all
    branches there at each step."""
    first = record.steps[0]
    if first.model_output.shape != first.sample.shape:
        return
    for place in possible_places(tuple(first.calls[0].output.shape[1:]), tuple(first.sample.shape[1:])):
        yield (
            place,
            [
                GuidedStep(
                    [place.select(each).double().numpy() for each in _branch_outputs(step)],
                    step.model_output.double().numpy(),
                )
                for step in record.steps
            ],
        )


def _branch_outputs(step: SchedulerStep) -> list[Tensor]:
    """Return the output of each branch of a step."""
    samples = len(step.sample)
    return [
        select_rows(call.output, branch, samples)
        for call in step.calls
        for branch in range(len(call.output) // samples)
    ]


def _find_fixed(name: str, record: CallRecord) -> Combination:
    """Find a combination of the network's outputs that is the same at every step, so that each step suffices to
    determine it. Raises CombinationError if there is none."""
    forms, weights = set(), []
    for step in record.steps:
        found = _fit_step(name, step)
        total = sum(found.weights)
        sign = 1 if total > 0 else -1
        if abs(abs(total) - 1) > 10 * TOLERANCE:
            what = f"{name}: the weights of its network's outputs sum to {total:.4g}, not to 1"
            raise CombinationError(what, UNRECORDED)
        forms.add((found.place, sign, found.change))
        weights.append(round_weights([sign * each for each in found.weights]))
    if len(forms) != 1 or len({len(each) for each in weights}) != 1:
        raise recording_error(f"{name} combines its network's outputs differently at different steps")
    place, sign, change = forms.pop()
    return Combination(place, tuple(weights), sign, change)


def adds_x(record: CallRecord) -> bool:
    """Return True if a pipeline adds a multiple of x to its network's outputs, as one that converts a predicted x0 to a
    velocity does."""
    found = _fit_with_x(record.steps[0])
    return found is not None and abs(found[1]) > TOLERANCE


def remove_x(record: CallRecord) -> CallRecord:
    """Return the recording with each step that passes the scheduler s times a sum of the network's outputs plus a
    multiple of x rewritten to pass only the sum, whose weights sum to 1. Other steps are unchanged."""
    steps = []
    for step in record.steps:
        found = _fit_with_x(step)
        if found is not None:
            total, of_x = found
            output = (step.model_output.double() - of_x * step.sample.double()) / total
            step = replace(step, model_output=output.float())
        steps.append(step)
    return replace(record, steps=tuple(steps))


def _fit_with_x(step: SchedulerStep) -> tuple[float, float] | None:
    """Return the sum of the weights of the network's outputs, and the weight of x, if their sum is what the scheduler
    receives. Otherwise None."""
    target, outputs = step.model_output.double(), [each.double() for each in _branch_outputs(step)]
    if target.shape != step.sample.shape or not outputs:
        return None
    for place in possible_places(tuple(outputs[0].shape[1:]), tuple(target.shape[1:])):
        *weights, of_x, residual = _fit_sum([*map(place.select, outputs), step.sample.double()], target)
        if residual <= TOLERANCE and abs(sum(weights)) > TOLERANCE:
            return sum(weights), of_x
    return None


def _fit_step(name: str, step: SchedulerStep) -> _StepCombination:
    """Return the combination of one step. Raises UserError for a combination that fewstep does not know."""
    target, outputs = step.model_output.double(), [each.double() for each in _branch_outputs(step)]
    if target.shape != step.sample.shape:
        shapes = f"{tuple(target.shape)} for x {tuple(step.sample.shape)}"
        raise recording_error(f"{name} passes its scheduler an output of a different shape: {shapes}")
    places = possible_places(tuple(outputs[0].shape[1:]), tuple(target.shape[1:]))
    if not places:
        shapes = f"{tuple(outputs[0].shape)} into {tuple(target.shape)}"
        raise recording_error(f"{name} changes the shape of its network's output, {shapes}, before the step")
    residuals = []
    for place in places:
        parts = [place.select(each) for each in outputs]
        *weights, of_x, residual = _fit_sum([*parts, step.sample.double()], target)
        if residual <= TOLERANCE and abs(of_x) > TOLERANCE:
            raise recording_error(f"{name} adds {of_x:.4g} times x to its network's output")
        if residual <= TOLERANCE:
            return _StepCombination(place, tuple(weights))
        if found := _fit_norm(parts, target) or _fit_channels(parts, target) or _fit_frames(parts, target):
            return _StepCombination(place, *found)
        residuals.append(residual)
    raise CombinationError(
        f"{name} combines its network's outputs neither with fixed weights nor in another way that fewstep knows "
        f"(residual {min(residuals):.1g})",
        UNRECORDED,
    )


def _fit_sum(columns: Sequence[Tensor], target: Tensor) -> list[float]:
    """Return the weights with which the sum of `columns` is nearest to the target in least squares, followed by the
    largest absolute residual relative to the largest absolute value of the target."""
    rows = torch.stack([each.flatten() for each in columns])  # of random numbers, so that their products are regular
    weights = torch.linalg.lstsq(rows @ rows.T, (rows @ target.flatten())[:, None], driver="gelsd").solution.squeeze(1)
    residual = (weights @ rows - target.flatten()).abs().max() / target.abs().max()
    return [*weights.tolist(), float(residual)]


def _fit_norm(outputs: Sequence[Tensor], target: Tensor) -> tuple[tuple[float, ...], MatchedNorm] | None:
    """Return the weights, and the branch and axis whose norm the weighted sum has, or None if no norm fits.

    Each vector of the target along the axis is a multiple of the weighted sum of the outputs. The components of the
    outputs orthogonal to the target, weighted in the same way, therefore sum to 0, so the weights are the eigenvector
    of their Gram matrix with the smallest eigenvalue.
    """
    if len(outputs) < 2:
        return None
    for axis in range(-1, -target.dim(), -1):
        along = torch.nn.functional.normalize(target, dim=axis)
        across = [each - along * (along * each).sum(dim=axis, keepdim=True) for each in outputs]
        gram = torch.tensor([[float((one * other).sum()) for other in across] for one in across], dtype=torch.float64)
        smallest = torch.linalg.eigh(gram).eigenvectors[:, 0]
        if float(smallest.sum().abs()) < 1e-3:  # weights of 1000 and more, which no guidance has
            continue
        shares = smallest / smallest.sum()
        total = sum((share * each for share, each in zip(shares, outputs, strict=True)), torch.zeros_like(target))
        for branch, output in enumerate(outputs):
            norms = [torch.linalg.vector_norm(each, dim=axis, keepdim=True) for each in (output, total)]
            matched = total * norms[0] / norms[1]
            sign = 1.0 if float((matched * target).sum()) > 0 else -1.0
            if float((sign * matched - target).abs().max() / target.abs().max()) <= TOLERANCE:
                return tuple((sign * shares).tolist()), MatchedNorm(axis, branch)
    return None


def _fit_channels(outputs: Sequence[Tensor], target: Tensor) -> tuple[tuple[float, ...], GuidedChannels] | None:
    """Return the weights, and how many of the first channels are the weighted sum, or None if no number of channels
    fits."""
    for branch, output in enumerate(outputs):
        for sign in (1.0, -1.0):
            differs = (sign * output - target).abs() > TOLERANCE * target.abs().max()
            count = int(differs.transpose(0, 1).flatten(1).any(dim=1).sum())
            if count in (0, target.shape[1]) or bool(differs[:, count:].any()):
                continue
            *weights, residual = _fit_sum([each[:, :count] for each in outputs], target[:, :count])
            if residual <= TOLERANCE:
                return tuple(weights), GuidedChannels(count, branch)
    return None


def _fit_frames(outputs: Sequence[Tensor], target: Tensor) -> tuple[tuple[float, ...], GuidedFrames] | None:
    """Return the weights of the branches in the last frame, and the guidance of the first frame as a fraction of the
    last frame's. Frames are the first axis of a sample. Return None if the guidance does not grow in equal steps from
    frame to frame, or if no weights fit."""
    count = target.shape[1]
    if len(outputs) != 2 or target.dim() < 3 or count < 2:
        return None
    fits = [_fit_sum([each[:, frame] for each in outputs], target[:, frame]) for frame in range(count)]
    if any(residual > TOLERANCE or abs(first + second - 1) > 10 * TOLERANCE for first, second, residual in fits):
        return None
    for branch in (0, 1):
        guidance = torch.tensor([fit[branch] for fit in fits], dtype=torch.float64) - 1
        even = torch.linspace(float(guidance[0]), float(guidance[-1]), count, dtype=torch.float64)
        if float(guidance[-1]) > TOLERANCE and float((guidance - even).abs().max()) <= 10 * TOLERANCE:
            return tuple(fits[-1][:2]), GuidedFrames(_round_share(float(guidance[0] / guidance[-1])), branch)
    return None


def _round_share(share: float) -> float:
    return round_number(share) if abs(share) > TOLERANCE else 0.0


def select_rows(value: Tensor, branch: int, samples: int) -> Tensor:
    """Return the rows of one branch, one row per sample, from a tensor whose rows are ordered by branch."""
    return value[branch * samples : (branch + 1) * samples]


def possible_places(shape: tuple[int, ...], x_shape: tuple[int, ...]) -> list[Place]:
    """Return the places at which a tensor of shape `x_shape` can be part of a tensor of shape `shape`. If one axis of
    the latter is longer, these are its start and its end. If several are, these are all combinations of their starts
    and ends."""
    if shape == x_shape:
        return [Place()]
    if len(shape) != len(x_shape):
        return []
    if any(size < of_x for size, of_x in zip(shape, x_shape, strict=True)):
        return []
    longer = [axis for axis in range(len(shape)) if shape[axis] != x_shape[axis]]
    if len(longer) > 1:
        ends = [
            [(0, of_x), (size - of_x, size)] if size != of_x else [(0, size)]
            for size, of_x in zip(shape, x_shape, strict=True)
        ]
        return [Place(box=box) for box in product(*ends)]
    axis, size, length = longer[0], x_shape[longer[0]], shape[longer[0]]
    return [Place(axis, 0, size), Place(axis, length - size, length)]


def round_number(number: float) -> float:
    """Round to 4 significant digits if that changes the number by at most 1e-6, relative to max(|number|, 1e-3);
    otherwise return it unchanged. So 0.001 that was rounded to float32 becomes 0.001."""
    short = float(f"{number:.4g}")
    return short if abs(short - number) <= 1e-6 * max(abs(number), 1e-3) else float(number)


def round_weights(weights: Sequence[float]) -> tuple[float, ...]:
    """Return fitted weights without their rounding errors, so that they sum to 1: those within 1e-6 of 0 become 0, the
    others are rounded as by `round_number`, and the largest is what the others leave of 1."""
    rounded = [0.0 if abs(each) <= 1e-6 else round_number(each) for each in weights]
    largest = max(range(len(rounded)), key=lambda branch: abs(rounded[branch]))
    if abs(sum(rounded) - 1) > 1e-12:
        rounded[largest] += 1 - sum(rounded)
    return tuple(rounded)
