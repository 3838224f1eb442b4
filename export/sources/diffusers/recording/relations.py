"""The relations between a pipeline's scheduler and its denoiser, found in recordings by least squares.

    input = x, with further channels or tokens before or after it
    time = alpha t + beta
    model_output = sign (w_1 o_1 + ... + w_k o_k), where o_j are the outputs of the branches and the weights sum to 1

Whatever a pipeline does besides is refused, with a line that names it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.export.sources.diffusers.recording.record import CallRecord, NetworkCall, SchedulerStep
from fewstep.export.sources.diffusers.recording.stand_ins import recording_error

TOLERANCE = 1e-5  # of a relation, relative to the largest value


@dataclass(frozen=True)
class Place:
    """The part of a tensor that is x: `start` to `stop` along `axis` of one sample, or all of it (axis None)."""

    axis: int | None = None
    start: int = 0
    stop: int = 0

    def select(self, tensor: Tensor) -> Tensor:
        """Return the part of [rows, ...]."""
        return tensor if self.axis is None else tensor.narrow(1 + self.axis, self.start, self.stop - self.start)

    def others(self, tensor: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the parts before and after, or None if there are none."""
        if self.axis is None:
            return None
        length, axis = tensor.shape[1 + self.axis], 1 + self.axis
        return tensor.narrow(axis, 0, self.start), tensor.narrow(axis, self.stop, length - self.stop)


@dataclass(frozen=True)
class Relations:
    """What a pipeline does at each step.

    component: the network that it calls.
    x: path of the argument with x, and where x is in it. output: where the prediction is in the network's output.
    times: the arguments with the time, each alpha t + beta: path -> (alpha, beta).
    branches: rows of x that the network gets per sample, over all calls of a step.
    weights: of each branch, by step. They sum to 1. The pipeline multiplies the sum by `sign`.
    """

    component: str
    x: str
    x_place: Place
    output_place: Place
    times: Mapping[str, tuple[float, float]]
    branches: int
    weights: tuple[tuple[float, ...], ...]
    sign: int


def find_relations(name: str, base: CallRecord, reseeded: CallRecord) -> Relations:
    """Find the relations in two recordings of a pipeline that differ in their seed only. Raises UserError for a
    pipeline that does not have this form."""
    component = _one_component(name, (base, reseeded))
    check_steps(name, base)
    x, by_step = _find_moving_arguments(name, base, reseeded)
    x_place = _find_x(name, x, base)
    times = {path: _fit_time(name, path, (base, reseeded)) for path in by_step}
    output_place, weights, sign = _fit_outputs(name, base)
    return Relations(component, x, x_place, output_place, times, len(weights[0]), weights, sign)


def check_relations(name: str, found: Relations, record: CallRecord, setting: str) -> tuple[tuple[float, ...], ...]:
    """Check the relations in a recording with other settings. Returns its weights, which guidance may change."""
    check_steps(name, record)
    if _one_component(name, (record,)) != found.component:
        raise recording_error(f"{name} calls another network with another {setting}")
    if _find_x(name, found.x, record) != found.x_place:
        raise recording_error(f"{name} puts x elsewhere in {found.x} with another {setting}")
    for path, line in found.times.items():
        if not np.allclose(_fit_time(name, path, (record,), line), line):
            raise recording_error(f"{name}: {path} is another function of the time with another {setting}")
    place, weights, sign = _fit_outputs(name, record)
    if (place, sign) != (found.output_place, found.sign):
        raise recording_error(f"{name} reads its network's output differently with another {setting}")
    return weights


def check_steps(name: str, record: CallRecord) -> None:
    """Raise UserError if x changes between steps, or if a step calls no network."""
    for number, (step, following) in enumerate(zip(record.steps, record.steps[1:], strict=False), 1):
        if step.result.shape != following.sample.shape or not torch.equal(step.result, following.sample):
            raise recording_error(
                f"{name} changes x after step {number}, by a mask, a slice or noise that its scheduler does not add"
            )
    if not all(step.calls for step in record.steps):
        raise recording_error(f"{name} takes a step of its scheduler without calling its network")


def branch_calls(step: SchedulerStep, x: str) -> Iterator[tuple[NetworkCall, int]]:
    """Yield each branch of a step: the call, and the branch's number in that call. A call has the rows of its first
    branch first."""
    samples = len(step.sample)
    for call in step.calls:
        for branch in range(len(call.leaves[x]) // samples):
            yield call, branch


def select_rows(value: Tensor, branch: int, samples: int) -> Tensor:
    """Return a branch's rows, one for each sample."""
    return value[branch * samples : (branch + 1) * samples]


def is_close(value: Tensor, expected: Tensor) -> bool:
    """Return True if tensors agree within the tolerance."""
    if value.shape != expected.shape:
        return False
    scale = max(1.0, float(expected.abs().max()) if expected.numel() else 1.0)
    return bool((value.double() - expected.double()).abs().max() <= TOLERANCE * scale)


def _one_component(name: str, records: Sequence[CallRecord]) -> str:
    components = {call.component for record in records for step in record.steps for call in step.calls}
    if len(components) != 1:
        raise recording_error(f"{name} calls {len(components)} networks: {', '.join(sorted(components))}")
    return components.pop()


def _find_moving_arguments(name: str, base: CallRecord, reseeded: CallRecord) -> tuple[str, list[str]]:
    """Return the argument that changes with the noise, x, and those that change only with the step, the times."""
    first, other = base.steps[0].calls[0].leaves, reseeded.steps[0].calls[0].leaves
    if set(first) != set(other):
        raise recording_error(f"{name} passes other arguments to its network with another seed")
    moving = [path for path, value in first.items() if not same(value, other[path])]
    if len(moving) != 1:
        listed = ", ".join(moving) or "none"
        raise recording_error(
            f"{name}: arguments of its network that change with the noise should be x alone, but are {listed}"
        )
    by_step = {
        path
        for step in base.steps[1:]
        for call in step.calls
        for path, value in call.leaves.items()
        if path not in moving and not _recurs(path, value, base.steps[0])
    }
    if not isinstance(first[moving[0]], Tensor):
        raise recording_error(f"{name}: x is passed as {type(first[moving[0]]).__name__}")
    return moving[0], sorted(by_step)


def _recurs(path: str, value: Any, step: SchedulerStep) -> bool:
    """Return True if some call of a step had this value."""
    return any(path in call.leaves and same(value, call.leaves[path]) for call in step.calls)


def same(value: Any, other: Any) -> bool:
    """Return True if two arguments are equal, as tensors or as other values."""
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return value.shape == other.shape and value.dtype == other.dtype and torch.equal(value, other)
    return type(value) is type(other) and bool(value == other)


def _find_x(name: str, path: str, record: CallRecord) -> Place:
    """Return where x is in the network's input. Raises UserError if it is there at no place, or at several."""
    places: set[Place] = set()
    for step in record.steps:
        samples = len(step.sample)
        for call, branch in branch_calls(step, path):
            rows = select_rows(call.leaves[path], branch, samples)
            place = _locate(step.sample, rows)
            if place is None:
                raise recording_error(
                    f"{name}: its network's input {path} is no multiple of x, or x is not a part of it"
                )
            places.add(place)
    if len(places) != 1:
        raise recording_error(f"{name}: x is at {len(places)} places of the network's input {path}")
    return places.pop()


def _locate(x: Tensor, rows: Tensor) -> Place | None:
    """Return the place of a multiple of x in rows of the same batch."""
    for place in _possible_places(tuple(rows.shape[1:]), tuple(x.shape[1:])):
        part = place.select(rows)
        factor = float((part.double() * x.double()).sum() / (x.double() ** 2).sum())
        if factor != 0 and is_close(part, factor * x):
            return place
    return None


def _possible_places(shape: tuple[int, ...], x_shape: tuple[int, ...]) -> list[Place]:
    """Return the places where a tensor of one shape can be a part of a tensor of another: first, then last."""
    if shape == x_shape:
        return [Place()]
    if len(shape) != len(x_shape):
        return []
    longer = [axis for axis in range(len(shape)) if shape[axis] != x_shape[axis]]
    if len(longer) != 1 or shape[longer[0]] < x_shape[longer[0]]:
        return []
    axis, size, length = longer[0], x_shape[longer[0]], shape[longer[0]]
    return [Place(axis, 0, size), Place(axis, length - size, length)]


def _fit_time(
    name: str, path: str, records: Sequence[CallRecord], expected: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Return alpha and beta of the network's time. Raises UserError if it is no such function of the scheduler's."""
    pairs: list[tuple[float, float]] = []
    for record in records:
        for step in record.steps:
            for call in step.calls:
                if not isinstance(call.leaves[path], Tensor | float | int):
                    raise recording_error(f"{name}: {path} changes with the step, and is no number")
                value = torch.as_tensor(call.leaves[path]).double().flatten()
                if not torch.equal(value, value[:1].expand_as(value)):
                    raise recording_error(f"{name}: {path} has another time for some positions")
                pairs.append((step.time, float(value[0])))
    times, values = np.array(pairs).T
    if expected is None or len(set(times)) > 1:
        if len(set(times)) < 2:
            raise recording_error(f"{name} takes {len(records[0].steps)} step, from which no relation of times follows")
        columns = np.stack([times, np.ones_like(times)], axis=1)
        (alpha, beta), *_ = np.linalg.lstsq(columns, values, rcond=None)
        alpha, beta = _round(alpha), _round(beta)
        if abs(beta) <= 1e-6 * np.abs(values).max():  # rounding
            beta = 0.0
    else:
        alpha, beta = expected
    if np.abs(alpha * times + beta - values).max() > TOLERANCE * max(1.0, np.abs(values).max()):
        raise recording_error(f"{name}: its network's {path} is no linear function of the scheduler's time")
    return alpha, beta


def _round(number: float) -> float:
    """Return the nearest number of few digits if it is within rounding of float32, such as 0.001."""
    short = float(f"{number:.4g}")
    return short if abs(short - number) <= 1e-6 * max(abs(number), 1e-3) else float(number)


def _fit_outputs(name: str, record: CallRecord) -> tuple[Place, tuple[tuple[float, ...], ...], int]:
    """Return where the prediction is in the outputs, the weights of the branches by step, and the sign."""
    places, weights, signs = set(), [], set()
    for step in record.steps:
        place, own = _fit_step(name, step)
        total = sum(own)
        sign = 1 if total > 0 else -1
        if abs(abs(total) - 1) > 10 * TOLERANCE:
            raise recording_error(f"{name}: the weights of its network's outputs sum to {total:.4g}, not to 1")
        places.add(place)
        signs.add(sign)
        weights.append(tuple(_round(sign * each) for each in own))
    if len(places) != 1 or len(signs) != 1 or len({len(each) for each in weights}) != 1:
        raise recording_error(f"{name} combines its network's outputs differently at different steps")
    return places.pop(), tuple(weights), signs.pop()


def _fit_step(name: str, step: SchedulerStep) -> tuple[Place, list[float]]:
    """Return the weights of one step by least squares. Raises UserError if the combination is not linear."""
    samples = len(step.sample)
    outputs = [
        select_rows(call.output, branch, samples)
        for call in step.calls
        for branch in range(len(call.output) // samples)
    ]
    target = step.model_output.double().flatten()
    residual = float("inf")
    for place in _possible_places(tuple(outputs[0].shape[1:]), tuple(step.model_output.shape[1:])):
        columns = torch.stack([place.select(each).double().flatten() for each in outputs], dim=1)
        x = step.sample.double().flatten()[:, None]
        if len(x) != len(columns):
            raise recording_error(
                f"{name}: its scheduler gets {tuple(step.model_output.shape)} for x {tuple(step.sample.shape)}"
            )
        solution = torch.linalg.lstsq(torch.cat([columns, x], dim=1), target[:, None]).solution.squeeze(1)
        found = float((torch.cat([columns, x], dim=1) @ solution - target).abs().max() / target.abs().max())
        residual = min(residual, found)
        if found <= TOLERANCE and abs(solution[-1]) <= TOLERANCE:
            return place, solution[:-1].tolist()
        if found <= TOLERANCE:
            raise recording_error(f"{name} adds {float(solution[-1]):.4g} x to its network's output")
    if residual == float("inf"):
        shapes = f"{tuple(outputs[0].shape)} into {tuple(step.model_output.shape)}"
        raise recording_error(f"{name} changes the shape of its network's output, {shapes}, before the step")
    raise recording_error(
        f"{name} combines its network's outputs by no fixed weights, such as by a rescaled norm, or guides only some "
        f"channels (residual {residual:.1g})"
    )
