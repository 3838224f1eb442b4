"""The relations between a pipeline's scheduler and its denoiser, found in recordings by least squares.

    input = x, of a recording that is rewritten by its `NetworkForm`
    time = alpha t + beta

`combination.py` finds how the network's outputs are combined.

Anything else that a pipeline does is refused, with a line that names it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall, SchedulerStep, is_of_second, select_rows
from fewstep.pipelines.recording.element_map import is_multiple
from fewstep.pipelines.recording.form import REST
from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.pipelines.relations.combination import Combination, find_combination
from fewstep.pipelines.relations.held_part import find_held_part
from fewstep.pipelines.relations.time_fit import TimeFit, fit_time, fit_times


@dataclass(frozen=True)
class Relations:
    """What a pipeline does at each step.

    component: the network that it calls.
    x: the path of the argument with x.
    times: the arguments with the time, each alpha t + beta: path -> (alpha, beta).
    combination: the combination of the network's outputs.
    still_times: for arguments with a time for each position of one sample, the times of positions that do not change,
        such as those of a given first frame, and NaN for the others.
    seconds: the arguments of `times` that are functions of the time at which a step ends.
    second_axes: the arguments that have rows along their second axis, such as states of an encoder stacked by layer.
    drawn: the arguments to which the pipeline adds noise once in a call, such as the picture's embedding of unCLIP.
    """

    component: str
    x: str
    times: Mapping[str, tuple[float, float]]
    combination: Combination
    second_axes: frozenset[str] = frozenset()
    still_times: Mapping[str, Tensor] = field(default_factory=dict)
    seconds: frozenset[str] = frozenset()
    drawn: frozenset[str] = frozenset()

    @property
    def branches(self) -> int:
        """The rows of x that the network gets per sample, over all calls of a step."""
        return len(self.combination.weights[0])


def find_relations(name: str, base: CallRecord, reseeded: CallRecord) -> Relations:
    """Find the relations in two recordings of a pipeline that differ in their seed only. Raises UserError for a
    pipeline that does not have this form."""
    component = _one_component(name, (base, reseeded))
    check_steps(name, base)
    x, by_step, drawn = _find_moving_arguments(name, base, reseeded)
    _check_x(name, x, base)
    _check_drawn(name, drawn, base)
    fits, seconds = fit_times(name, by_step, (base, reseeded))
    times = {path: fit.line for path, fit in fits.items()}
    still = {path: fit.still for path, fit in fits.items() if fit.still is not None}
    for record in (base, reseeded):
        _check_arguments(name, (x, *times), record)
    combination = find_combination(name, base, reseeded)
    return Relations(component, x, times, combination, still_times=still, seconds=frozenset(seconds), drawn=drawn)


def check_relations(name: str, found: Relations, record: CallRecord, setting: str) -> tuple[tuple[float, ...], ...]:
    """Check the relations in a recording with other settings. Returns its weights, which guidance may change."""
    check_steps(name, record)
    if _one_component(name, (record,)) != found.component:
        raise recording_error(f"{name} calls a different network when the {setting} changes")
    _check_x(name, found.x, record)
    for path, line in found.times.items():
        expected = TimeFit(line, found.still_times.get(path))
        if not fit_time(name, path, (record,), expected, path in found.seconds).agrees(line):
            raise recording_error(f"{name}: {path} is a different function of the time when the {setting} changes")
    _check_arguments(name, (found.x, *found.times), record)
    own = find_combination(name, record, known=found.combination.change)
    if not found.combination.agrees(own):
        raise recording_error(f"{name} reads its network's output differently when the {setting} changes")
    return own.weights


def check_steps(name: str, record: CallRecord) -> None:
    """Raise UserError if x changes between steps, except in a held part, if a step calls no network, or if a step
    changes or a network returns several tensors."""
    find_held_part(name, record)
    if not all(step.calls for step in record.steps):
        raise recording_error(f"{name} takes a step of its scheduler without calling its network")
    if (joined := record.steps[0].joined) > 1:
        raise recording_error(f"{name} steps {joined} tensors, but its network does not get their elements unchanged")
    call = record.steps[0].calls[0]
    if call.is_list:
        raise recording_error(f"the network {call.component} of {name} returns a list of tensors, one for each sample")
    if call.more:
        raise recording_error(f"the network {call.component} of {name} returns {1 + len(call.more)} tensors")


def gets_x(record: CallRecord) -> bool:
    """Return True if the network gets x as one of its arguments, and returns a single tensor."""
    step = record.steps[0]
    if step.joined > 1 or not step.calls or step.calls[0].more or step.calls[0].is_list:
        return False
    rows = (tensor for tensor in step.calls[0].leaves.values() if isinstance(tensor, Tensor) and tensor.dim() > 1)
    return any(_is_x(select_rows(tensor, 0, len(step.sample)), step.sample) for tensor in rows)


def _check_arguments(name: str, moving: Sequence[str], record: CallRecord) -> None:
    """Raise UserError unless each network call of a step gets the same arguments as the corresponding call of the first
    step, except `moving`: x and the times, which may differ."""
    first, count = record.steps[0].calls, len(record.steps)
    for number, step in enumerate(record.steps[1:], 2):
        if len(step.calls) != len(first):
            raise recording_error(f"{name} calls its network {len(step.calls)} times in step {number} of {count}")
        for call, expected in zip(step.calls, first, strict=True):
            own, others = call.leaves, expected.leaves
            for path in sorted((own.keys() | others.keys()) - set(moving)):
                if path not in own or path not in others or not same(own[path], others[path]):
                    raise recording_error(f"{name} changes {_describe(path)} in step {number} of {count}")


def _describe(path: str) -> str:
    """Describe a network argument in a message."""
    rest = next((path.partition(prefix)[2][:-2] for prefix in REST if prefix in path), None)
    return f"the network's argument {path}" if rest is None else f"the part of {rest} that is not x"


def branch_calls(step: SchedulerStep, x: str) -> Iterator[tuple[NetworkCall, int]]:
    """Yield each branch of a step as (call, number of the branch within that call). The first rows of a call are those
    of its first branch."""
    samples = len(step.sample)
    for call in step.calls:
        for branch in range(len(call.leaves[x]) // samples):
            yield call, branch


def _one_component(name: str, records: Sequence[CallRecord]) -> str:
    components = {call.component for record in records for step in record.steps for call in step.calls}
    if len(components) != 1:
        raise recording_error(f"{name} calls {len(components)} networks: {', '.join(sorted(components))}")
    return components.pop()


def _find_moving_arguments(name: str, base: CallRecord, reseeded: CallRecord) -> tuple[str, list[str], frozenset[str]]:
    """Return the path of the network argument that changes with the noise (x), the paths of those that change only with
    the step (the times), and of those that change with the noise, but not with the step."""
    first, other = base.steps[0].calls[0].leaves, reseeded.steps[0].calls[0].leaves
    if set(first) != set(other):
        raise recording_error(f"{name} passes different arguments to its network with another seed")
    moving = [path for path, value in first.items() if not same(value, other[path]) and not may_be_encoded(path)]
    changing = {
        path
        for step in base.steps[1:]
        for call in step.calls
        for path, value in call.leaves.items()
        if not is_part(path) and not _recurs(path, value, base.steps[0])
    }
    drawn = frozenset(moving) - changing
    if len(moving) > 1:
        moving = [path for path in moving if path in changing]
    if len(moving) != 1:
        listed = ", ".join(moving) or "none"
        raise recording_error(
            f"{name}: arguments of its network that change with the noise should be x alone, but are {listed}"
        )
    if not isinstance(first[moving[0]], Tensor):
        raise recording_error(f"{name}: x is passed as {type(first[moving[0]]).__name__}")
    (x,) = moving
    return x, sorted(changing - {x}), drawn - {x}


def is_part(path: str) -> bool:
    """Return True for the path of other elements of a network argument with x, such as channels with an encoded
    image."""
    return any(prefix in path for prefix in REST)


def may_be_encoded(path: str) -> bool:
    """Return True for the path of an argument that may be an encoded picture, which has noise of its own in each
    recording. It does not contain x: what a second network shares with the denoiser is an argument of that one."""
    return is_part(path) or is_of_second(path)


def _recurs(path: str, value: Any, step: SchedulerStep) -> bool:
    """Return True if some call of a step had this value at this path."""
    return any(path in call.leaves and same(value, call.leaves[path]) for call in step.calls)


def same(value: Any, other: Any) -> bool:
    """Return True if two arguments are equal, as tensors or as other values."""
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return value.shape == other.shape and value.dtype == other.dtype and torch.equal(value, other)
    return type(value) is type(other) and bool(value == other)


def _check_x(name: str, path: str, record: CallRecord) -> None:
    """Raise UserError unless the network's input at `path` is a multiple of x in each branch of each step."""
    for step in record.steps:
        for call, branch in branch_calls(step, path):
            if not _is_x(select_rows(call.leaves[path], branch, len(step.sample)), step.sample):
                raise recording_error(
                    f"{name}: its network's input {path} is not a multiple of x, or x is not a part of it"
                )


def _check_drawn(name: str, drawn: Collection[str], record: CallRecord) -> None:
    """Raise UserError for an argument that is a multiple of the first x: as a condition, it would be another draw than
    that of a run."""
    first = record.steps[0]
    leaves = {path: first.calls[0].leaves[path] for path in sorted(drawn)}
    for path, value in leaves.items():
        if isinstance(value, Tensor) and _is_x(select_rows(value, 0, len(first.sample)), first.sample):
            raise recording_error(f"{name} passes its first x to its network in each step, as {path}")


def _is_x(rows: Tensor, x: Tensor) -> bool:
    return rows.shape == x.shape and is_multiple(rows.flatten()[None], x.flatten()[None])
