"""How a pipeline combines its network's outputs into the input of its scheduler, found in a recording by least squares.

    model_output = sign (w_1 o_1 + ... + w_k o_k), where o_j are the outputs of the branches and the weights sum to 1

or this sum, rescaled to the norm of one branch's output along an axis (`plans.shaping.MatchNorm`), or this sum in the
first channels and one branch's output in the others (`plans.shaping.GuideChannels`), or a sum whose weights grow along
the frames (`plans.shaping.GuideFrames`), or projected guidance (`plans.shaping.Project`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.pipelines.recording.call_record import CallRecord, SchedulerStep, branch_outputs
from fewstep.pipelines.recording.element_map import ElementMap, boxes
from fewstep.pipelines.recording.fit import TOLERANCE, fit, round_number, round_weights
from fewstep.pipelines.recording.stand_ins import UNRECORDED, recording_error
from fewstep.pipelines.relations.projection import GuidedStep, find_projection, fit_weights
from fewstep.plans.errors import UserError
from fewstep.plans.shaping import GuideChannels, GuidedShaping, GuideFrames, MatchNorm, Project


class CombinationError(UserError):
    """The pipeline combines the network's outputs in a way that fewstep does not know."""


@dataclass(frozen=True)
class GuidedChange:
    """The shaping of the weighted sum of a step's outputs. `branch` is the number of the branch that it treats as the
    conditional one."""

    shaping: GuidedShaping
    branch: int


@dataclass(frozen=True)
class Combination:
    """How a pipeline combines the network's outputs to what it passes to the scheduler.

    place: the map from the network's output to the prediction, one of `boxes`.
    weights: for each step, the weights of the branches. They sum to 1. The pipeline multiplies the sum by `sign`.
    change: how the sum is shaped; None if it is not.
    """

    place: ElementMap
    weights: tuple[tuple[float, ...], ...]
    sign: int
    change: GuidedChange | None = None

    def agrees(self, other: "Combination") -> bool:
        """Return True if the combination of another recording has the same place, sign and change; its weights may
        differ. The change is not compared if there is a single branch, since a single branch is not changed."""
        same_change = self.change == other.change or len(other.weights[0]) == 1
        return (self.place.cuts, self.sign) == (other.place.cuts, other.sign) and same_change


@dataclass(frozen=True)
class _StepCombination:
    """How one step combines the outputs of the branches. The weights sum to 1, or to -1 if the sign of the output is
    inverted."""

    place: ElementMap
    weights: tuple[float, ...]
    change: GuidedChange | None = None


def find_combination(
    name: str, record: CallRecord, small: CallRecord | None = None, known: GuidedChange | None = None
) -> Combination:
    """Find out from a recording how the pipeline combines the network's outputs. Raises UserError if none of the
    combinations in this module fits, or if the steps need different ones.

    small: a recording with the same settings, in which the network's outputs are small. Projected guidance is found
        only if it is given.
    known: what was found in another recording in addition to a linear combination.
    """
    if known is not None and isinstance(known.shaping, Project):
        for place, branch, steps in _list_guided_steps(record):
            if branch == known.branch and (weights := fit_weights(known.shaping, steps)) is not None:
                return _combine(place, known, weights)
    try:
        fixed = _find_fixed(name, record)
    except UserError:  # of one sample, a projection is a sum too, with weights that do not sum to 1
        if small is None or (projected := _find_projected(record, small)) is None:
            raise
        return projected
    if small is not None and len(set(fixed.weights)) > 1:
        return _find_projected(record, small) or fixed
    return fixed


def _find_projected(record: CallRecord, small: CallRecord) -> Combination | None:
    """Return the combination of projected guidance, or None if the recordings show none."""
    for (place, branch, steps), (*_, others) in zip(
        _list_guided_steps(record), _list_guided_steps(small), strict=False
    ):
        if (projection := find_projection(steps, others)) is not None:
            form, weights = projection
            return _combine(place, GuidedChange(form, branch), weights)
    return None


def _combine(place: ElementMap, change: GuidedChange, weights: Sequence[float]) -> Combination:
    pairs = [(weight, 1 - weight) if change.branch == 0 else (1 - weight, weight) for weight in weights]
    return Combination(place, tuple(pairs), 1, change)


def _list_guided_steps(record: CallRecord) -> Iterator[tuple[ElementMap, int, list[GuidedStep]]]:
    """Yield, for each possible place of the prediction in the network's output and each of two branches, that place,
    the branch, and the steps with its outputs there as the conditional ones. Yield nothing for other numbers of
    branches."""
    first = record.steps[0]
    if first.model_output.shape != first.sample.shape:
        return
    for place in boxes(tuple(first.sample.shape[1:]), tuple(first.calls[0].output.shape[1:])):
        outputs = [[place(output).double().numpy() for output in branch_outputs(step)] for step in record.steps]
        if any(len(branches) != 2 for branches in outputs):
            return
        targets = [step.model_output.double().numpy() for step in record.steps]
        for branch in (0, 1):
            pairs = zip(outputs, targets, strict=True)
            yield (
                place,
                branch,
                [GuidedStep(branches[branch], branches[1 - branch], target) for branches, target in pairs],
            )


def _find_fixed(name: str, record: CallRecord) -> Combination:
    """Find a combination of the network's outputs that is the same at every step, so that each step suffices to
    determine it. Raises CombinationError if there is none."""
    forms, weights = set(), []
    for step in record.steps:
        combination = _fit_step(name, step)
        total = sum(combination.weights)
        sign = 1 if total > 0 else -1
        if abs(abs(total) - 1) > 10 * TOLERANCE:
            what = f"{name}: the weights of its network's outputs sum to {total:.4g}, not to 1"
            raise CombinationError(what, UNRECORDED)
        forms.add((combination.place.selects, sign, combination.change))
        weights.append(round_weights([sign * weight for weight in combination.weights]))
    if len(forms) != 1 or len({len(of_step) for of_step in weights}) != 1:
        raise recording_error(f"{name} combines its network's outputs differently at different steps")
    _, sign, change = forms.pop()
    return Combination(combination.place, tuple(weights), sign, change)


def _fit_step(name: str, step: SchedulerStep) -> _StepCombination:
    """Return the combination of one step. Raises UserError for a combination that fewstep does not know."""
    target, outputs = step.model_output.double(), [output.double() for output in branch_outputs(step)]
    if target.shape != step.sample.shape:
        shapes = f"{tuple(target.shape)} for x {tuple(step.sample.shape)}"
        raise recording_error(f"{name} passes its scheduler an output of a different shape: {shapes}")
    places = boxes(tuple(target.shape[1:]), tuple(outputs[0].shape[1:]))
    if not places:
        shapes = f"{tuple(outputs[0].shape)} into {tuple(target.shape)}"
        raise recording_error(f"{name} changes the shape of its network's output, {shapes}, before the step")
    residuals = []
    for place in places:
        parts = [place(output) for output in outputs]
        (*weights, of_x), residual = fit([*parts, step.sample], target)
        if residual <= TOLERANCE and abs(of_x) > TOLERANCE:
            raise recording_error(f"{name} adds {of_x:.4g} times x to its network's output")
        if residual <= TOLERANCE:
            return _StepCombination(place, tuple(weights))
        if guided := _fit_norm(parts, target) or _fit_channels(parts, target) or _fit_frames(parts, target):
            return _StepCombination(place, *guided)
        residuals.append(residual)
    raise CombinationError(
        f"{name} combines its network's outputs neither with fixed weights nor in another way that fewstep knows "
        f"(residual {min(residuals):.1g})",
        UNRECORDED,
    )


def _fit_norm(outputs: Sequence[Tensor], target: Tensor) -> tuple[tuple[float, ...], GuidedChange] | None:
    """Return the weights, and the branch and axis whose norm the weighted sum has, or None if no norm fits.

    Each vector of the target along the axis is a multiple of the weighted sum of the outputs. The components of the
    outputs orthogonal to the target, weighted in the same way, therefore sum to 0, so the weights are the eigenvector
    of their Gram matrix with the smallest eigenvalue.
    """
    if len(outputs) < 2:
        return None
    for axis in range(-1, -target.dim(), -1):
        along = torch.nn.functional.normalize(target, dim=axis)
        across = [output - along * (along * output).sum(dim=axis, keepdim=True) for output in outputs]
        gram = torch.tensor([[float((one * other).sum()) for other in across] for one in across], dtype=torch.float64)
        smallest = torch.linalg.eigh(gram).eigenvectors[:, 0]
        if float(smallest.sum().abs()) < 1e-3:  # weights of 1000 and more, which no guidance has
            continue
        shares = smallest / smallest.sum()
        total = sum((share * output for share, output in zip(shares, outputs, strict=True)), torch.zeros_like(target))
        for branch, output in enumerate(outputs):
            norms = [torch.linalg.vector_norm(value, dim=axis, keepdim=True) for value in (output, total)]
            matched = total * norms[0] / norms[1]
            sign = 1.0 if float((matched * target).sum()) > 0 else -1.0
            if float((sign * matched - target).abs().max() / target.abs().max()) <= TOLERANCE:
                return tuple((sign * shares).tolist()), GuidedChange(MatchNorm(axis), branch)
    return None


def _fit_channels(outputs: Sequence[Tensor], target: Tensor) -> tuple[tuple[float, ...], GuidedChange] | None:
    """Return the weights, and how many of the first channels are the weighted sum, or None if no number of channels
    fits."""
    for branch, output in enumerate(outputs):
        for sign in (1.0, -1.0):
            differs = (sign * output - target).abs() > TOLERANCE * target.abs().max()
            count = int(differs.transpose(0, 1).flatten(1).any(dim=1).sum())
            if count in (0, target.shape[1]) or bool(differs[:, count:].any()):
                continue
            weights, residual = fit([values[:, :count] for values in outputs], target[:, :count])
            if residual <= TOLERANCE:
                return weights, GuidedChange(GuideChannels(count), branch)
    return None


def _fit_frames(outputs: Sequence[Tensor], target: Tensor) -> tuple[tuple[float, ...], GuidedChange] | None:
    """Return the weights of the branches in the last frame, and the guidance of the first frame as a fraction of the
    last frame's. Frames are the first axis of a sample. Return None if the guidance does not grow in equal steps from
    frame to frame, or if no weights fit."""
    count = target.shape[1]
    if len(outputs) != 2 or target.dim() < 3 or count < 2:
        return None
    fits = [fit([values[:, frame] for values in outputs], target[:, frame]) for frame in range(count)]
    if any(residual > TOLERANCE or abs(sum(weights) - 1) > 10 * TOLERANCE for weights, residual in fits):
        return None
    for branch in (0, 1):
        guidance = torch.tensor([weights[branch] for weights, _ in fits], dtype=torch.float64) - 1
        even = torch.linspace(float(guidance[0]), float(guidance[-1]), count, dtype=torch.float64)
        if float(guidance[-1]) > TOLERANCE and float((guidance - even).abs().max()) <= 10 * TOLERANCE:
            first = round_number(float(guidance[0] / guidance[-1]), TOLERANCE)
            return fits[-1].weights, GuidedChange(GuideFrames(first), branch)
    return None
